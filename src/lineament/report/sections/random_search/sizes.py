"""Gain over prediction against the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, label_numbers, number, percent, select
from lineament.report.series import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    band_around_one,
    vertical_range,
)

SIZE_TOLERANCE = 0.05
SIZE_STYLES = (Style(BLUE, width=3), Style(GREEN, "dash", "square"), Style(VERMILLION, "dashdot", "diamond"))
CAPTION = (
    "The whole study was repeated with other adapter ranks or widths. Each size is judged by its own gradient and "
    "curvature, at the steps where curvature should change the gain by the shares in the legend. If the number of "
    "parameters does not matter, lines are level. Grey band: 1 ± 5 %. Null: what draws of equal length would give, "
    "which shrink per weight as models grow. Bars: 95 % interval over seeds, cut at the edge where they are long."
)


def dimension_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw gain over second-order prediction against the number of parameters, one line per cost."""
    sizes = [int(size) for size in label_numbers(sources, "dimension_ratio", "n_params")]
    if not sizes:
        return None
    costs = label_numbers(sources, "dimension_ratio", "cost")
    lines = [_size_line(sources, sizes, cost, style) for cost, style in zip(costs, SIZE_STYLES, strict=False)]
    if len(sizes) > 1:
        shrinking = [Estimate((size / sizes[0]) ** -0.5) for size in sizes]
        label, style = "null: falls as 1 / √n_params", Style(ORANGE, "dash", width=1.5)
        lines.append(Line("equal-length", label, "null", style, sizes, shrinking, mode="plain", tabled=0))
    y_range = vertical_range(lines)
    lines.append(band_around_one([sizes[0] / 1.3, sizes[-1] * 1.3], SIZE_TOLERANCE))
    x_title, y_title = "number of parameters", "gain / second-order prediction (ratio)"
    panel = Panel(
        "", x_title, y_title, lines, x_log=True, ticks=sizes, fraction=False, x_name="parameters", y_range=y_range
    )
    notes = [_slope_text(sources, costs), *_failed_variants(sources)]
    return Picture("search-size", _size_title(sources, sizes), CAPTION, [panel], sources, notes)


def _size_line(sources: Sequence[Record], sizes: list[int], cost: float, style: Style) -> Line:
    ratios = {size: select(sources, "dimension_ratio", n_params=size, cost=cost) for size in sizes}
    points = {size: estimate(quantities, fraction=False) for size, quantities in ratios.items() if quantities}
    label = f"curvature should change {percent(cost)}"
    return Line(f"size-{cost}", label, "step", style, list(points), list(points.values()))


def _slope_text(sources: Sequence[Record], costs: list[float]) -> str:
    slopes = {cost: estimate(select(sources, "dimension_slope", costs=str(cost)), fraction=False) for cost in costs}
    parts = [f"{percent(cost)}: {slope.text}" for cost, slope in slopes.items()]
    return (
        "Slope of log(gain / second order) on log n_params where curvature should change the gain by "
        f"{'; '.join(parts)}. Draws of equal length, whatever the size, would give -0.5."
    )


def _failed_variants(sources: Sequence[Record]) -> list[str]:
    failed = {
        (str(ratio.labels["variant"]), ratio.reason or "undefined")
        for ratio in select(sources, "dimension_ratio")
        if ratio.value is None
    }
    return [f"Not measured, {variant}: {why.rstrip('.')}." for variant, why in sorted(failed)]


def _size_title(sources: Sequence[Record], sizes: list[int]) -> str:
    mean = estimate(select(sources, "dimension_slope", costs="all"), fraction=False).mean
    if mean is None:
        return "Gain over prediction against the number of parameters"
    start = f"From {number(sizes[0])} to {number(sizes[-1])} parameters the gain over its prediction"
    return f"{start} has slope {number(mean)} (equal-length draws: -0.5)"
