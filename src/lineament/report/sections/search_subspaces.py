"""Pictures of random search across subspaces and sizes: signal density, own best steps, number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lineament.records import Label, Quantity, Record
from lineament.report.drawing import BLUE, GREEN, GREY, ORANGE, VERMILLION
from lineament.report.sections.random_search import SPACE_STYLES, numbers, percent, room, tolerance_band
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    estimate,
    estimate_geometric,
    estimate_values,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, search_label

SIZE_TOLERANCE = 0.05
SUBSPACES = {"informed": "informed subspaces", "with random": "with the random one"}
SIZE_STYLES = (Style(BLUE, width=3), Style(GREEN, "dash", "square"), Style(VERMILLION, "dashdot", "diamond"))


def density_picture(records: Sequence[Record]) -> Picture | None:
    """Predicted against measured gain of subspaces at equal length: one dot per subspace and a diagonal."""
    sources = of(records, "random_search")
    names = [str(name) for name in label_values(sources, "equal_norm_gain", "subspace")]
    if not names:
        return None
    lines = [line for name in names if (line := _density_dot(sources, name)) is not None]
    ends = [line.x[0] for line in lines] + [p.mean for line in lines for p in line.points if p.mean is not None]
    diagonal = [min(ends) / 1.5, max(ends) * 1.5] if ends else []
    points = [Estimate(end) for end in diagonal]
    style = Style(GREY, "dash", width=1.2)
    lines.append(Line("equal", "measured = predicted", "reference", style, diagonal, points, mode="plain", tabled=0))
    x_title = "predicted gain r m_N |Uᵀg| / √k (nats per target token)"
    y_title, x_name = "measured gain (nats per target token)", "predicted gain"
    y_range = (float(np.log10(diagonal[0])), float(np.log10(diagonal[1]))) if diagonal else None
    panel = Panel("", x_title, y_title, lines, x_log=True, y_log=True, fraction=False, x_name=x_name, y_range=y_range)
    notes = [
        _correlation_text(sources, which) for which in label_values(sources, "density_rank_correlation", "subspaces")
    ]
    return Picture("search-density", _density_title(sources), CAPTIONS["search-density"], [panel], sources, notes)


def own_sigma_picture(records: Sequence[Record]) -> Picture | None:
    """Measured and predicted gains of every subspace at its own best step."""
    sources = of(records, "random_search")
    names = [str(name) for name in label_values(sources, "own_sigma_gain", "subspace")]
    if not names:
        return None
    found = {name: select(sources, "own_sigma_gain", subspace=name) for name in names}
    measured = [_geometric(found[name], [f.value for f in found[name]]) for name in names]
    predicted = [_geometric(found[name], [f.null for f in found[name]]) for name in names]
    places = list(range(len(names)))
    expected = Style(BLUE, symbol="diamond", open=True)
    lines = [
        Line("own", "measured", "gain", Style(VERMILLION), [p - 0.13 for p in places], measured, mode="dots"),
        Line("own-predicted", "predicted", "gain", expected, [p + 0.13 for p in places], predicted, mode="dots"),
    ]
    rows, x_title = [search_label(name) for name in names], "gain of the best draw (nats per target token)"
    panel = Panel("own best step", x_title, "", lines, x_log=True, fraction=False, rows=rows, x_name="subspace")
    return Picture("search-own", _own_title(sources, names, measured), CAPTIONS["search-own"], [panel], sources)


def dimension_picture(records: Sequence[Record]) -> Picture | None:
    """Gain over second-order prediction against the number of parameters, one line per cost."""
    sources = of(records, "random_search")
    sizes = [int(size) for size in numbers(sources, "dimension_ratio", "n_params")]
    if not sizes:
        return None
    costs = numbers(sources, "dimension_ratio", "cost")
    lines = [_size_line(sources, sizes, cost, style) for cost, style in zip(costs, SIZE_STYLES, strict=False)]
    if len(sizes) > 1:
        shrinking = [Estimate((size / sizes[0]) ** -0.5) for size in sizes]
        label, style = "null: falls as 1 / √n_params", Style(ORANGE, "dash", width=1.5)
        lines.append(Line("equal-length", label, "null", style, sizes, shrinking, mode="plain", tabled=0))
    y_range = room(lines)
    lines.append(tolerance_band([sizes[0] / 1.3, sizes[-1] * 1.3], SIZE_TOLERANCE))
    x_title, y_title = "number of parameters", "gain / second-order prediction (ratio)"
    panel = Panel(
        "", x_title, y_title, lines, x_log=True, ticks=sizes, fraction=False, x_name="parameters", y_range=y_range
    )
    notes = [_slope_text(sources, costs), *_failed_variants(sources)]
    return Picture("search-size", _size_title(sources, sizes), CAPTIONS["search-size"], [panel], sources, notes)


def _density_dot(sources: list[Record], name: str) -> Line | None:
    """At the mean prediction, times measured over predicted: lengths differ between seeds, the ratio does not."""
    figures = select(sources, "equal_norm_gain", subspace=name)
    predicted = _geometric(figures, [f.null for f in figures]).mean
    if predicted is None:
        return None
    point = _times(_geometric(figures, [f.value / f.null if f.value and f.null else None for f in figures]), predicted)
    style = SPACE_STYLES.get(name, Style(GREY))
    return Line(f"density-{name}", search_label(name), "subspaces", style, [predicted], [point], mode="dots")


def _times(point: Estimate, factor: float) -> Estimate:
    mean, low, high = (None if end is None else factor * end for end in (point.mean, point.low, point.high))
    return replace(point, mean=mean, low=low, high=high)


def _geometric(figures: Sequence[Quantity], values: Sequence[float | None]) -> Estimate:
    """Geometric mean over the seeds that have a value, with the reason of the others."""
    known = [value for value in values if value is not None]
    why = "; ".join(sorted({f.reason for f in figures if f.value is None and f.reason})) or "not measured"
    if not known:
        return Estimate(None, reason=why)
    found, without = estimate_geometric(known), len(values) - len(known)
    return replace(found, reason=f"{without} of {len(values)} seeds: {why}") if without and found.mean else found


def _correlation_text(sources: list[Record], which: Label) -> str:
    figures = select(sources, "density_rank_correlation", subspaces=which)
    found = _clipped(estimate(figures, fraction=False))
    nulls = [f.null for f in figures if f.null is not None]
    beside = f"predicted from another task's gradient: {_clipped(estimate_values(nulls, fraction=False)).text}"
    return (
        f"Rank correlation of predicted with measured gain, {SUBSPACES.get(str(which), which)}: {found.text}; {beside}."
    )


def _clipped(point: Estimate) -> Estimate:
    """The interval of a correlation within its bounds."""
    low, high = (None if end is None else min(1.0, max(-1.0, end)) for end in (point.low, point.high))
    return replace(point, low=low, high=high)


def _density_title(sources: list[Record]) -> str:
    mean = estimate(select(sources, "density_rank_correlation", subspaces="informed"), fraction=False).mean
    if mean is None:
        return "Signal density against the gain of subspaces at equal length"
    verb = "ranks" if mean > 0.5 else "does not rank"
    return f"At equal length signal density {verb} the subspaces as their gains do (rank correlation {number(mean)})"


def _own_title(sources: list[Record], names: list[str], own: list[Estimate]) -> str:
    chosen = [name for name, point in zip(names, own, strict=True) if point.mean is not None and name != "random"]
    if len(chosen) < 2:
        return "What subspaces gain at their own best step"
    equal = [
        _geometric([], [f.value for f in select(sources, "equal_norm_gain", subspace=name)]).mean for name in chosen
    ]
    at_own = [point.mean for name, point in zip(names, own, strict=True) if name in chosen and point.mean is not None]
    known = [value for value in equal if value is not None]
    if not known:
        return "What subspaces gain at their own best step"
    factor = number(max(at_own) / min(at_own))
    spread = f"Gains of the {len(chosen)} subspaces with a best step differ by a factor of {factor} there"
    return f"{spread}, at equal length by {number(max(known) / min(known))}"


def _size_line(sources: list[Record], sizes: list[int], cost: float, style: Style) -> Line:
    found = [select(sources, "dimension_ratio", n_params=size, cost=cost) for size in sizes]
    known = [(size, figures) for size, figures in zip(sizes, found, strict=True) if figures]
    points = [estimate(figures, fraction=False) for _, figures in known]
    label = f"curvature should change {percent(cost)}"
    return Line(f"size-{cost}", label, "step", style, [size for size, _ in known], points)


def _slope_text(sources: list[Record], costs: list[float]) -> str:
    found = {cost: estimate(select(sources, "dimension_slope", costs=str(cost)), fraction=False) for cost in costs}
    parts = [f"{percent(cost)}: {point.text}" for cost, point in found.items()]
    return (
        "Slope of log(gain / second order) on log n_params where curvature should change the gain by "
        f"{'; '.join(parts)}. Draws of equal length, whatever the size, would give -0.5."
    )


def _failed_variants(sources: list[Record]) -> list[str]:
    failed = {
        (str(f.labels["variant"]), f.reason or "undefined")
        for f in select(sources, "dimension_ratio")
        if f.value is None
    }
    return [f"Not measured, {variant}: {why.rstrip('.')}." for variant, why in sorted(failed)]


def _size_title(sources: list[Record], sizes: list[int]) -> str:
    mean = estimate(select(sources, "dimension_slope", costs="all"), fraction=False).mean
    if mean is None:
        return "Gain over prediction against the number of parameters"
    held = f"From {number(sizes[0])} to {number(sizes[-1])} parameters the gain over its prediction"
    return f"{held} has slope {number(mean)} (equal-length draws: -0.5)"
