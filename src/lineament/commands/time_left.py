"""How long the whole of a command's work will still take, and how a person says so."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from statistics import fmean

# Shorter than this, what was seen is the noise of beginning.
LEAST_SEEN_S = 2.0


class Pace:
    """Passes per second of one job, from those of its stages that say how far they are.

    Args:
        stages: what a stage reports first -> its passes, in the order of the job.
        passes: of the whole job.
    """

    def __init__(self, stages: Mapping[str, float], passes: float) -> None:
        self.stages, self.passes = stages, passes
        self.seen: dict[str, float] = {}
        self.seconds, self.last = 0.0, time.monotonic()
        self.stage = ""

    def report(self, what: str, done: int, total: int) -> None:
        """Take one report of the job."""
        now = time.monotonic()
        self.seconds += now - self.last if self.stage else 0.0
        self.last, self.stage = now, next((stage for stage in self.stages if what.startswith(stage)), "")
        if self.stage:
            self.seen[what] = self.stages[self.stage] * done / max(total, 1)

    def job_s(self) -> float | None:
        """Return the time that the whole job takes at this pace, s; None while too little was seen."""
        passes = sum(self.seen.values())
        if self.seconds < LEAST_SEEN_S or passes <= 0:
            return None
        reached = [any(what.startswith(stage) for what in self.seen) for stage in self.stages]
        # What an earlier run left is not made again.
        skipped = (n for place, n in enumerate(self.stages.values()) if not reached[place] and any(reached[place:]))
        return (self.passes - sum(skipped)) * self.seconds / passes


class Whole:
    """Equal parts of which some run at a time; their pace so far tells the time that is left.

    Args:
        at_a_time: how many parts run side by side.
        stages, passes: of one part, as `Pace` takes them: what tells the time until a first part has ended.
    """

    def __init__(self, at_a_time: int = 1, stages: Mapping[str, float] | None = None, passes: float = 0.0) -> None:
        self.at_a_time, self.stages, self.passes = at_a_time, stages or {}, passes
        self.paces: dict[str, Pace] = {}
        self.done, self.total = 0.0, 1.0
        self.begin()

    def begin(self) -> None:
        """Count time from now on."""
        self.started = self.at_done = time.monotonic()

    def report(self, label: str, what: str, done: int, total: int) -> None:
        """Take what one part reports."""
        self.paces.setdefault(label, Pace(self.stages, self.passes)).report(what, done, total)

    def count(self, done: float, total: float) -> None:
        """Note how many parts have ended, of how many."""
        if done != self.done:
            self.at_done = time.monotonic()
        self.done, self.total = done, total

    def left_s(self) -> float | None:
        """Return the time that is left, s; None if nobody knows."""
        now = time.monotonic()
        if self.done:
            pace = (self.at_done - self.started) / self._rounds(self.done)
        elif known := [seconds for job in self.paces.values() if (seconds := job.job_s()) is not None]:
            pace = fmean(known)
        else:
            return None
        return max(0.0, pace * self._rounds(self.total) - (now - self.started))

    def _rounds(self, parts: float) -> float:
        return parts if self.at_a_time == 1 else math.ceil(parts / self.at_a_time)

    def words(self, *, short: bool = False) -> str:
        """Return the time that is left in words; empty if nobody knows, or if it takes longer than was thought."""
        left = self.left_s()
        if left is None or left < 1:
            return ""
        return f"{duration(round(left))} left" if short else f"about {duration(round(left))} left in all"


def duration(seconds: float) -> str:
    """Write a time as a person says it: 4.2 s, 48 s, 3 min 20 s, 45 min, 2 h 5 min."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if minutes else f"{hours} h"
