"""Gain against the number of draws, with its predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.records import Record
from lineament.report.estimates import estimate, estimate_values, label_integers, label_numbers, percent
from lineament.report.sections.random_search.spaces import cells, headline_count, space_label, spaces
from lineament.report.series import BLACK, BLUE, GREEN, PURPLE, Line, Panel, Picture, Style, vertical_range

COSTS_SHOWN = (0.01, 0.5)
PREDICTIONS = {
    "ratio_linear": ("linear prediction: sigma |g| m_N", Style(BLUE, "dash")),
    "ratio_second_order": ("second-order prediction", Style(PURPLE, "dot", width=2.5)),
    "ratio_flat": ("prediction for many flat directions", Style(GREEN, "dashdot")),
}
CAPTION = (
    "Mean gain of the best of N random steps against N, in units of what one step typically gains to first order "
    "(sigma |g|), because |g| differs between seeds. The linear prediction is then m_N, the mean of the largest of N "
    "normal draws. The other two take curvature into account: one exactly to second order in sigma, one for many flat "
    "directions. Predictions of zero or less are left out. Bars: 95 % interval over seeds, cut at the edge where they "
    "are long."
)


def counts_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the measured gain against the number of draws with its predictions, at a small and at a large cost."""
    costs = _shown_costs(label_numbers(sources, "ratio_linear", "cost"))
    if not costs:
        return None
    space = spaces(sources)[0]
    panels = [_counts_panel(sources, space, cost) for cost in costs]
    title = _counts_title(sources, space, costs, headline_count(sources))
    notes = [f"Drawn in: {space_label(space)}."]
    return Picture("search-counts", title, CAPTION, panels, sources, notes)


def _shown_costs(costs: list[float]) -> list[float]:
    """Return the measured costs nearest to `COSTS_SHOWN`, each once."""
    if not costs:
        return []
    nearest = [min(costs, key=lambda cost: abs(np.log(cost / wanted))) for wanted in COSTS_SHOWN]
    return list(dict.fromkeys(nearest))


def _counts_panel(sources: Sequence[Record], space: str, cost: float) -> Panel:
    counts = label_integers(sources, "gain", "n")
    measured = [estimate_values(_scaled(sources, "gain", space, cost, n), fraction=False) for n in counts]
    lines = [Line("gain", "measured", "gain", Style(BLACK, width=2), counts, measured)]
    for quantity, (label, style) in PREDICTIONS.items():
        used = [n for n in counts if n > 1]
        points = [estimate_values(_scaled(sources, quantity, space, cost, n), fraction=False) for n in used]
        known = [(n, point) for n, point in zip(used, points, strict=True) if point.mean is not None]
        x, drawn = [n for n, _ in known], [point for _, point in known]
        lines.append(Line(quantity, label, "predictions", style, x, drawn, mode="plain"))
    title = f"curvature should change {percent(cost)}"
    y_title = "gain / (sigma |g|)"
    y_range = vertical_range(lines)
    return Panel(title, "number of draws N", y_title, lines, x_log=True, fraction=False, x_name="N", y_range=y_range)


def _scaled(sources: Sequence[Record], quantity: str, space: str, cost: float, n: int) -> list[float]:
    """Return the gain over sigma |g|, one per seed; of a ratio the prediction that the gain was divided by."""
    values = []
    for record in sources:
        norm = record.value("gradient_norm", space=space)
        for gain in record.select("gain", space=space, cost=cost, n=n):
            if norm and gain.value is not None:
                ratio = 1.0 if quantity == "gain" else record.value(quantity, space=space, cost=cost, n=n)
                values += [gain.value / ratio / (float(gain.labels["sigma"]) * norm)] if ratio else []
    return values


def _counts_title(sources: Sequence[Record], space: str, costs: list[float], n: int) -> str:
    parts: list[str] = []
    for cost in costs:
        mean = estimate(cells(sources, "ratio_linear", space, cost, n), fraction=False).mean
        if mean is not None:
            of = "" if parts else " of the linear prediction"
            parts.append(f"{percent(mean)}{of} where curvature should change it by {percent(cost)}")
    if not parts:
        return "How the gain grows with the number of draws"
    return f"The best of {n} draws gains {', '.join(parts)}"
