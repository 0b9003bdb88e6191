"""One line of advice: what it says, by which figure, and whether it passed its test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lineament.claims.advice_tests import Tested
from lineament.records import Label


@dataclass(frozen=True)
class Advice:
    """One line of advice.

    Attributes:
        topic: the heading it stands under. text: what it is.
        value: None if no recording has it; `reason` then says why.
        low, high: ends of the interval; `interval` says what it is over.
        null: of independent updates, or whatever the quantity's definition says.
        figure: name and labels of the record's quantity.
        blind: the same figure of a blind run, whose gradients know nothing; None where there is none.
        quantity, labels: the same figure, for programs.
        tested: what its test gave; None where it was not tested.
        testable: whether it is advice that has a test; controls and what is only described have none.
        no_test: why advice stays untested, where no test of it can be made.
        says: the line in words, with its figures; empty where it is no news.
        of_rank: rank of the planes that it speaks of; None where it speaks of none.
    """

    topic: str
    text: str
    value: float | None
    low: float | None
    high: float | None
    interval: str
    null: float | None
    unit: str
    figure: str
    reason: str | None = None
    blind: float | None = None
    quantity: str = ""
    labels: Mapping[str, Label] = field(default_factory=dict)
    tested: Tested | None = None
    testable: bool = False
    says: str = ""
    of_rank: Label | None = None
    no_test: str = ""

    @property
    def no_advice(self) -> str | None:
        """Why nothing can be done by this line, so that there is nothing to test; None where something can."""
        if self.value is None:
            return "it did not cross" if (self.reason or "").startswith((">", "<")) else self.reason or "not measured"
        if self.reason and self.quantity == "refresh_lag":  # the mean of those that crossed would be too short
            return f"it did not cross in {self.reason.partition(':')[0]}"
        return "its interval reaches 0" if self.low is not None and self.low <= 0 else None

    @property
    def standing(self) -> str:
        """One word: passed, failed or undecided in its test, untested, no advice; a dash for what has no test."""
        if not self.testable:
            return "-"
        if self.no_advice:
            return "no advice"
        return self.tested.outcome if self.tested else "untested"

    @property
    def sentence(self) -> str:
        """What the line says, how it stands and what its test gave; empty where it is no news."""
        if not self.says:
            return ""
        said = f"{self.says[0].upper()}{self.says[1:]}."
        if not self.testable:
            return said
        if self.no_advice:
            return f"{said} No advice: {self.no_advice}."
        if self.tested is None:
            return f"{said} Untested."
        missed = [f"{one.text}: {_held(one.holds)}" for one in self.tested.conditions if one.holds is not True]
        parts = f" ({'; '.join(missed)})" if missed and self.tested.value is not None else ""
        return f"{said} {self.standing.capitalize()}: {self.tested.text}{parts}."


def why_untested(lines: Iterable[Advice]) -> list[str]:
    """Return why some of these lines stay untested although they are advice, each reason once."""
    return list(dict.fromkeys(line.no_test for line in lines if line.no_test and line.standing == "untested"))


def with_interval(line: Advice) -> str:
    """Return value and interval of a line, in three digits."""
    value = "-" if line.value is None else f"{line.value:.3g}"
    return value if line.low is None or line.high is None else f"{value} [{line.low:.3g}, {line.high:.3g}]"


def _held(holds: bool | None) -> str:
    return "not to be told" if holds is None else "no"
