"""What an old plane of gradients is still good for: its share of fresh gradients' energy, beside a fresh plane's."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_positive,
    estimate_values,
    label_numbers,
    null_of,
    select,
)
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style

POINTS = {"broken": ("damaged point", VERMILLION), "recovered": ("recovered point", BLUE)}
CAPTION = (
    "Share of the squared length of fresh gradients that a plane made some steps earlier still holds. A plane counts "
    "every direction alike, gradients do not: a plane that has lost half of its overlap may still hold nearly all that "
    "matters. Dashed: a plane made at the later step, judged on other gradients than it was made of. Dotted: the "
    "planes of the other tasks at the earlier step. Lags that some seeds lack are left out."
)


def retention_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the retention of old planes against lag, beside fresh planes and the other tasks'."""
    if not label_numbers(sources, "retention", "lag"):
        return None
    panels = [_panel(sources, side) for side in POINTS]
    notes = [_refresh_text(sources, side) for side in POINTS]
    return Picture("retention", "What an old plane of gradients still holds", CAPTION, panels, sources, notes)


def _panel(sources: Sequence[Record], side: str) -> Panel:
    where, color = POINTS[side]
    of = {lag: list(select(sources, "retention", lag=lag, **{"from": side})) for lag in _lags(sources)}
    most = max(map(len, of.values()))
    of = {lag: own for lag, own in of.items() if len(own) == most and own}
    lags = list(of)
    lines = [
        Line(
            "fresh", "a fresh plane", "drift", Style(GREY, "dash", "square"), lags, [_ceiling(o) for o in of.values()]
        ),
        Line(
            f"retention-{side}",
            f"the plane of the {where}",
            "drift",
            Style(color, width=3),
            lags,
            [estimate(own, fraction=True) for own in of.values()],
        ),
        Line("others", "other tasks' planes", "null", Style(GREY, "dot"), lags, [null_of(own) for own in of.values()]),
    ]
    y_title = "held of fresh gradients (fraction)"
    return Panel(f"from the {where}", "lag (steps)", y_title, lines, x_log=True, ticks=lags, x_name="lag")


def _lags(sources: Sequence[Record]) -> list[float]:
    return label_numbers(sources, "retention", "lag")


def _ceiling(own: Sequence[Quantity]) -> Estimate:
    ceilings = [quantity.ceiling for quantity in own if quantity.ceiling is not None]
    return estimate_values(ceilings, fraction=True)


def _refresh_text(sources: Sequence[Record], side: str) -> str:
    """Say at which lag a plane holds 90 % and 50 % of what a fresh one holds."""
    where, parts = POINTS[side][0], []
    for share in (0.9, 0.5):
        lags = list(select(sources, "refresh_lag", share=share, **{"from": side}))
        crossed = estimate_positive([q for q in lags if q.value is not None])
        never = sum(q.value is None for q in lags)
        text = f"{crossed.text} steps" if crossed.mean is not None else "not within the lags measured"
        without = f" (in {never} of {len(lags)} seeds not)" if never and crossed.mean else ""
        parts.append(f"{share:.0%} at {text}{without}")
    return f"From the {where}, a plane falls to a share of what a fresh one holds: {', '.join(parts)}."
