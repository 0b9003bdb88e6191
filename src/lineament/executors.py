"""Running jobs: the same jobs in, the same records out, serially or in local processes."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from lineament.errors import LineamentError
from lineament.experiment import run_job
from lineament.problems.problem import Problem
from lineament.run_folder import RunFolder
from lineament.settings import Settings

# Called with (seed, what is being done, steps done, steps in all).
JobProgress = Callable[[int, str, int, int], None]


@dataclass(frozen=True)
class Failure:
    """A job that failed: its seed and what to tell the user."""

    seed: int
    message: str


def run_serially(
    settings: Settings,
    seeds: Sequence[int],
    run: Path,
    progress: JobProgress,
    ready: Problem | None = None,
) -> list[Failure]:
    """One job after the other in this process.

    Args:
        ready: the problem of the first seed, when it was made already to check the input.
    """
    folder, failures = RunFolder(run), []
    for number, seed in enumerate(seeds):
        folder.mark(_job(seed), "running")

        def report(what: str, done: int, total: int, seed: int = seed) -> None:
            progress(seed, what, done, total)

        failure = _attempt(settings, seed, run, report, ready if number == 0 else None)
        failures += _settle(folder, seed, failure)
    return failures


def run_in_processes(
    settings: Settings, seeds: Sequence[int], run: Path, progress: JobProgress, workers: int
) -> list[Failure]:
    """Jobs spread over local processes, each with `settings.threads` torch threads."""
    folder = RunFolder(run)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        messages = _queue(manager)
        jobs = {pool.submit(_in_process, settings, seed, run, messages): seed for seed in seeds}
        for seed in seeds:
            folder.mark(_job(seed), "running")
        try:
            return _collect(jobs, messages, folder, progress)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _collect(
    jobs: dict[Future[str | None], int], messages: Any, folder: RunFolder, progress: JobProgress
) -> list[Failure]:
    failures: list[Failure] = []
    pending = set(jobs)
    while pending:
        done, pending = wait(pending, timeout=0.2)
        _drain(messages, progress)
        for future in done:
            error = future.exception()
            message = f"the worker process died: {error}" if error else future.result()
            failures += _settle(folder, jobs[future], message)
    return failures


def _drain(messages: Any, progress: JobProgress) -> None:
    while True:
        try:
            progress(*messages.get_nowait())
        except queue.Empty:
            return


def _queue(manager: SyncManager) -> Any:
    return manager.Queue()


def _in_process(settings: Settings, seed: int, run: Path, messages: Any) -> str | None:
    return _attempt(settings, seed, run, lambda what, done, total: messages.put((seed, what, done, total)), None)


def _attempt(
    settings: Settings, seed: int, run: Path, report: Callable[[str, int, int], None], ready: Problem | None
) -> str | None:
    """The failure's message, or None; a defect keeps its traceback in the log."""
    try:
        run_job(settings, seed, run, report, ready)
    except LineamentError as error:
        return str(error)
    except Exception as error:  # a defect in one job must not lose the other jobs' results
        RunFolder(run).log(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {run / 'log.txt'})"
    return None


def _settle(folder: RunFolder, seed: int, failure: str | None) -> list[Failure]:
    folder.mark(_job(seed), "failed" if failure else "done", failure)
    folder.log(f"{_job(seed)} {'failed: ' + failure if failure else 'done'}")
    return [Failure(seed, failure)] if failure else []


def _job(seed: int) -> str:
    return f"seed{seed}"
