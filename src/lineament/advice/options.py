"""How tests of advice are made, fixed before any result."""

from __future__ import annotations

from dataclasses import dataclass

from lineament.errors import InputError, unknown_name
from lineament.settings.plain import digest

# The tests that there are, the cheapest first.
TOPICS = ("rank", "span", "refresh")
# Fewer trainings have no interval.
FEWEST_REPEATS = 3


@dataclass(frozen=True)
class CheckOptions:
    """How tests are made.

    Attributes:
        seed: of everything random in them.
        repeats: trainings, each on other batches, with every refresh interval; at least 3, for an interval.
        tests: which are made; those of an earlier check count in any case.
    """

    seed: int = 0
    repeats: int = 3
    tests: tuple[str, ...] = TOPICS

    def __post_init__(self) -> None:
        if self.repeats < FEWEST_REPEATS:
            raise InputError(f"repeats is {self.repeats}; fewer than {FEWEST_REPEATS} trainings have no interval.")
        for name in self.tests:
            if name not in TOPICS:
                raise unknown_name("test of advice", name, TOPICS)

    def hash(self) -> str:
        """Identity of how tests are made, whichever they are."""
        return digest({"seed": self.seed, "repeats": self.repeats})
