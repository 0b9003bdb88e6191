"""The jobs of a sweep: every cell with every seed, those that share an operating point knowing so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from lineament.executors.tasks import Job, is_finished, operating_key, trains_operating_point
from lineament.experiment import seeds_of
from lineament.records import read_json
from lineament.run_folder import RunFolder
from lineament.sweep.folder import SweepFolder
from lineament.sweep.grid import Cell


def jobs_of(folder: SweepFolder, cells: Sequence[Cell]) -> list[Job]:
    """All jobs, seed by seed: a sweep that is ended early has whole grids of fewer seeds."""
    keys = [operating_key(cell.settings) if trains_operating_point(cell.settings) else None for cell in cells]
    counts = Counter(keys)
    shared = [key if key and counts[key] > 1 else None for key in keys]
    return [
        Job(
            cell.settings,
            seed,
            folder.run(cell).path,
            f"{cell.name}, seed {seed}",
            folder.shared / f"operating-{key}-seed{seed}.safetensors" if key else None,
        )
        for seed in (seeds_of(cells[0].settings) if cells else ())
        for cell, key in zip(cells, shared, strict=True)
    ]


@dataclass(frozen=True)
class Standing:
    """How far a sweep is.

    Attributes:
        missing: jobs whose records are not all there.
        unnoted: finished jobs of a driver that was killed before it noted so.
        n_failed: those among them that were given up before.
        seconds_per_job: median over the jobs that have finished; None while none has.
    """

    missing: list[Job]
    unnoted: list[Job]
    n_failed: int
    seconds_per_job: float | None


def standing(jobs: Sequence[Job]) -> Standing:
    """What is on disk of these jobs."""
    missing, done = list[Job](), list[Job]()
    for job in jobs:
        (done if is_finished(job) else missing).append(job)
    states = {run: _states(RunFolder(run)) for run in {job.run for job in jobs}}
    failed = sum(states[job.run].get(job.name, {}).get("status") == "failed" for job in missing)
    # 0 s: an earlier sweep was ended after the records were written and before that was noted
    seconds = [s for jobs in states.values() for state in jobs.values() if (s := state.get("seconds", 0)) > 0]
    unnoted = [job for job in done if states[job.run].get(job.name, {}).get("status") != "done"]
    return Standing(missing, unnoted, failed, median(seconds) if seconds else None)


def _states(folder: RunFolder) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_json(folder.state)["jobs"] if folder.state.exists() else {}
    return found
