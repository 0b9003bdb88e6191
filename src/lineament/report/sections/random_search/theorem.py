"""Gain over the linear prediction against the cost of curvature: where the theorem holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.records import Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_values,
    label_numbers,
    nulls_of,
    number,
    percent,
    select,
    values_of,
)
from lineament.report.sections.random_search.spaces import cells, headline_count, space_label, space_style, spaces
from lineament.report.series import ORANGE, PURPLE, Line, Panel, Picture, Style, band_around_one, vertical_range

TOLERANCE = 0.1
# The vertical axis of ratios ends here at the latest: second-order curves and nulls go on beyond.
HIGHEST_RATIO = 3.5
COST_AXIS = "share of the linear gain that curvature should take away or add (fraction)"
CAPTION = (
    "Random steps sigma z are drawn around the damaged point and the best of N is kept. Its mean gain is divided by "
    "the prediction from the gradient alone, sigma |g| m_N: inside the grey band the prediction is right within 10 %. "
    "The step sigma grows to the right; it is given as the share of the gain that curvature should take away or add "
    "at that step. Purple: the second-order prediction; where the measured lines leave it too, higher orders matter. "
    "Null: the prediction from the gradient on shuffled labels. Bars: 95 % interval over seeds, for the whole space "
    "and the null; the intervals of all other series are in the data table and appear on hover."
)


def theorem_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw gain over linear prediction against the cost of curvature, one line per space."""
    costs = label_numbers(sources, "ratio_linear", "cost")
    if not costs:
        return None
    n = headline_count(sources)
    lines = [_space_line(sources, name, costs, n) for name in spaces(sources)] + [_shuffled_line(sources, costs, n)]
    low, high = vertical_range(lines)
    title = _theorem_title(lines[0], costs, n)
    lines += [*_second_order_lines(sources, costs, n), band_around_one(costs, TOLERANCE)]
    y_title = "gain / linear prediction (ratio)"
    y_range = (min(0.0, low), min(HIGHEST_RATIO, max(1.25, high)))
    panel = Panel("", COST_AXIS, y_title, lines, x_log=True, fraction=False, x_name="cost", y_range=y_range)
    notes = [_signs_text(sources, n), _one_draw_text(sources)]
    return Picture("search-theorem", title, CAPTION, [panel], sources, notes)


def _space_line(sources: Sequence[Record], name: str, costs: list[float], n: int) -> Line:
    points = [estimate(cells(sources, "ratio_linear", name, cost, n), fraction=False) for cost in costs]
    style = space_style(name)
    label = space_label(name)
    return Line(f"space-{name}", label, "draws inside", style, costs, points, bars=name == spaces(sources)[0])


def _shuffled_line(sources: Sequence[Record], costs: list[float], n: int) -> Line:
    """Return the null: the whole space's gain over the prediction from shuffled labels."""
    space = spaces(sources)[0]
    nulls = [nulls_of(cells(sources, "ratio_linear", space, cost, n)) for cost in costs]
    points = [estimate_values(values, fraction=False) for values in nulls]
    label = f"{space_label(space)}, predicted from shuffled labels"
    return Line("shuffled", label, "null", Style(ORANGE, "dash", "x"), costs, points)


def _second_order_lines(sources: Sequence[Record], costs: list[float], n: int) -> list[Line]:
    """Return 1 - cost and 1 + cost, if there are spaces where curvature takes from the gain and where it adds."""
    helps = {helped for name in spaces(sources) for helped in _curvature_helps(sources, name, n)}
    x = [float(value) for value in np.geomspace(costs[0], costs[-1], 60)]
    words = {
        False: ("takes", "second order, curvature takes away", "dot"),
        True: ("adds", "second order, curvature adds", "dashdot"),
    }
    return [
        Line(
            f"second-{key}",
            label,
            "reference",
            Style(PURPLE, dash),
            x,
            _sloped(x, 1 if sign else -1),
            "plain",
            tabled=0,
        )
        for sign, (key, label, dash) in words.items()
        if sign in helps
    ]


def _sloped(x: Sequence[float], sign: int) -> list[Estimate]:
    return [Estimate(1 + sign * value) for value in x]


def _curvature_helps(sources: Sequence[Record], name: str, n: int) -> list[bool]:
    """Return for every seed whether the second-order prediction lies above the linear one, where its sign is known."""
    helps = []
    for record in sources:
        if any("not told" in (sigma.reason or "") for sigma in record.select("best_sigma", space=name)):
            continue
        ratios = record.select("ratio_linear", space=name, n=n)
        cost = min((float(ratio.labels["cost"]) for ratio in ratios), default=None)
        if cost is not None:
            linear = record.value("ratio_linear", space=name, n=n, cost=cost)
            second = record.value("ratio_second_order", space=name, n=n, cost=cost)
            if linear is not None and second is not None:
                # Both are gains over a prediction, so the larger prediction has the smaller ratio.
                helps.append(second < linear)
    return helps


def _theorem_title(line: Line, costs: list[float], n: int) -> str:
    """Say as far as which cost the interval (of one seed: the value) stays within the tolerance."""
    ends = [[p.mean] if p.low is None or p.high is None else [p.low, p.high] for p in line.points]
    inside = [all(end is not None and abs(end - 1) <= TOLERANCE for end in pair) for pair in ends]
    held = inside.index(False) if False in inside else len(inside)
    where = "" if line.key == "space-full" else f" (drawn in: {line.label})"
    if held == 0:
        start = f"The best of {n} random steps is not within 10 % of what the gradient predicts"
        return f"{start} even where curvature should change it by {percent(costs[0])}{where}"
    start = f"The best of {n} random steps gains what the gradient predicts"
    if held == len(costs):
        return f"{start} at every measured step{where}"
    held_at, left_at = percent(costs[held - 1]), percent(costs[held])
    return f"{start} as long as curvature should change that by at most {held_at}, but not at {left_at}{where}"


def _signs_text(sources: Sequence[Record], n: int) -> str:
    parts = [
        f"{space_label(name)} {sum(helps)} of {len(helps)}"
        for name in spaces(sources)
        if (helps := _curvature_helps(sources, name, n))
    ]
    return f"Seeds in which curvature adds to the gain at the damaged point: {', '.join(parts)}."


def _one_draw_text(sources: Sequence[Record]) -> str:
    deviations = values_of(select(sources, "one_draw_deviation"))
    inside = sum(abs(deviation) <= 3 for deviation in deviations)
    failed = sum(values_of(select(sources, "failed_members")))
    return (
        f"N = 1: the mean gain of one draw is within 3 standard errors of the second-order mean in {inside} of "
        f"{len(deviations)} cells (space, step, seed). Draws without a finite loss: {number(failed)}."
    )
