"""The one loop that every executor shares: start tasks, follow them, try lost ones again, keep the run's state."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.executors.progress import ALL_JOBS, ENDED, JobProgress
from lineament.runs.executors.tasks import Job, Outcome, Preparation, Task

POLL_S = 0.3
T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Failure:
    """A task that was given up, and what to tell the user."""

    task: Task
    message: str


@dataclass
class _Running:
    task: Task
    began: float | None = None


def nothing(task: Task) -> None:
    """Do nothing: the default of a hook."""


def settle_finished(jobs: Iterable[Job], after: Callable[[Job], None] = nothing) -> None:
    """Note jobs as done that finished without their driver noting so, since it was killed in between."""
    for job in jobs:
        job.note("done")
        after(job)


class Driver(Generic[T]):
    """Carries jobs out on a pool; what a job makes is in its run folder, and only that is kept.

    Args:
        before: called in this process before a job is started.
        after: called in this process when a job has finished.
    """

    def __init__(
        self,
        jobs: Collection[T],
        options: ExecutorOptions,
        progress: JobProgress,
        before: Callable[[T], None] = nothing,
        after: Callable[[T], None] = nothing,
    ) -> None:
        self.options, self.show, self.before, self.after = options, progress, before, after
        # In the order given; those that can be started now; operating points to be made, which come first.
        self.queue, self.ready, self.points = deque[Task](jobs), deque[Task](), deque[Task]()
        self.n_jobs, self.n_ended = len(jobs), 0
        self.running: dict[Path, _Running] = {}
        self.attempts: dict[Path, int] = {}
        # Jobs that wait for an operating point that is being made, and why one could not be made.
        self.parked: dict[Path, list[Task]] = {}
        self.broken: dict[Path, tuple[str, str | None]] = {}
        self.failures: list[Failure] = []

    def progress(self, task: Task, what: str, done: int, total: int) -> None:
        """Take a pool's report on a task; the task's time runs from its first report."""
        if (running := self.running.get(task.key)) is not None:
            running.began = running.began or time.monotonic()
            self.show(task.label, what, done, total)

    def run(self, pool: Pool) -> list[Failure]:
        """Carry out every job; returns those that were given up."""
        pool.progress = self.progress
        self._count(0)
        while True:
            while pool.free() > 0 and (task := self._next(pool.free() + len(self.running))) is not None:
                self._start(pool, task)
            if not self.running:
                return self.failures
            for outcome in pool.outcomes(POLL_S):
                self._settle(outcome)
            for late in list(self._late()):
                pool.stop(late)
                limit = self.options.time_limit_s or 0.0
                message = f"it ran longer than its limit of {limit / 60:g} min; raise --time-limit"
                self._settle(Outcome(late, message, again=True))

    def _next(self, size: int) -> Task | None:
        """Return the next task that can be started: the making of an operating point before any job.

        Jobs wait for operating points, so these are begun while there is other work: when fewer than two jobs per
        worker can be started, and no more of them at a time than workers.
        """
        while self.queue and len(self.ready) < 2 * size and len(self.parked) < size:
            self._sort_out(self.queue.popleft())
        if self.points:
            return self.points.popleft()
        return self.ready.popleft() if self.ready else None

    def _sort_out(self, task: Task) -> None:
        if task.needs is None or task.needs.exists():
            self.ready.append(task)
        elif task.needs in self.broken:
            message, details = self.broken[task.needs]
            self.broken[task.needs] = (message, None)  # one log has the traceback, not every one
            self._give_up(task, f"its operating point could not be made: {message}", details)
        elif task.needs in self.parked:
            self.parked[task.needs].append(task)
        else:
            self.parked[task.needs] = [task]
            label = f"operating point, seed {task.seed}"
            self.points.append(Preparation(task.settings, task.seed, task.needs, label))

    def _start(self, pool: Pool, task: Task) -> None:
        self.attempts[task.key] = self.attempts.get(task.key, 0) + 1
        self.running[task.key] = _Running(task)
        if not isinstance(task, Preparation):
            self.before(cast(T, task))
        task.note("running")
        pool.start(task)

    def _late(self) -> Iterator[Task]:
        limit = self.options.time_limit_s
        if limit is not None:
            now = time.monotonic()
            yield from (r.task for r in self.running.values() if r.began is not None and now - r.began > limit)

    def _settle(self, outcome: Outcome) -> None:
        task = outcome.task
        ran = self.running.pop(task.key, None)
        if ran is None:
            return  # of an attempt that was stopped meanwhile
        self.show(task.label, ENDED, 1, 1)
        if outcome.failure is None:
            self._finish(task, time.monotonic() - ran.began if ran.began else 0.0)
        elif outcome.again and self.attempts[task.key] <= self.options.retries:
            task.note("planned", f"attempt {self.attempts[task.key]} ended: {outcome.failure}", outcome.details)
            (self.points if isinstance(task, Preparation) else self.ready).append(task)
        else:
            n = self.attempts.pop(task.key)
            words = f"{outcome.failure}{' (its log has the traceback)' if outcome.details else ''}"
            self._fail(task, f"{words} (attempt {n} of {n})" if n > 1 else words, outcome.details)

    def _finish(self, task: Task, seconds: float) -> None:
        attempts = self.attempts.pop(task.key)
        if isinstance(task, Preparation):
            self._release(task.key)
            return
        task.note("done", seconds=round(seconds, 1), attempts=attempts)
        self._count(1)
        self.after(cast(T, task))

    def _fail(self, task: Task, message: str, details: str | None) -> None:
        if isinstance(task, Preparation):
            self.broken[task.key] = (message, details)
            self._release(task.key)
        else:
            self._give_up(task, message, details)

    def _give_up(self, task: Task, message: str, details: str | None = None) -> None:
        self.before(cast(T, task))
        task.note("failed", message, details)
        self.failures.append(Failure(task, message))
        self._count(1)

    def _release(self, file: Path) -> None:
        """Sort out the jobs that waited for an operating point, whether it is there now or cannot be made."""
        for task in self.parked.pop(file, []):
            self._sort_out(task)

    def _count(self, more: int) -> None:
        self.n_ended += more
        if self.n_jobs > 1:
            failed = f", {len(self.failures)} failed" if self.failures else ""
            self.show(ALL_JOBS, f"jobs ended{failed}", self.n_ended, self.n_jobs)
