"""Pieces of a generation that go wrong, importable by the workers that carry them out."""

from __future__ import annotations

import os
import signal

from lineament.commands.search.chunks import MemberChunk
from lineament.errors import LineamentError
from lineament.problems.problem import Problem
from lineament.study.study import Progress

SPOILED = 1


class Killed(MemberChunk):
    """Kills its worker in the second generation, as the kernel does when memory runs out, the first time."""

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        mark = self.file.parents[1] / "killed"
        if self.label.startswith(f"generation {SPOILED},") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().execute(progress, ready)


class Refused(MemberChunk):
    """Cannot be carried out in the second generation."""

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        if self.label.startswith(f"generation {SPOILED},"):
            raise LineamentError("the disk is full")
        super().execute(progress, ready)
