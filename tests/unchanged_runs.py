"""Two tiny runs with every measurement, and what they gave before files and names of the package changed places.

`python tests/unchanged_runs.py` makes both with the installed package and writes tests/data/unchanged anew. The files
there were made by commit 12a934b. Make them anew only for a deliberate change of what is measured, and say so in the
changelog.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from families import write_data, write_family

from lineament.cli import main

FIXTURES = Path(__file__).parent / "data" / "unchanged"
MEASUREMENTS = "gradient_rank,basis_capture,basis_drift,random_search,steering"
# Each run spells out what makes it small, so that the settings of other tests may change.
BOTH = {
    "threads": "1",
    "measurement.ranks": "1,2",
    "measurement.headline_rank": "2",
    "measurement.curvature_batch": "8",
    "measurement.lanczos_steps": "4",
    "measurement.task_vector_steps": "2",
    "measurement.inside_steps": "2",
    "measurement.inside_batch": "8",
    "measurement.drift_rank": "2",
    "measurement.drift_lags": "2,5,10,20,50,100",
    "measurement.random_draws": "2",
    "search.examples": "8",
    "search.draws": "16",
    "search.theorem_draws": "16",
    "search.density_draws": "16",
    "search.counts": "1,4",
    "search.headline_count": "4",
    "search.costs": "0.25",
    "search.spaces": "full,random,prefix",
    "search.informed": "static_broken,krylov,prefix",
    "search.most_probes": "4",
    "search.lora_ranks": "2",
    "search.widths": "16",
    "steering.examples": "16",
    "steering.step_examples": "8",
    "steering.folds": "4",
    "steering.random_directions": "2",
    "steering.shuffled_steps": "1",
    "steering.sizes": "0.1",
    "steering.doses": "1",
    "steering.depths": "0.5",
    "steering.neutral_examples": "4",
    "steering.effect_directions": "1",
}
# Few steps at small rates: longer training amplifies the rounding of another processor until nothing can be compared.
SYNTHETIC = {
    "task.names": "copy,increment",
    "task.targets": "copy",
    "task.evaluation_examples": "32",
    "training.steps": "40",
    "training.lr": "5e-3",
    "model.width": "16",
    "model.heads": "2",
    "model.length": "3",
    "operating.steps": "20",
    "operating.lr": "5e-3",
    "damage.steps": "4",
    "damage.lr": "1e-2",
    "recovery.steps": "15",
    "recovery.lr": "5e-3",
    "recovery.threshold": "0.8",
    "measurement.gradients": "4",
    "measurement.drift_gradients": "4",
}
LANGUAGE_MODEL = {
    "task.names": "mine",
    "task.evaluation_examples": "16",
    "lora.rank": "4",
    "lora.alpha": "16",
    "operating.steps": "40",
    "operating.lr": "1e-2",
    "operating.batch": "16",
    "damage.steps": "3",
    "damage.lr": "1e-2",
    "damage.batch": "16",
    "recovery.steps": "20",
    "recovery.lr": "2e-3",
    "recovery.threshold": "0.8",
    "recovery.batch": "8",
    "measurement.gradients": "8",
    "measurement.minibatch": "2",
    "measurement.drift_gradients": "4",
}


def run_synthetic(folder: Path) -> dict[str, Any]:
    """Return records and claims of a run of the embedded transformer."""
    return _run(["synthetic"], {**BOTH, **SYNTHETIC}, folder)


def run_language_model(folder: Path) -> dict[str, Any]:
    """Return records and claims of a run of a language model with random weights on a data file."""
    write_family("gpt2", folder / "model")
    write_data(folder / "mine.jsonl")
    return _run(["lm", "--model", "model", "--data", "mine.jsonl"], {**BOTH, **LANGUAGE_MODEL}, folder)


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {"synthetic": run_synthetic, "lm": run_language_model}


def kept(name: str) -> dict[str, Any]:
    """Return the records and claims that were kept of a run."""
    body: dict[str, Any] = json.loads(gzip.decompress((FIXTURES / f"{name}.json.gz").read_bytes()))
    return body


def _run(problem: list[str], keys: dict[str, str], folder: Path) -> dict[str, Any]:
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    options = ["--preset", "quick", "--seeds", "1", "--measure", MEASUREMENTS, "--out", "run", "--quiet"]
    with contextlib.chdir(folder):  # records name the model's path as it was given
        assert main(["run", *problem, *options, *sets]) == 0
    records = sorted((folder / "run" / "records").glob("*.json"))
    return {
        "records": {file.stem: _without_prose(json.loads(file.read_text())) for file in records},
        "claims": json.loads((folder / "run" / "claims.json").read_text())["claims"],
    }


def _without_prose(record: dict[str, Any]) -> dict[str, Any]:
    """Leave out the definitions, which are sentences, and the configuration's hash, which every new key changes."""
    return {key: value for key, value in record.items() if key not in ("definitions", "config_hash")}


def write_fixtures() -> None:
    """Make both runs and write what the test compares with."""
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            body = json.dumps(run(Path(folder)), sort_keys=True).encode()
        (FIXTURES / f"{name}.json.gz").write_bytes(gzip.compress(body, mtime=0))


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_fixtures()
