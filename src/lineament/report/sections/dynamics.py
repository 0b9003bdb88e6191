"""Pictures of what changes: drift of the gradient plane, gradient spectra and recovery curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from lineament.records import Label, Quantity, Record
from lineament.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, reference_line
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
from lineament.report.words import CAPTIONS, POINTS

SEED_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SEED_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, GREY, BLACK)
# How a record says that the overlap never falls to half; the number is the largest lag.
NOT_CROSSED = re.compile(r"> ([\d.]+) \(largest lag")
Side = Literal["broken", "recovered"]
SIDES: dict[Side, tuple[str, str]] = {
    "broken": ("damaged point", VERMILLION),
    "recovered": ("recovered point", BLUE),
}


def drift_picture(records: Sequence[Record]) -> Picture | None:
    """Overlap of gradient planes against lag, between floor and ceiling, with half-lives."""
    sources = of(records, "basis_drift")
    lags = [float(lag) for lag in label_values(sources, "overlap", "lag")]
    if not lags:
        return None
    panels = [_lag_panel(sources, side) for side in SIDES]
    notes = [*(half_life_text(sources, side) for side in SIDES), *window_texts(sources)]
    title = "How long the plane of gradients stays the same"
    return Picture("drift", title, CAPTIONS["drift"], panels, sources, notes)


def drift_loss_picture(records: Sequence[Record]) -> Picture | None:
    """Rescaled overlap against the evaluation loss at the later of the two steps, seed by seed."""
    sources = of(records, "basis_drift")
    lines = [line for side in SIDES for record in sources if (line := _loss_line(record, side)) is not None]
    if not lines:
        return None
    x_title, y_title = (
        "evaluation loss at the later step (nats per target token)",
        "rescaled overlap (fraction)",
    )
    title = "Rescaled overlap: 1 = no drift, 0 = unrelated"
    panel = Panel(title, x_title, y_title, lines, x_log=True, fraction=False, x_name="loss")
    message = "Does the plane turn because the loss falls?"
    return Picture("drift-loss", message, CAPTIONS["drift-loss"], [panel], sources, [_rates_text(sources)])


def spectrum_picture(records: Sequence[Record]) -> Picture | None:
    """Cumulative energy against the number of directions, true against shuffled labels."""
    sources = of(records, "gradient_rank")
    if not any(name.startswith("energy-") for record in sources for name in record.arrays):
        return None
    titles = {"minibatch": "minibatch gradients", "example": "single-example gradients"}
    panels = [_spectrum_panel(sources, kind, title) for kind, title in titles.items()]
    return Picture("spectrum", _spectrum_title(sources), CAPTIONS["spectrum"], panels, sources)


def curves_picture(records: Sequence[Record]) -> Picture | None:
    """Evaluation loss and accuracy along the recovery, one line per seed, T marked."""
    sources = [r for r in of(records, "basis_capture") if "recovery_loss" in r.arrays]
    if not sources:
        return None
    loss = _curve_panel(sources, "recovery_loss", "loss", "evaluation loss (nats per target token)")
    accuracy = _curve_panel(sources, "recovery_accuracy", "accuracy", "evaluation accuracy (fraction)")
    steps = estimate(select(sources, "recovery_steps"), fraction=False)
    notes = [f"T in steps, over seeds: {steps.text}{f' ({steps.reason})' if steps.mean and steps.reason else ''}."]
    title = "How the damaged task was trained back"
    return Picture("curves", title, CAPTIONS["curves"], [accuracy, loss], sources, notes)


def half_life_text(records: Sequence[Record], side: Side) -> str:
    """The half-life with its interval, or the reason why there is none."""
    where, figures = SIDES[side][0], select(records, "half_life", **{"from": side})
    figures = figures or [f for r in records for f in r.select("half_life") if "from" not in f.labels]
    found = estimate([f for f in figures if f.value is not None], fraction=False)
    without = [f for f in figures if f.value is None]
    why = _without_half_life(without, len(figures))
    if found.mean is None:
        return f"Half-life from the {where}: {why or 'not measured'}."
    return f"Half-life in steps, from the {where}: {found.text}{f' (without: {why})' if why else ''}."


def window_texts(sources: Sequence[Record]) -> list[str]:
    """Overlap of planes of successive updates, at the shortest and the longest lag that all seeds have."""
    figures = select(sources, "window_overlap")
    if not figures:
        return []
    lags = [int(lag) for lag in label_values(sources, "window_overlap", "lag")]
    found = {lag: select(sources, "window_overlap", lag=lag) for lag in lags}
    common = [lag for lag in lags if len(found[lag]) == max(len(f) for f in found.values())]
    ends = dict.fromkeys((common[0], common[-1]))
    values = [f"{estimate(found[lag], fraction=True).text} at lag {lag}" for lag in ends]
    width = int(figures[0].labels["width"])
    chance = number(width / sources[0].n_params)
    return [
        f"Planes of {width} successive updates, at lags at which they share neither updates nor momentum: overlap "
        f"{', '.join(values)} (two random planes: {chance})."
    ]


def _without_half_life(figures: Sequence[Quantity], n_seeds: int) -> str:
    """Why seeds have no half-life: one clause for those that do not cross, one for each other reason."""
    lags = sorted(float(found[1]) for f in figures if (found := NOT_CROSSED.match(f.reason or "")))
    clauses = []
    if lags:
        which = f"any of {n_seeds}" if len(lags) == n_seeds > 1 else f"{len(lags)} of {n_seeds}"
        named = f"largest lag{'s' if len(lags) > 1 else ''} {', '.join(number(lag) for lag in lags)}"
        clauses.append(f"does not cross within the run in {which} seed{'s' if n_seeds > 1 else ''} ({named})")
    others = [f.reason or "undefined" for f in figures if not NOT_CROSSED.match(f.reason or "")]
    clauses += [f"{others.count(why)} of {n_seeds} seeds: {why}" for why in dict.fromkeys(others)]
    return "; ".join(clauses)


def _lag_panel(sources: list[Record], side: Side) -> Panel:
    where, color = SIDES[side]
    lags = [lag for lag in label_values(sources, "overlap", "lag") if isinstance(lag, int | float)]
    counts = {lag: len(select(sources, "overlap", lag=lag, **{"from": side})) for lag in lags}
    full = [lag for lag in lags if counts[lag] and counts[lag] == max(counts.values())]
    lines = [
        _lag_line(sources, side, full, "ceiling", "ceiling: two halves of one sample", Style(GREY, "dash", "square")),
        _lag_line(sources, side, full, "overlap", f"overlap, from the {where}", Style(color, width=3)),
    ]
    floor = estimate(select(sources, "floor"), fraction=True)
    if floor.mean is not None and full:
        ends = [full[0], full[-1]]
        lines.append(reference_line("floor", "floor: two random planes", ends, floor, Style(GREY, "dot")))
    lines += _half_life_line(sources, side, color)
    title, x_title = f"from the {where}", "lag (steps)"
    return Panel(title, x_title, "overlap (fraction)", lines, x_log=True, ticks=full, x_name="lag")


def _lag_line(
    sources: list[Record], side: Side, lags: Sequence[float], quantity: str, label: str, style: Style
) -> Line:
    points = [estimate(select(sources, quantity, lag=lag, **{"from": side}), fraction=True) for lag in lags]
    key = quantity if quantity == "ceiling" else f"{quantity}-{side}"
    return Line(key, label, "drift", style, list(lags), points)


def _half_life_line(sources: list[Record], side: Side, color: str) -> list[Line]:
    found = estimate(select(sources, "half_life", **{"from": side}), fraction=False)
    if found.mean is None:
        return []
    ends = [Estimate(0.0), Estimate(1.0)]
    x, style = [found.mean, found.mean], Style(color, "dashdot", width=1.2)
    label = f"half-life, from the {SIDES[side][0]}: {number(found.mean)} steps"
    return [Line(f"half-life-{side}", label, "reference", style, x, ends, mode="plain", tabled=0)]


def _loss_line(record: Record, side: Side) -> Line | None:
    figures = [f for f in record.select("rescaled_overlap", **{"from": side}) if "loss" in f.labels]
    figures.sort(key=lambda figure: float(figure.labels["loss"]))
    if not figures:
        return None
    where, color = SIDES[side]
    style = Style(color, "solid" if side == "broken" else "dash", "circle" if side == "broken" else "square", 1.2)
    points = [_single(figure) for figure in figures]
    x = [float(figure.labels["loss"]) for figure in figures]
    return Line(f"loss-{side}", f"from the {where}", "drift", style, x, points)


def _single(figure: Quantity) -> Estimate:
    reason = figure.reason or f"lag {figure.labels['lag']}"
    return Estimate(figure.value, n_seeds=1, reason=reason)


def _rates_text(sources: list[Record]) -> str:
    before, after = (estimate(select(sources, "drift_rate", phase=p), fraction=False) for p in ("before", "after"))
    return (
        f"Drift per step before 90 % of the loss is recovered: {before.text}; after: {after.text} "
        "(share of the plane lost per step)."
    )


def _spectrum_panel(sources: list[Record], kind: str, title: str) -> Panel:
    lines = []
    for point, color in (("broken", VERMILLION), ("star", BLUE)):
        for labels, dash in (("true", "solid"), ("shuffled", "dash")):
            label = f"{POINTS[point]} point, {labels} labels"
            style = Style(color, dash, width=3 if labels == "true" else 1.8)
            lines += _energy_line(sources, f"{point}-{kind}-{labels}", f"{point}-{labels}", label, style)
    longest = max((len(line.x) for line in lines), default=1)
    goal = reference_line("goal", "90 % of the energy", [1, longest], Estimate(0.9), Style(GREY, "dot", width=1.2))
    x_title, y_title = "number of directions", "cumulative energy (fraction)"
    return Panel(title, x_title, y_title, [*lines, goal], x_name="directions")


def _energy_line(sources: list[Record], array: str, key: str, label: str, style: Style) -> list[Line]:
    energies = [record.arrays[f"energy-{array}"] for record in sources if f"energy-{array}" in record.arrays]
    if not energies:
        return []
    count = min(len(energy) for energy in energies)
    shares = [np.cumsum(energy) / energy.sum() for energy in energies]
    points = _rising([estimate_values([float(share[i]) for share in shares], fraction=True) for i in range(count)])
    return [Line(key, label, "gradients", style, list(range(1, count + 1)), points, mode="band", tabled=9)]


def _rising(points: Sequence[Estimate]) -> list[Estimate]:
    """Lower ends that never fall: the sum over more directions is no smaller, so an earlier end bounds it too.

    Without this the logit interval opens wide at the last directions, where seeds differ by 1e-6 below 1.
    """
    found, low = [], 0.0
    for point in points:
        if point.low is not None:
            low = max(low, point.low)
            point = replace(point, low=low)
        found.append(point)
    return found


def _spectrum_title(sources: list[Record]) -> str:
    labels: dict[str, Label] = {
        "point": "broken",
        "gradients": "minibatch",
        "centred": "False",
        "unit_norm": "False",
    }
    found = [f for f in select(sources, "k90", labels="true", **labels) if f.value is not None]
    n = max((int(f.labels["n"]) for f in found), default=0)
    largest = [f for f in found if f.labels["n"] == n]
    true = estimate(largest, fraction=False).mean
    nulls = [f.null for f in largest if f.null is not None]
    if true is None or not nulls:
        return "In how many directions the gradients lie"
    shuffled = number(float(np.mean(nulls)))
    held = f"At the damaged point {number(true)} of {n} directions hold 90 % of the gradients"
    return f"{held} ({shuffled} with shuffled labels)"


def _curve_panel(sources: list[Record], array: str, name: str, y_title: str) -> Panel:
    fraction = name == "accuracy"
    lines = [line for i, r in enumerate(sources) for line in _curve_lines(r, r.arrays[array], i)]
    return Panel(name, "recovery step", y_title, lines, y_log=not fraction, fraction=fraction, x_name="step")


def _curve_lines(record: Record, values: np.ndarray, index: int) -> list[Line]:
    end = record.value("recovery_steps")
    style = Style(SEED_COLORS[index % len(SEED_COLORS)], SEED_DASHES[index % len(SEED_DASHES)], "star")
    label = f"seed {record.seed}: " + (f"T = {number(end)}" if end is not None else "not recovered")
    points = [Estimate(float(value), n_seeds=1) for value in values]
    key = f"seed-{record.seed}"
    lines = [Line(key, label, "seeds", style, list(range(len(values))), points, mode="plain")]
    if end is not None and end < len(values):
        at = Line(key, f"{label} (T)", "seeds", style, [end], [points[int(end)]], mode="dots")
        lines.append(at)
    return lines
