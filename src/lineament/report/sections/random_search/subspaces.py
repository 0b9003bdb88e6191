"""Gains of subspaces, predicted and measured: at equal length, and each at its own best step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import (
    Estimate,
    correlation,
    estimate,
    estimate_geometric,
    estimate_values,
    label_texts,
    label_values,
    number,
    select,
)
from lineament.report.sections.random_search.spaces import space_label, space_style
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style

SUBSPACES = {"informed": "informed subspaces", "with random": "with the random one"}
DENSITY_CAPTION = (
    "One dot per subspace. All draws have the same root-mean-square length, so that subspaces of any "
    "rank compare. Across: the gain predicted from the share of the gradient inside; up: the measured gain of "
    "the best of N. On the dashed line both agree. Null: a prediction from another task's gradient. Geometric "
    "means; bars: 95 % interval over seeds of measured over predicted, on logarithms."
)
OWN_CAPTION = (
    "A subspace that is dense in signal is steep, and pays for it in curvature. Here every subspace is "
    "searched at its own best step, where the second-order gain is largest. Dots: measured; diamonds: "
    "predicted to second order. Where curvature helps there is no best step. Geometric means; bars: 95 % "
    "interval over seeds, on logarithms."
)


def density_picture(sources: Sequence[Record]) -> Picture | None:
    """Predicted against measured gain of subspaces at equal length: one dot per subspace and a diagonal."""
    names = label_texts(sources, "equal_norm_gain", "subspace")
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
    return Picture("search-density", _density_title(sources), DENSITY_CAPTION, [panel], sources, notes)


def own_sigma_picture(sources: Sequence[Record]) -> Picture | None:
    """Measured and predicted gains of every subspace at its own best step."""
    names = label_texts(sources, "own_sigma_gain", "subspace")
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
    rows, x_title = [space_label(name) for name in names], "gain of the best draw (nats per target token)"
    panel = Panel("own best step", x_title, "", lines, x_log=True, fraction=False, rows=rows, x_name="subspace")
    return Picture("search-own", _own_title(sources, names, measured), OWN_CAPTION, [panel], sources)


def _density_dot(sources: Sequence[Record], name: str) -> Line | None:
    """At the mean prediction, times measured over predicted: lengths differ between seeds, the ratio does not."""
    figures = select(sources, "equal_norm_gain", subspace=name)
    predicted = _geometric(figures, [f.null for f in figures]).mean
    if predicted is None:
        return None
    point = _times(_geometric(figures, [f.value / f.null if f.value and f.null else None for f in figures]), predicted)
    style = space_style(name)
    return Line(f"density-{name}", space_label(name), "subspaces", style, [predicted], [point], mode="dots")


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


def _correlation_text(sources: Sequence[Record], which: Label) -> str:
    figures = select(sources, "density_rank_correlation", subspaces=which)
    found = correlation(figures)
    nulls = [f.null for f in figures if f.null is not None]
    beside = f"predicted from another task's gradient: {estimate_values(nulls, fraction=False).clipped(-1.0, 1.0).text}"
    return (
        f"Rank correlation of predicted with measured gain, {SUBSPACES.get(str(which), which)}: {found.text}; {beside}."
    )


def _density_title(sources: Sequence[Record]) -> str:
    mean = estimate(select(sources, "density_rank_correlation", subspaces="informed"), fraction=False).mean
    if mean is None:
        return "Signal density against the gain of subspaces at equal length"
    verb = "ranks" if mean > 0.5 else "does not rank"
    return f"At equal length signal density {verb} the subspaces as their gains do (rank correlation {number(mean)})"


def _own_title(sources: Sequence[Record], names: list[str], own: list[Estimate]) -> str:
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
