"""Verdicts: the claim that a user reads, the conditions it was judged by, and how conditions make a verdict.

`supported`: the whole interval of every condition satisfies its bounds; `not_supported`: the whole interval of one
violates them; `inconclusive`: an interval straddles a bound, there are fewer than two seeds, or seeds were left out
because of their result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lineament.claims.intervals import LEVEL, Interval

Verdict = Literal["supported", "not_supported", "inconclusive"]
VERDICT_WORDS: Mapping[Verdict, str] = {
    "supported": "supported",
    "not_supported": "not supported",
    "inconclusive": "inconclusive",
}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a whole interval must satisfy: lie above a number, below one or between two, or else contain one."""

    above: float | None = None
    below: float | None = None
    contains: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.above, self.below) if limit is not None]
        if bool(limits) == (self.contains is not None):
            raise ValueError(f"{self} must name either limits or a number to contain; give one of the two.")
        if len(limits) == 2 and limits[0] >= limits[1]:
            raise ValueError(f"{self} leaves no room: above must be smaller than below.")

    def hold_for(self, interval: Interval) -> bool | None:
        """Return True if the whole interval satisfies the bounds, False if it violates them, None if it is open."""
        low, high = interval.low, interval.high
        if low is None or high is None:
            return None
        if self.contains is not None:
            # An interval beside the number shows a difference, however small: that refutes nothing.
            return True if low <= self.contains <= high else None
        if (self.above is not None and high <= self.above) or (self.below is not None and low >= self.below):
            return False
        inside = (self.above is None or low > self.above) and (self.below is None or high < self.below)
        return True if inside else None

    def rule(self, name: str) -> str:
        """Return the bounds on a named quantity as one part of a rule's text."""
        if self.contains is not None:
            return f"the interval of {name} contains {self.contains:g}"
        if self.above is None:
            return f"{name} < {self.below:g}"
        return f"{name} > {self.above:g}" if self.below is None else f"{self.above:g} < {name} < {self.below:g}"

    def words(self, name: str) -> str:
        """Return the bounds on a named quantity as a reader of results sees them."""
        if self.contains is not None:
            return f"an interval of {name} that contains {self.contains:.3g}"
        if self.above is None:
            return f"{name} below {self.below:.3g}"
        limits = f"above {self.above:.3g}" if self.below is None else f"between {self.above:.3g} and {self.below:.3g}"
        return f"{name} {limits}"


@dataclass(frozen=True)
class Condition:
    """One part of a claim's rule as it was judged.

    Attributes:
        name: which quantity must satisfy the bounds.
        interval: that quantity over seeds; None where no seed has it.
        bounds: what the whole interval must satisfy.
        holds: True if it satisfies them, False if it violates them, None if that is open.
    """

    name: str
    interval: Interval | None
    bounds: Bounds
    holds: bool | None

    @property
    def n_seeds(self) -> int:
        """Return the number of seeds that have the quantity."""
        return self.interval.n_seeds if self.interval else 0

    @property
    def crossed(self) -> list[float]:
        """Return the limits that the interval reaches both sides of."""
        if self.interval is None or self.interval.low is None or self.interval.high is None:
            return []
        limits = (self.bounds.above, self.bounds.below)
        return [x for x in limits if x is not None and self.interval.low <= x <= self.interval.high]


def verdict_of(conditions: Sequence[Condition]) -> Verdict:
    """Return the verdict: one violated condition refutes the rule; otherwise every condition must hold."""
    if any(condition.holds is False for condition in conditions):
        return "not_supported"
    return "supported" if all(condition.holds for condition in conditions) else "inconclusive"


@dataclass(frozen=True)
class Claim:
    """One verdict with what it rests on; fields as in claims.json.

    Attributes:
        null: what the structured null gives, e.g. shuffled labels or another task.
        blind: what the same optimizer gives on gradients that know nothing.
        ceiling: the largest value that the comparison allows.
    """

    id: str
    task: str
    space: str
    rank: int | None
    definition: str
    paper: float | None
    measured: float | None
    low: float | None
    high: float | None
    null: float | None
    unit: str
    rule: str
    verdict: Verdict
    level: float = LEVEL
    reason: str | None = None
    blind: float | None = None
    ceiling: float | None = None
    conditions: tuple[Condition, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
