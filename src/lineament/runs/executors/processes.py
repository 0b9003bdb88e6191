"""Tasks in local processes: a worker per slot, each with a pipe of its own, so that a death touches nobody else."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from lineament.runs.environment import environment
from lineament.runs.executors.pool import TaskProgress, seldom, unseen
from lineament.runs.executors.tasks import Outcome, Task, attempt

SECONDS_TO_END = 5.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None


class ProcessPool:
    """Up to `workers` processes, started when first needed and kept for further tasks.

    No worker outlives the pool, nor this process if it is killed: the next run may write the same folder at once.
    """

    def __init__(self, workers: int) -> None:
        self.size = workers
        self.progress: TaskProgress = unseen
        self.workers: list[_Worker] = []

    def free(self) -> int:
        """Count the slots without a task."""
        return self.size - sum(worker.task is not None for worker in self.workers)

    def start(self, task: Task) -> None:
        """Give the task to an idle worker, or to a new one."""
        idle = next((worker for worker in self.workers if worker.task is None), None)
        worker = idle or self._new()
        worker.task = task
        self.progress(task, "starting", 0, 1)  # its time runs from here, whatever the worker is stuck in
        try:
            worker.pipe.send(task)
        except OSError:
            return  # it died idle; its sentinel says so when outcomes are asked for

    def outcomes(self, timeout_s: float) -> Sequence[Outcome]:
        """Read every pipe that has something, then see who has died."""
        sources: list[Any] = [worker.pipe for worker in self.workers]
        wait([*sources, *(worker.process.sentinel for worker in self.workers)], timeout_s)
        return [outcome for worker in list(self.workers) for outcome in self._read(worker)]

    def stop(self, task: Task) -> None:
        """Kill the worker; the slot is free at once."""
        worker = next(worker for worker in self.workers if worker.task == task)
        self.workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    def close(self) -> None:
        """End all workers, those that do not go when asked by force."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(SECONDS_TO_END)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self.workers.clear()

    def _new(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        own, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        # it makes no threads for all cores as it imports; a task then takes as many as it says
        with _interrupts_held(), environment("OMP_NUM_THREADS", "1"):
            process.start()
        theirs.close()  # so that the end of the worker is the end of the pipe
        self.workers.append(_Worker(process, own))
        return self.workers[-1]

    def _read(self, worker: _Worker) -> Iterator[Outcome]:
        dead = worker.process.exitcode is not None  # asked first: what a dead worker sent is then all there
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Outcome):
                    worker.task = None
                    yield message
                elif worker.task is not None:
                    self.progress(worker.task, *message)
        except (EOFError, OSError):
            worker.process.join(SECONDS_TO_END)
            dead = True
        if dead:
            yield from self._bury(worker)

    def _bury(self, worker: _Worker) -> Iterator[Outcome]:
        self.workers.remove(worker)
        worker.pipe.close()
        if worker.task is not None:
            yield Outcome(worker.task, f"the worker process died ({_how(worker.process.exitcode)})", again=True)


def _how(code: int | None) -> str:
    """Put an exit code into words; the kernel kills with SIGKILL when memory runs out."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}; perhaps out of memory" if -code == signal.SIGKILL else name


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let an interrupt wait until the block ends; processes started inside never get one.

    A terminal sends Ctrl-C to workers too, where it would be a traceback each: they are ended by this process instead.
    """
    resource_tracker.ensure_running()  # which the first start does otherwise, and then lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection) -> None:
    """Work until told to stop: take a task, carry it out, say how it ended."""
    Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(task, seldom(lambda *step: pipe.send(step))))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
