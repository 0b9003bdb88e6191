"""Pictures of random search: measured gains against predictions, by step size, number of draws, subspace and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.records import Quantity, Record
from lineament.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE
from lineament.report.sections.recovery import STYLES
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    estimate,
    estimate_values,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, search_label

TOLERANCE = 0.1
COSTS_SHOWN = (0.01, 0.5)
# The vertical axis of ratios ends here at the latest: second-order curves and nulls go on beyond.
HIGHEST_RATIO = 3.5
COST_AXIS = "share of the linear gain that curvature should take or add (fraction)"
SPACE_STYLES = {**STYLES, "full": Style(BLACK, width=3.5)}
PREDICTIONS = {
    "ratio_linear": ("linear prediction: sigma |g| m_N", Style(BLUE, "dash")),
    "ratio_second_order": ("second-order prediction", Style(PURPLE, "dot", width=2.5)),
    "ratio_flat": ("prediction for many flat directions", Style(GREEN, "dashdot")),
}


def theorem_picture(records: Sequence[Record]) -> Picture | None:
    """Gain over linear prediction against the cost of curvature, one line per space: where the theorem holds."""
    sources = of(records, "random_search")
    costs = numbers(sources, "ratio_linear", "cost")
    if not costs:
        return None
    n = headline_count(sources)
    lines = [_space_line(sources, name, costs, n) for name in spaces(sources)] + [_shuffled_line(sources, costs, n)]
    low, high = room(lines)
    title = _theorem_title(lines[0], costs, n)
    lines += [*_second_order_lines(sources, costs, n), tolerance_band(costs, TOLERANCE)]
    y_title = "gain / linear prediction (ratio)"
    y_range = (min(0.0, low), min(HIGHEST_RATIO, max(1.25, high)))
    panel = Panel("", COST_AXIS, y_title, lines, x_log=True, fraction=False, x_name="cost", y_range=y_range)
    notes = [_signs_text(sources, n), _one_draw_text(sources)]
    return Picture("search-theorem", title, CAPTIONS["search-theorem"], [panel], sources, notes)


def counts_picture(records: Sequence[Record]) -> Picture | None:
    """Measured gain against the number of draws with its predictions, at a small and at a large cost."""
    sources = of(records, "random_search")
    costs = _shown_costs(numbers(sources, "ratio_linear", "cost"))
    if not costs:
        return None
    space = spaces(sources)[0]
    panels = [_counts_panel(sources, space, cost) for cost in costs]
    title = _counts_title(sources, space, costs, headline_count(sources))
    notes = [f"Drawn in: {search_label(space)}."]
    return Picture("search-counts", title, CAPTIONS["search-counts"], panels, sources, notes)


def headline_count(sources: Sequence[Record]) -> int:
    """N of the claims, as the records label it; the largest N with a ratio where they do not."""
    named = [int(n) for n in label_values(sources, "departure_sigma", "n")]
    return max(named or [int(n) for n in label_values(sources, "ratio_linear", "n")])


def spaces(sources: Sequence[Record]) -> list[str]:
    """Names of the spaces that draws were made in, the whole space first."""
    names = [str(name) for name in label_values(sources, "ratio_linear", "space")]
    return sorted(names, key=lambda name: name != "full")


def numbers(sources: Sequence[Record], quantity: str, label: str) -> list[float]:
    return [float(value) for value in label_values(sources, quantity, label)]


def _space_line(sources: list[Record], name: str, costs: list[float], n: int) -> Line:
    points = [estimate(_cells(sources, "ratio_linear", name, cost, n), fraction=False) for cost in costs]
    style = SPACE_STYLES.get(name, Style(GREY, "dash"))
    label = search_label(name)
    return Line(f"space-{name}", label, "draws inside", style, costs, points, bars=name == spaces(sources)[0])


def _shuffled_line(sources: list[Record], costs: list[float], n: int) -> Line:
    """The null: the whole space's gain over the prediction from shuffled labels."""
    space = spaces(sources)[0]
    found = [[f.null for f in _cells(sources, "ratio_linear", space, cost, n) if f.null is not None] for cost in costs]
    points = [estimate_values(values, fraction=False) for values in found]
    label = f"{search_label(space)}, predicted from shuffled labels"
    return Line("shuffled", label, "null", Style(ORANGE, "dash", "x"), costs, points)


