# %% [markdown]
# # A task of your own, registered at run time
#
# A synthetic task is a function from digits (n_examples, length) to answers of the same shape. One line in `TASKS`
# makes it known to settings, command line, damage, recovery and measurements. Register it before importing
# `lineament.problems.synthetic`, because the vocabulary has one token per registered task.

# %%
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from lineament import evaluate_claims, load_records
from lineament.problems.synthetic_tasks import TASKS, SyntheticTask
from lineament.runs.folder import RunFolder
from lineament.settings.presets import resolve


def running_minimum(x: np.ndarray) -> np.ndarray:
    """The smallest digit so far."""
    return np.minimum.accumulate(x, axis=1)


TASKS["minimum"] = SyntheticTask(running_minimum)

# %% [markdown]
# Small settings let training, damage and recovery finish in seconds. They are too small to give numbers worth quoting.

# %%
from lineament.runs.job import run_job, validate  # noqa: E402  imports lineament.problems.synthetic

SMALL = {
    "task.names": ["copy", "increment", "minimum"],
    "task.targets": ["minimum"],
    "task.evaluation_examples": 64,
    "model.width": 32,
    "model.layers": 1,
    "model.length": 4,
    "training.steps": 300,
    "training.batch": 96,
    "operating.steps": 30,
    "recovery.steps": 60,
    "recovery.lr": 2e-3,
    "measure": ["gradient_rank"],
    "measurement.ranks": [1, 2, 5],
    "measurement.headline_rank": 5,
}
settings = resolve("synthetic", "quick", [("this example", SMALL)])
validate(settings)

# %%
with tempfile.TemporaryDirectory() as temporary:
    run_job(settings, settings.seed, Path(temporary))
    records = load_records(RunFolder(Path(temporary)).records)
    claims = evaluate_claims(records, settings.measurement.headline_rank)

record = records[0]
for labels in ("true", "shuffled"):
    which = {"point": "broken", "gradients": "minibatch", "n": 64, "centred": "False", "unit_norm": "False"}
    k90 = record.value("k90", labels=labels, **which)
    print(f"{record.target}: {k90:.0f} of 64 directions hold 90 % of the minibatch gradients, {labels} labels")
for claim in claims:
    print(f"{claim.id} on {claim.task}: {claim.measured:.2f}, {claim.verdict} ({claim.reason})")

# %%
sizes = sorted({quantity.labels["n"] for quantity in record.quantities if quantity.name == "k90"})
figure = go.Figure()
for labels in ("true", "shuffled"):
    where = {"point": "broken", "gradients": "minibatch", "centred": "False", "unit_norm": "False", "labels": labels}
    figure.add_scatter(x=sizes, y=[record.value("k90", n=n, **where) for n in sizes], name=f"{labels} labels")
figure.update_xaxes(title="n gradients")
figure.update_yaxes(title="directions that hold 90 % of them")
figure.update_layout(template="plotly_white", title="In how many directions gradients of the new task lie")
