"""Pictures of a composition: losses over the grid of scales, and interference along s = t."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, label_numbers
from lineament.report.sections.composition.words import (
    LETTERS,
    SIDES,
    adapter_name,
    data_name,
    ends_of,
    is_measured,
    only,
)
from lineament.report.series import BLACK, BLUE, GREY, VERMILLION, Line, Panel, Picture, Style, Surface, reference_line

SPREAD = "over examples (bootstrap)"
GRID_CAPTION = (
    "Mean loss of the base with s A + t B added, in nats per target token: filled, as measured; dashed, at the same "
    "levels, the losses of each adapter alone plus the interference that curvature at the base and half-way foretells. "
    "Where the dashed lines lie on the edges of the filled bands, the prediction holds. Star: the best pair of scales."
)
LINE_CAPTION = (
    "Interference at equal scales c, I(c, c) = L(c A + c B) - L(c A) - L(c B) + L(0): above 0 the sum gains "
    "less than both alone together, below 0 more. Dotted: c² A'HB from curvature at the base. Dashed: with "
    "curvature on the line between that at the base and that half-way to A + B, which is the square at 1. Grey: B "
    "replaced by adapters with its singular values and random singular vectors, measured and foretold. Bars: 95 %, "
    "bootstrap over examples."
)


def grid_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the loss of A's and of B's data over both scales, measured and predicted."""
    record = sources[0]
    if not is_measured(record):
        return None
    first, second = (only(record, "best_scale", adapter=side).value or 0.0 for side in SIDES)
    best = (first, second, "best pair of scales")
    panels = [_surface(record, side, best) for side in SIDES]
    names = " and ".join(adapter_name(record, side) for side in SIDES)
    title = f"The best sum of {names} is {first:g} A + {second:g} B"
    return Picture("composition-grid", title, GRID_CAPTION, panels, sources, spread=SPREAD)


def line_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw interference along s = t, measured and predicted, with the null at 1."""
    record = sources[0]
    if not is_measured(record):
        return None
    panels = [_along(record, side) for side in SIDES]
    title = "How far curvature foretells what the adapters do to each other"
    return Picture("composition-line", title, LINE_CAPTION, panels, sources, spread=SPREAD)


def _surface(record: Record, side: str, best: tuple[float, float, str]) -> Surface:
    scales = sorted(label_numbers([record], "loss", "s"))
    found = {(float(q.labels["s"]), float(q.labels["t"])): q for q in record.select("loss", data=side)}
    measured = {place: _point(q) for place, q in found.items()}
    meet = {
        (float(q.labels["s"]), float(q.labels["t"])): q for q in record.select("interference", data=side, kind="both")
    }
    predicted = {}
    for s, t in found:
        alone = [found[place].value for place in ((s, 0.0), (0.0, t), (0.0, 0.0))]
        met = meet[s, t].value if s and t else 0.0
        known = [value for value in (*alone, met) if value is not None]
        value = known[0] + known[1] - known[2] + known[3] if len(known) == 4 else None
        predicted[s, t] = Estimate(value, n_seeds=1, reason=None if value is not None else "a loss is not finite")
    title = f"loss of {LETTERS[side]}'s data, {data_name(record, side)}"
    return Surface(title, "scale s of A", "scale t of B", scales, scales, measured, predicted, best)


def _point(loss: Quantity) -> Estimate:
    if loss.value is None:
        return Estimate(None, reason=loss.reason or "not finite")
    arm = 1.96 * (loss.stderr or 0.0)
    return Estimate(loss.value, loss.value - arm, loss.value + arm, 1)


def _along(record: Record, side: str) -> Panel:
    scales = label_numbers([record], "interference", "s")
    measured = [_on_diagonal(record, side, "measured", c) for c in scales]
    predicted = [_on_diagonal(record, side, "predicted", c) for c in scales]
    both = [_on_diagonal(record, side, "both", c) for c in scales]
    square = Style(VERMILLION, symbol="square")
    middle = [_ended(record, only(record, "interference_at_one", data=side, kind="middle"))]
    nulls = {kind: _draws(record, side, kind) for kind in ("measured", "middle")}
    lines = [
        Line("measured", "measured", "interference", Style(BLUE, width=3), scales, measured),
        Line("predicted", "base alone: c² A'HB", "predicted", Style(VERMILLION, "dot"), scales, predicted, "plain"),
        Line("both", "base and half-way", "predicted", Style(VERMILLION, "dash"), scales, both, "plain"),
        _null_line("null", "random singular vectors", "x", nulls["measured"]),
        _null_line("null middle", "the same, foretold half-way", "square", nulls["middle"]),
        Line("middle", "half-way, with its interval", "predicted", square, [1.0], middle, "dots"),
        reference_line("zero", "no interference", [0, scales[-1]], Estimate(0.0), Style(BLACK, "dot", width=1)),
    ]
    title = f"{LETTERS[side]}'s data, {data_name(record, side)}"
    y_title = "interference (nats per target token)"
    return Panel(title, "scale c of both", y_title, lines, fraction=False, ticks=scales, x_name="scale")


def _null_line(key: str, name: str, symbol: str, draws: Sequence[Estimate]) -> Line:
    """Draw what draws of the null come to at equal scales of 1."""
    return Line(key, name, "null", Style(GREY, symbol=symbol, open=True), [1.0] * len(draws), draws, "dots")


def _draws(record: Record, side: str, kind: str) -> list[Estimate]:
    found = record.select("null_draw", data=side, of="interference", what="value", kind=kind)
    return [Estimate(draw.value, n_seeds=1) for draw in found if draw.value is not None]


def _on_diagonal(record: Record, side: str, kind: str, c: float) -> Estimate:
    return _ended(record, only(record, "interference", data=side, kind=kind, s=c, t=c))


def _ended(record: Record, found: Quantity) -> Estimate:
    if found.value is None:
        return Estimate(None, reason=found.reason)
    ends = ends_of(record, found)
    low, high = ends or (None, None)
    return Estimate(found.value, low, high, 1)
