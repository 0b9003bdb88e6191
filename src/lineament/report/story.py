"""What a run found, for the first screen of its report: a few sentences, each with a picture that needs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import Claim
from lineament.records import target_words
from lineament.report.estimates import interval_text, number

N_SENTENCES = 4
# Claims that a reader asks for first; the others follow in their own order.
FIRST = (
    "prefix_captures",
    "static_plane_misses",
    "basis_drifts",
    "best_of_n_theorem",
    "step_steers",
    "order_defect_predicted",
    "order_matters_inside_window",
    "gradient_low_rank",
)


@dataclass(frozen=True)
class Bar:
    """A figure on a scale from 0 to 1, in per cent of its length.

    Attributes:
        measured, low, high: the mean and its interval.
        null, blind: what would be seen if nothing were there; None where that was not measured.
    """

    measured: float
    low: float
    high: float
    null: float | None
    blind: float | None


@dataclass(frozen=True)
class Line:
    """One thing that was found.

    Attributes:
        sentence: what the verdict means. figures: what it rests on. kind: the verdict.
        bar: its picture; None where the figure does not lie between 0 and 1.
    """

    sentence: str
    figures: str
    kind: str
    bar: Bar | None


def story(claims: Sequence[Claim]) -> list[Line]:
    """Return the lines of the first screen: claims that were decided, those first that a reader asks for first."""
    decided = [claim for claim in claims if claim.verdict != "inconclusive" and claim.id in CLAIMS]
    several = len({claim.task for claim in claims}) > 1
    return [_line(claim, several) for claim in sorted(decided, key=_place)[:N_SENTENCES]]


def _place(claim: Claim) -> int:
    return FIRST.index(claim.id) if claim.id in FIRST else len(FIRST)


def _line(claim: Claim, several: bool) -> Line:
    rule = CLAIMS[claim.id]
    meaning = rule.holds if claim.verdict == "supported" else rule.fails
    name = f"{target_words(claim.task)}: " if several else ""
    return Line(name + meaning, "; ".join(_figures(claim)), claim.verdict, _bar(claim))


def _figures(claim: Claim) -> Iterable[str]:
    if claim.measured is not None:
        interval = "" if claim.low is None or claim.high is None else f" {interval_text(claim.low, claim.high)}"
        yield f"{number(claim.measured)}{interval}"
    beside = {"blind": claim.blind, "null": claim.null, "paper": claim.paper}
    yield from (f"{name} {number(value)}" for name, value in beside.items() if value is not None)


def _bar(claim: Claim) -> Bar | None:
    values = (claim.measured, claim.low, claim.high)
    if any(value is None or not 0 <= value <= 1 for value in values):
        return None
    measured, low, high = (100.0 * value for value in values if value is not None)
    null, blind = (_on_scale(value) for value in (claim.null, claim.blind))
    return Bar(measured, low, high, null, blind)


def _on_scale(value: float | None) -> float | None:
    return None if value is None or not 0 <= value <= 1 else 100.0 * value
