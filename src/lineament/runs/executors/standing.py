"""How far jobs are, from their run folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.job import is_finished


@dataclass(frozen=True)
class Standing:
    """How far jobs are.

    Attributes:
        missing: jobs whose records are not all there.
        unnoted: finished jobs of a driver that was killed before it noted so.
        seconds_per_job: median over the jobs that have finished; None while none has.
    """

    missing: list[Job]
    unnoted: list[Job]
    seconds_per_job: float | None


def standing(jobs: Sequence[Job]) -> Standing:
    """Find out how far these jobs are from what is on disk."""
    missing, done = list[Job](), list[Job]()
    for job in jobs:
        (done if is_finished(job.settings, job.seed, job.run) else missing).append(job)
    states = {run: _states(RunFolder(run)) for run in {job.run for job in jobs}}
    # 0 s: an earlier driver was ended after the records were written and before that was noted
    seconds = [s for jobs in states.values() for state in jobs.values() if (s := state.get("seconds", 0)) > 0]
    unnoted = [job for job in done if states[job.run].get(job.name, {}).get("status") != "done"]
    return Standing(missing, unnoted, median(seconds) if seconds else None)


def _states(folder: RunFolder) -> dict[str, dict[str, Any]]:
    return folder.jobs()
