"""What a tracker is given of a finished job, read from its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lineament.claims.registry import evaluate_claims
from lineament.records import Record, record_files
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.settings.plain import flattened, to_dict
from lineament.settings.words import value_words
from lineament.study.horizon import read_curve

CURVES = ("loss", "accuracy")


@dataclass(frozen=True)
class JobLog:
    """One job's part of the run.

    Attributes:
        name: distinct within the run or sweep, with `/` between folders, e.g. `cells/optimizer=sgd/seed3`.
        settings: dotted key -> value as --set takes it.
        claim_values: `claims/ID/TASK` -> the seed's value of the claim.
        curves: `recovery/loss/TASK`, `recovery/accuracy/TASK` -> value at every step, from step 0.
    """

    name: str
    settings: Mapping[str, str]
    claim_values: Mapping[str, float]
    curves: Mapping[str, tuple[float, ...]]


def job_log(job: Job, out: Path) -> JobLog:
    """Return the log of a job whose records are complete.

    Args:
        out: the run or sweep that the job belongs to.
    """
    settings = {key: value_words(value) for key, value in flattened(to_dict(job.settings))}
    settings["seed"] = str(job.seed)
    files = [path for path in record_files(RunFolder(job.run).records) if path.stem.endswith(f"-{job.name}")]
    records = [Record.load(path) for path in files]
    claims = evaluate_claims(records, job.settings.measurement.headline_rank)
    values = {f"claims/{c.id}/{c.task}": c.measured for c in claims if c.measured is not None}
    name = (job.run.relative_to(out) / job.name).as_posix()
    return JobLog(name, settings, values, _curves(job))


def _curves(job: Job) -> dict[str, tuple[float, ...]]:
    curves: dict[str, tuple[float, ...]] = {}
    for target in job.settings.task.targets:
        file = RunFolder(job.run).study_files(target, job.seed).recovery.curve
        if file.exists():  # not where only the operating point was measured, nor where the stage stayed on its node
            curve = read_curve(file)
            curves |= {f"recovery/{name}/{target}": getattr(curve, name) for name in CURVES}
    return curves
