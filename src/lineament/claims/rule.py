"""The rule of a claim: its words, its bounds and what it measures, fixed before any result; records make it a claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lineament.claims.evidence import Evidence
from lineament.claims.intervals import FEWEST_SEEDS, Interval
from lineament.claims.verdict import Bounds, Claim, Condition, verdict_of


@dataclass(frozen=True)
class Measured:
    """What the records say about one claim.

    Attributes:
        interval: the claim's quantity over seeds.
        null: mean of the structured null, where it is a number.
        blind: mean of the blind run's value, where there is one.
        ceiling: mean of the largest value that the comparison allows, where there is one.
        setting: what the definition leaves to the run, e.g. `n = 64`.
        undecided: why there can be no verdict, other than too few seeds.
        details: what stands behind the interval.
    """

    interval: Interval
    null: float | None = None
    blind: float | None = None
    ceiling: float | None = None
    setting: str | None = None
    undecided: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Requirement:
    """One part of a rule: a named quantity and the bounds that its whole interval must satisfy.

    Attributes:
        name: the quantity, as the rule's text and the report name it.
        of: its interval; None is the claim's own.
    """

    name: str
    bounds: Bounds
    of: Callable[[Evidence], Interval] | None = None

    def judge(self, e: Evidence, own: Interval) -> Condition:
        """Return the condition that the records make of this requirement; `own` is the claim's interval."""
        interval = self.of(e) if self.of else own
        return Condition(self.name, interval if interval.n_seeds else None, self.bounds, self.bounds.hold_for(interval))


@dataclass(frozen=True, kw_only=True)
class ClaimRule:
    """A claim before any record is seen.

    Attributes:
        title: the claim as a sentence.
        holds, fails: what it means when the claim is supported, and when it is not.
        definition: what is measured.
        requirements: the parts of the rule; every one must hold.
        measure: what the records say; None if they do not measure this claim.
        paper: the published value, where there is one.
        measurement: whose records must have the quantity in every seed: one without leaves the verdict open.
        needs_lost_task: whether the verdict is open, too, where the task was not learned or not lost.
        paper_space: the only space that value applies to; None is every space.
        at_rank: whether the quantity is taken at the headline rank.
    """

    id: str
    title: str
    holds: str
    fails: str
    definition: str
    requirements: tuple[Requirement, ...]
    measure: Callable[[Evidence], Measured | None]
    measurement: str | None = None
    needs_lost_task: bool = False
    unit: str = "fraction"
    paper: float | None = None
    paper_space: str | None = None
    at_rank: bool = False

    @property
    def text(self) -> str:
        """Return the rule as one line, made from its requirements."""
        return " and ".join(part.bounds.rule(part.name) for part in self.requirements)

    def judge(self, e: Evidence) -> Claim | None:
        """Return the claim with its verdict, or None if the records do not measure it."""
        measured = self.measure(e)
        if measured is None:
            return None
        interval = measured.interval
        conditions = tuple(part.judge(e, interval) for part in self.requirements)
        fewest = min(interval.n_seeds, *(condition.n_seeds for condition in conditions))
        few = e.why_few(fewest) if fewest < FEWEST_SEEDS else None
        open_seeds = self._why_open(e, interval.n_seeds)
        undecided = measured.undecided or open_seeds
        verdict = "inconclusive" if undecided or interval.n_seeds < FEWEST_SEEDS else verdict_of(conditions)
        return Claim(
            id=self.id,
            task=e.task,
            space=e.space,
            rank=e.rank if self.at_rank else None,
            definition=f"{self.definition}, {measured.setting}" if measured.setting else self.definition,
            paper=self.paper if self.paper_space in (None, e.space) else None,
            measured=interval.mean if interval.n_seeds else None,
            low=interval.low,
            high=interval.high,
            null=measured.null,
            blind=measured.blind,
            ceiling=measured.ceiling,
            unit=self.unit,
            rule=self.text,
            verdict=verdict,
            reason=(measured.undecided or few or open_seeds) if verdict == "inconclusive" else None,
            conditions=conditions,
            details={"n_seeds": interval.n_seeds, **measured.details},
        )

    def _why_open(self, e: Evidence, n_seeds: int) -> str | None:
        """Say which seeds keep the verdict open: to leave seeds out because of their result is to select on it."""
        if self.needs_lost_task and (reason := e.why_no_task()):
            return reason
        ran = len(e.of(self.measurement)) if self.measurement else n_seeds
        return f"this figure in {n_seeds} of {ran} seeds" if n_seeds < ran else None
