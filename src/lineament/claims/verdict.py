"""Verdicts: the claim that a user reads, and how a rule over intervals becomes one.

"low" and "high" are interval ends. `supported`: the whole interval satisfies the rule; `not_supported`: the whole
interval violates it; `inconclusive`: it straddles, there are fewer than two seeds, or seeds were left out because of
their result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from lineament.claims.evidence import Evidence
from lineament.claims.intervals import LEVEL, Interval

Verdict = Literal["supported", "not_supported", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """One verdict with the figure it rests on; fields as in claims.json."""

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
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """One part of a rule: whether its whole interval satisfies it (True), violates it (False), or neither (None)."""

    holds: bool | None
    n_seeds: int


def verdict_of(conditions: Sequence[Condition]) -> Verdict:
    """One violated part refutes the whole rule; otherwise every part must hold."""
    if any(condition.holds is False for condition in conditions):
        return "not_supported"
    return "supported" if all(condition.holds for condition in conditions) else "inconclusive"


def make_claim(
    e: Evidence,
    id: str,
    interval: Interval,
    conditions: Sequence[Condition],
    rule: str,
    definition: str,
    *,
    unit: str = "fraction",
    paper: float | None = None,
    null: float | None = None,
    rank: int | None = None,
    undecided: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> Claim:
    """A claim with its verdict; `undecided` is a reason, beside too few seeds, why there can be none."""
    fewest = min(interval.n_seeds, *(condition.n_seeds for condition in conditions))
    few = e.why_few(fewest) if fewest < 2 else None
    verdict = "inconclusive" if undecided or interval.n_seeds < 2 else verdict_of(conditions)
    return Claim(
        id=id,
        task=e.task,
        space=e.space,
        rank=rank,
        definition=definition,
        paper=paper,
        measured=interval.mean if interval.n_seeds else None,
        low=interval.low,
        high=interval.high,
        null=null,
        unit=unit,
        rule=rule,
        verdict=verdict,
        reason=(undecided or few) if verdict == "inconclusive" else None,
        details={"n_seeds": interval.n_seeds, **(details or {})},
    )


def interval_body(interval: Interval) -> dict[str, Any] | None:
    """An interval for claims.json; nothing where there is no seed."""
    return asdict(interval) if interval.n_seeds else None


def clipped(interval: Interval, lowest: float, highest: float) -> Interval:
    """An interval of a bounded statistic shown within its bounds; no verdict depends on what lies outside."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(lowest, interval.low), high=min(highest, interval.high))


def below(interval: Interval, bound: float) -> Condition:
    """Whether the whole interval lies below a bound."""
    if interval.low is None or interval.high is None:
        return Condition(None, interval.n_seeds)
    return Condition(True if interval.high < bound else False if interval.low >= bound else None, interval.n_seeds)


def above(interval: Interval, bound: float) -> Condition:
    """Whether the whole interval lies above a bound."""
    if interval.low is None or interval.high is None:
        return Condition(None, interval.n_seeds)
    return Condition(True if interval.low > bound else False if interval.high <= bound else None, interval.n_seeds)
