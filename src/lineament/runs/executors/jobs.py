"""The pool that the options name, open for as long as jobs run on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lineament.problems.problem import Problem
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.executors.processes import ProcessPool
from lineament.runs.executors.serial import SerialPool
from lineament.settings.settings import Settings


@contextmanager
def open_pool(options: ExecutorOptions, out: Path, settings: Settings, ready: Problem | None = None) -> Iterator[Pool]:
    """Open a pool that is closed, with all its workers, when the block ends; nothing is written before a task starts.

    Args:
        out: the folder that all run folders are, or lie in.
        settings: whose threads and device workers are made for.
        ready: the problem of the first job, when it was made already to check the input (serial only).

    Raises:
        InputError: the executor cannot be had (Ray is missing, no cluster answers, ...).
    """
    pool = _make(options, out, settings, ready)
    try:
        yield pool
    finally:
        pool.close()


def _make(options: ExecutorOptions, out: Path, settings: Settings, ready: Problem | None) -> Pool:
    if options.executor == "serial":
        return SerialPool(ready)
    if options.executor == "processes":
        return ProcessPool(options.n_workers)
    from lineament.runs.executors.ray_pool import RayPool  # Ray takes a second to import

    return RayPool(options, out, settings)
