"""What a run found, for the first screen of its report: a few sentences, each with a picture that needs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import Claim
from lineament.records import target_words
from lineament.report.estimates import interval_text, number, with_digits

N_SENTENCES = 4
# Units of figures that lie on a scale from 0 to 1.
SCALED = ("fraction", "cosine", "rank correlation", "ratio")
NOTE = (
    "Scales run from 0 to 1. Dot and bar: mean and 95\u00a0% interval over seeds. Thin mark: null, what is seen where "
    "there is nothing to find. Thick mark: blind, what the same optimizer gives on gradients that know nothing."
)
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
    """A figure on a scale that begins at 0, in per cent of its length.

    Attributes:
        measured, low, high: the figure and its interval; without one all three are the figure.
        null, blind: what would be seen if nothing were there; None where that was not measured.
        end: where the scale ends, in words.
    """

    measured: float
    low: float
    high: float
    null: float | None
    blind: float | None
    end: str = "1"


@dataclass(frozen=True)
class Line:
    """One thing that was found.

    Attributes:
        sentence: what was found. figures: what it rests on. kind: the verdict.
        bar: its picture; None where the figure does not lie on a scale.
    """

    sentence: str
    figures: str
    kind: str
    bar: Bar | None


def story(claims: Sequence[Claim]) -> list[Line]:
    """Return the lines of the first screen: claims that were decided, those first that a reader asks for first.

    Where none was decided, the lines say what is open and what was measured so far. Where any does not hold, one of
    them does not: four that hold would say that all did.
    """
    known = [claim for claim in claims if claim.id in CLAIMS]
    decided = [claim for claim in known if claim.verdict != "inconclusive"]
    first = sorted(decided or known, key=_place)
    shown, failed = first[:N_SENTENCES], [claim for claim in first if claim.verdict == "not_supported"]
    if failed and failed[0] not in shown:
        shown[-1] = failed[0]
    several = len({claim.task for claim in shown}) > 1
    return [_line(claim, several) for claim in shown]


def bar_of(
    figure: tuple[float | None, float | None, float | None],
    null: float | None,
    blind: float | None,
    whole: float = 1.0,
    end: str = "1",
) -> Bar | None:
    """Return the picture of a figure on a scale from 0 to `whole`; None where it or its interval lies outside.

    Args:
        figure: the value and the ends of its interval, None where there is none.
    """
    measured, low, high = figure
    ends = (measured if low is None else low, measured if high is None else high)
    placed = [_on_scale(value, whole) for value in (measured, *ends)]
    if placed[0] is None or placed[1] is None or placed[2] is None:
        return None
    return Bar(placed[0], placed[1], placed[2], _on_scale(null, whole), _on_scale(blind, whole), end)


def _place(claim: Claim) -> int:
    return FIRST.index(claim.id) if claim.id in FIRST else len(FIRST)


def _line(claim: Claim, several: bool) -> Line:
    rule = CLAIMS[claim.id]
    meanings = {
        "supported": rule.holds,
        "not_supported": rule.fails,
        "inconclusive": f"It is open whether {rule.title[:1].lower()}{rule.title[1:]}.",
    }
    name = f"{target_words(claim.task)}: " if several else ""
    figure = (claim.measured, claim.low, claim.high)
    bar = bar_of(figure, claim.null, claim.blind) if claim.unit in SCALED else None
    return Line(name + meanings[claim.verdict], "; ".join(_figures(claim)), claim.verdict, bar)


def _figures(claim: Claim) -> Iterable[str]:
    if claim.measured is not None:
        interval = "" if claim.low is None or claim.high is None else f" {interval_text(claim.low, claim.high)}"
        yield f"{with_digits(claim.measured, claim.low, claim.high)}{interval}"
    beside = {"blind": claim.blind, "null": claim.null, "paper": claim.paper}
    yield from (f"{name} {number(value)}" for name, value in beside.items() if value is not None)


def _on_scale(value: float | None, whole: float) -> float | None:
    return None if value is None or not 0 <= value <= whole else 100.0 * value / whole
