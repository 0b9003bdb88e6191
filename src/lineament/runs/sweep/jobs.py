"""The jobs of a sweep: every cell with every seed, those that share an operating point knowing so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lineament.runs.executors.tasks import Job, operating_key, trains_operating_point
from lineament.runs.job import seeds_of
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Cell


def jobs_of(folder: SweepFolder, cells: Sequence[Cell]) -> list[Job]:
    """List all jobs, seed by seed: a sweep that is ended early has whole grids of fewer seeds."""
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
