"""What travels through the stages of a study: one target and seed of a problem, its settings, files and progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from lineament.problems.problem import Problem
from lineament.problems.progress import Progress, silent
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.files import StudyFiles


@dataclass(frozen=True)
class Case:
    """One target and seed of a problem.

    Attributes:
        problem: made for this seed.
        target: the task that is damaged and recovered, or `ALL_TASKS` for what is measured at the operating point
            alone.
        files: where finished stages are kept, and loaded from if they are there already.
        progress: told what is being done.
    """

    problem: Problem
    settings: Settings
    target: str
    seed: int
    files: StudyFiles
    progress: Progress = field(default=silent, kw_only=True)

    @property
    def streams(self) -> Streams:
        """Random streams of this target and seed."""
        return seed_streams(self.seed).child(self.target)


def seed_streams(seed: int) -> Streams:
    """Return the random streams that the targets of a seed share."""
    return Streams(seed).child("study")
