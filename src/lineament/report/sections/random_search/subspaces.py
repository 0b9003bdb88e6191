"""Gains of subspaces, predicted and measured: at equal length, and each at its own best step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.records import Label, Record
from lineament.report.estimates import (
    Estimate,
    correlation,
    estimate,
    estimate_geometric,
    estimate_known,
    estimate_values,
    label_texts,
    label_values,
    nulls_of,
    number,
    select,
    values_of,
)
from lineament.report.sections.random_search.spaces import space_label, space_style
from lineament.report.series import BLUE, GREY, VERMILLION, Line, Panel, Picture, Style

SUBSPACES = {"informed": "informed subspaces", "with random": "with the random one"}
DENSITY_CAPTION = (
    "One dot per subspace. All draws have the same root-mean-square length, so that subspaces of any rank can be "
    "compared. Across: the gain predicted from the share of the gradient inside; up: the measured gain of the best of "
    "N. On the dashed line both agree. The length is so short that curvature costs at most 1 %: the dots lie on the "
    "line by construction, so no verdict rests on them. Geometric means; bars: 95 % interval over seeds of measured "
    "over predicted, on logarithms."
)
OWN_CAPTION = (
    "A subspace that is dense in signal is steep, and curvature takes more of its gain. Here every subspace is "
    "searched at its own best step, where the second-order gain is largest and curvature should take half of the "
    "linear one, or, where curvature helps and there is no best step, at the best of a few that were probed. Dots: "
    "measured; diamonds: predicted to second order. Null of the rank correlation: gains predicted from another task's "
    "gradient. Geometric means; bars: 95 % interval over seeds, on logarithms."
)


def density_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw predicted against measured gain of subspaces at equal length: one dot per subspace and a diagonal."""
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
    title = "Signal density against the gain of subspaces at equal length"
    return Picture("search-density", title, DENSITY_CAPTION, [panel], sources)


def own_sigma_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw measured and predicted gains of every subspace at its own best step."""
    names = label_texts(sources, "own_sigma_gain", "subspace")
    if not names:
        return None
    gains = [select(sources, "own_sigma_gain", subspace=name) for name in names]
    measured = [estimate_known(own, [gain.value for gain in own]) for own in gains]
    predicted = [estimate_known(own, [gain.null for gain in own]) for own in gains]
    places = list(range(len(names)))
    expected = Style(BLUE, symbol="diamond", open=True)
    lines = [
        Line("own", "measured", "gain", Style(VERMILLION), [p - 0.13 for p in places], measured, mode="dots"),
        Line("own-predicted", "predicted", "gain", expected, [p + 0.13 for p in places], predicted, mode="dots"),
    ]
    rows, x_title = [space_label(name) for name in names], "gain of the best draw (nats per target token)"
    panel = Panel("own best step", x_title, "", lines, x_log=True, fraction=False, rows=rows, x_name="subspace")
    notes = [
        _correlation_text(sources, which) for which in label_values(sources, "density_rank_correlation", "subspaces")
    ]
    notes += [text for text in (_spread_text(sources, names, measured), _probed_text(sources)) if text]
    return Picture("search-own", _own_title(sources), OWN_CAPTION, [panel], sources, notes)


def _density_dot(sources: Sequence[Record], name: str) -> Line | None:
    """Place a dot at the mean prediction times measured over predicted: unlike the lengths, seeds share the ratio."""
    gains = select(sources, "equal_norm_gain", subspace=name)
    predicted = estimate_known(gains, [gain.null for gain in gains]).mean
    if predicted is None:
        return None
    ratios = [gain.value / gain.null if gain.value and gain.null else None for gain in gains]
    point = estimate_known(gains, ratios).scaled(predicted)
    style = space_style(name)
    return Line(f"density-{name}", space_label(name), "subspaces", style, [predicted], [point], mode="dots")


def _correlation_text(sources: Sequence[Record], which: Label) -> str:
    correlations = select(sources, "density_rank_correlation", subspaces=which)
    null = estimate_values(nulls_of(correlations), fraction=False).clipped(-1.0, 1.0)
    return (
        f"Rank correlation of predicted with measured gain, {SUBSPACES.get(str(which), which)}: "
        f"{correlation(correlations).text}; predicted from another task's gradient: {null.text}."
    )


def _own_title(sources: Sequence[Record]) -> str:
    mean = estimate(select(sources, "density_rank_correlation", subspaces="informed"), fraction=False).mean
    if mean is None:
        return "What subspaces gain at their own best step"
    verb = "ranks" if mean > 0.5 else "does not rank"
    return f"The predicted gain {verb} the subspaces as their measured gains do (rank correlation {number(mean)})"


def _spread_text(sources: Sequence[Record], names: list[str], own: list[Estimate]) -> str | None:
    chosen = [name for name, point in zip(names, own, strict=True) if point.mean is not None and name != "random"]
    equal = [estimate_geometric(values_of(select(sources, "equal_norm_gain", subspace=name))).mean for name in chosen]
    at_own = [point.mean for name, point in zip(names, own, strict=True) if name in chosen and point.mean is not None]
    known = [value for value in equal if value is not None]
    if len(chosen) < 2 or not known:
        return None
    spread = f"Gains of the {len(chosen)} subspaces differ by a factor of {number(max(at_own) / min(at_own))}"
    return f"{spread} at their own steps, at equal length by {number(max(known) / min(known))}."


def _probed_text(sources: Sequence[Record]) -> str | None:
    probed = [str(gain.labels["subspace"]) for gain in select(sources, "own_sigma_gain", step="probed")]
    counts = ", ".join(f"{space_label(name)} {probed.count(name)}" for name in dict.fromkeys(probed))
    return f"Seeds in which curvature helps and the step was probed: {counts}." if counts else None