def _second_order_lines(sources: list[Record], costs: list[float], n: int) -> list[Line]:
    """1 - cost and 1 + cost, as far as there are spaces where curvature takes and where it adds."""
    helps = {helped for name in spaces(sources) for helped in _curvature_helps(sources, name, n)}
    x = [float(value) for value in np.geomspace(costs[0], costs[-1], 60)]
    words = {
        False: ("takes", "second order, curvature takes", "dot"),
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
    """One entry per seed: whether the second-order prediction lies above the linear one."""
    found = []
    for record in sources:
        cost = min((float(f.labels["cost"]) for f in record.select("ratio_linear", space=name, n=n)), default=None)
        if cost is not None:
            linear = record.value("ratio_linear", space=name, n=n, cost=cost)
            second = record.value("ratio_second_order", space=name, n=n, cost=cost)
            if linear is not None and second is not None:
                found.append(second < linear)
    return found


def tolerance_band(ends: Sequence[float], width: float) -> Line:
    """The shaded band around 1."""
    x, style = [ends[0], ends[-1]], Style(GREY, "dot", width=1.2)
    points = [Estimate(1.0, 1 - width, 1 + width)] * 2
    return Line("tolerance", f"1 ± {100 * width:.0f} %", "reference", style, x, points, mode="band", tabled=0)


def _cells(sources: Sequence[Record], quantity: str, space: str, cost: float, n: int) -> list[Quantity]:
    return select(sources, quantity, space=space, cost=cost, n=n)


def _theorem_title(line: Line, costs: list[float], n: int) -> str:
    """As far as the interval (one seed: the value) stays within the tolerance."""
    ends = [[p.mean] if p.low is None or p.high is None else [p.low, p.high] for p in line.points]
    inside = [all(end is not None and abs(end - 1) <= TOLERANCE for end in pair) for pair in ends]
    held = inside.index(False) if False in inside else len(inside)
    where = "" if line.key == "space-full" else f" (drawn in: {line.label})"
    if held == 0:
        start = f"The best of {n} random steps is not within 10 % of what the gradient foretells"
        return f"{start} even where curvature should change it by {percent(costs[0])}{where}"
    start = f"The best of {n} random steps gains what the gradient foretells"
    if held == len(costs):
        return f"{start} at every measured step{where}"
    held_at, left_at = percent(costs[held - 1]), percent(costs[held])
    return f"{start} while curvature should change that by {held_at}, no longer at {left_at}{where}"


def room(lines: Sequence[Line]) -> tuple[float, float]:
    """Vertical range for all means and, up to a third of their span (at least 0.1) beyond, their bars."""
    points = [p for line in lines for p in line.points if p.mean is not None]
    means = [p.mean for p in points if p.mean is not None]
    low, high = min(means), max(means)
    room = max(0.1, (high - low) / 3)
    barred = [p for line in lines if line.bars for p in line.points]
    lows = [p.low for p in barred if p.low is not None]
    highs = [p.high for p in barred if p.high is not None]
    margin = 0.05 * (high - low + 0.1)
    return max(low - room, min([low, *lows])) - margin, min(high + room, max([high, *highs])) + margin


def _signs_text(sources: list[Record], n: int) -> str:
    parts = [
        f"{search_label(name)} {sum(helps)} of {len(helps)}"
        for name in spaces(sources)
        if (helps := _curvature_helps(sources, name, n))
    ]
    return f"Seeds in which curvature adds to the gain at the damaged point: {', '.join(parts)}."


def _one_draw_text(sources: list[Record]) -> str:
    found = [f.value for f in select(sources, "one_draw_deviation") if f.value is not None]
    inside = sum(abs(value) <= 3 for value in found)
    failed = sum(f.value or 0 for f in select(sources, "failed_members"))
    return (
        f"N = 1: the mean gain of one draw is within 3 standard errors of the second-order mean in {inside} of "
        f"{len(found)} cells (space, step, seed). Draws without a finite loss: {number(failed)}."
    )


def _shown_costs(costs: list[float]) -> list[float]:
    """The measured costs nearest to those shown, each once."""
    if not costs:
        return []
    nearest = [min(costs, key=lambda cost: abs(np.log(cost / wanted))) for wanted in COSTS_SHOWN]
    return list(dict.fromkeys(nearest))


def _counts_panel(sources: list[Record], space: str, cost: float) -> Panel:
    counts = [int(n) for n in label_values(sources, "gain", "n")]
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
    y_range = room(lines)
    return Panel(title, "number of draws N", y_title, lines, x_log=True, fraction=False, x_name="N", y_range=y_range)


def _scaled(sources: list[Record], quantity: str, space: str, cost: float, n: int) -> list[float]:
    """Gain over sigma |g|, one per seed; for a ratio the prediction that it was divided by."""
    values = []
    for record in sources:
        norm = record.value("gradient_norm", space=space)
        for gain in record.select("gain", space=space, cost=cost, n=n):
            if norm and gain.value is not None:
                ratio = 1.0 if quantity == "gain" else record.value(quantity, space=space, cost=cost, n=n)
                values += [gain.value / ratio / (float(gain.labels["sigma"]) * norm)] if ratio else []
    return values


def _counts_title(sources: list[Record], space: str, costs: list[float], n: int) -> str:
    parts = []
    for cost in costs:
        mean = estimate(_cells(sources, "ratio_linear", space, cost, n), fraction=False).mean
        if mean is not None:
            parts.append(f"{percent(mean)} where curvature should change it by {percent(cost)}")
    if not parts:
        return "How the gain grows with the number of draws"
    return f"Of the linear prediction the best of {n} draws gains {', '.join(parts)}"


def percent(share: float) -> str:
    return f"{number(100 * share)}\u00a0%"  # never broken before the sign
