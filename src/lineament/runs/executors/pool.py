"""What the driver asks of a pool of workers: three of them keep this contract, and one suite of tests checks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lineament.runs.executors.tasks import Outcome, Task

# Called with (task, what is being done, steps done, steps in all); its first call says that the task has begun.
TaskProgress = Callable[[Task, str, int, int], None]
# Most often that a worker reports the same work.
SECONDS_BETWEEN_REPORTS = 0.2


def unseen(task: Task, what: str, done: int, total: int) -> None:
    """Report to nobody."""


def seldom(
    send: Callable[[str, int, int], None], seconds: float = SECONDS_BETWEEN_REPORTS
) -> Callable[[str, int, int], None]:
    """Pass progress on when the work changes, and otherwise a few times a second."""
    last: tuple[str, float] = ("", 0.0)

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if what != last[0] or now - last[1] >= seconds:
            last = (what, now)
            send(what, done, total)

    return report


class Pool(Protocol):
    """Workers that carry tasks out.

    Attributes:
        progress: where `outcomes` passes on what workers report.
    """

    progress: TaskProgress

    def free(self) -> int:
        """Count the tasks that may still be started now."""
        ...

    def start(self, task: Task) -> None:
        """Give a task to a free worker; returns at once."""
        ...

    def outcomes(self, timeout_s: float) -> Sequence[Outcome]:
        """Return tasks that have ended since, waiting at most `timeout_s` for the first; pass progress on.

        A worker that died gives an outcome that says so and may be tried again.
        """
        ...

    def stop(self, task: Task) -> None:
        """End a running task's worker; the task gives no outcome any more."""
        ...

    def close(self) -> None:
        """End every worker, running or not; nothing of the pool outlives this."""
        ...
