"""One task after the other in this process."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.problems.problem import Problem
from lineament.runs.executors.pool import TaskProgress, unseen
from lineament.runs.executors.tasks import Outcome, Task, attempt


class SerialPool:
    """A pool of one that works while it is waited for.

    Args:
        ready: the problem of the first task, when it was made already to check the input.
    """

    def __init__(self, ready: Problem | None = None) -> None:
        self.progress: TaskProgress = unseen
        self.ready = ready
        self.waiting: list[Task] = []

    def free(self) -> int:
        """Return 1, unless a task waits."""
        return 1 - len(self.waiting)

    def start(self, task: Task) -> None:
        """Remember the task; it is carried out when outcomes are asked for."""
        self.waiting.append(task)

    def outcomes(self, timeout_s: float) -> Sequence[Outcome]:
        """Carry the waiting task out; there is nothing to wait for."""
        ready, self.ready = self.ready, None
        done = []
        while self.waiting:
            task = self.waiting.pop()
            done.append(attempt(task, lambda *step, task=task: self.progress(task, *step), ready))
        return done

    def stop(self, task: Task) -> None:
        """Refuse: a task here cannot be stopped from outside, so `ExecutorOptions` allows no time limit."""
        raise NotImplementedError("a serial task has nobody to stop it")

    def close(self) -> None:
        """Do nothing: nothing is held."""
