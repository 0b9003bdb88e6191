# %% [markdown]
# # Open a run, and look at what was measured
#
# Whatever `lineament run`, `measure`, `analyze`, `sweep` or `compose` wrote opens with `lineament.open_run`. Here a
# small run is made first, with settings that are much too small for numbers worth quoting.

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import lineament

os.environ.setdefault("OMP_NUM_THREADS", "1")
SMALL = {
    "seeds": 2,
    "task.names": "copy,increment,maximum",
    "task.targets": "copy",
    "task.evaluation_examples": 64,
    "training.steps": 250,
    "training.lr": 8e-3,
    "model.width": 32,
    "model.length": 4,
    "recovery.steps": 60,
    "recovery.threshold": 0.7,
    "measurement.ranks": "1,2,5",
    "measurement.headline_rank": 5,
    "measurement.gradients": 16,
    "measurement.lanczos_steps": 8,
    "measurement.curvature_batch": 16,
    "measurement.task_vector_steps": 3,
    "measurement.inside_steps": 2,
}
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name) / "run"
settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
command = [sys.executable, "-m", "lineament", "run", "synthetic", "--preset", "quick", "--quiet", "--out", str(folder)]
subprocess.run([*command, "--measure", "basis_capture", *settings], check=True, capture_output=True)

# %% [markdown]
# In a notebook `run` alone shows the table of verdicts.

# %%
run = lineament.open_run(folder)
print(run)

# %% [markdown]
# Every claim says what was measured, over which seeds, beside its null and its blind value, and which part of the
# rule decided.

# %%
claim = next(claim for claim in run.claims if claim.id == "prefix_captures")
print(f"{claim.id}: {claim.measured:.2f}, null {claim.null:.2f}, blind {claim.blind:.2f}: {claim.verdict}")
for part in claim.conditions:
    print(" ", part.name, "holds" if part.holds else "is open" if part.holds is None else "does not hold")

# %% [markdown]
# `to_pandas()` has a row for each quantity of each seed; without pandas, records give them too.

# %%
whole = {"rank": 5, "definition": "whole", "at": "T", "space_of": "parameters"}
for record in run.records:
    if record.measurement == "basis_capture":
        prefix, random = (record.value("capture", basis=basis, **whole) for basis in ("prefix", "random"))
        print(f"seed {record.seed}: first 5 updates {prefix:.2f}, 5 random directions {random:.3f}")

# %% [markdown]
# `figures` lists the pictures of the report, and `plot` draws one, with its intervals, controls and blind values.

# %%
print(", ".join(run.figures))
figure = run.plot("capture")
