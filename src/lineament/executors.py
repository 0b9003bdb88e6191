"""Running jobs: the same jobs in, the same records out, serially or in local processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from lineament.errors import LineamentError
from lineament.experiment import run_job
from lineament.problems.problem import Problem
from lineament.run_folder import RunFolder
from lineament.settings import Settings

# Called with (seed, what is being done, steps done, steps in all).
JobProgress = Callable[[int, str, int, int], None]
if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    Messages = Queue[tuple[int, str, int, int]]
# In a worker: where its progress goes.
_messages: Messages | None = None


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
    """Jobs spread over local processes, each with `settings.threads` torch threads.

    No worker outlives this call, nor this process if it is killed: the next run may write the same folder at once.
    """
    folder = RunFolder(run)
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    with ProcessPoolExecutor(workers, context, _start_worker, (messages,)) as pool:
        try:
            with _interrupts_held():
                jobs = {pool.submit(_in_process, settings, seed, run): seed for seed in seeds}
            for seed in seeds:
                folder.mark(_job(seed), "running")
            return _collect(jobs, messages, folder, progress)
        except BaseException:
            _end(pool)
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let an interrupt wait until the block ends; processes started inside never get one.

    A terminal sends Ctrl-C to workers too, where it would be a traceback each: they are ended by this process instead.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pool: ProcessPoolExecutor) -> None:
    # shutdown() forgets the processes, so they are looked up before it
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _collect(
    jobs: dict[Future[str | None], int], messages: Messages, folder: RunFolder, progress: JobProgress
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


def _drain(messages: Messages, progress: JobProgress) -> None:
    while True:
        try:
            progress(*messages.get_nowait())
        except queue.Empty:
            return


def _start_worker(messages: Messages) -> None:
    """Keep where a worker's progress goes, and watch over it: it ends when the process that started it does."""
    global _messages
    _messages = messages
    messages.cancel_join_thread()  # a worker that has finished does not wait for somebody to read its progress
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_process(settings: Settings, seed: int, run: Path) -> str | None:
    assert _messages is not None
    put = _messages.put
    return _attempt(settings, seed, run, lambda what, done, total: put((seed, what, done, total)), None)


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
