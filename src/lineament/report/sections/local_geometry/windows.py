"""How far one direction is predictable: measured over predicted change of the loss along the step, task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lineament.records import Label, Record
from lineament.report.estimates import (
    Estimate,
    estimate_geometric,
    estimate_values,
    label_numbers,
    label_texts,
    number,
    select,
    values_of,
)
from lineament.report.sections.local_geometry.pairs import DIRECTIONS, narrowed, seed_medians, tasks_of
from lineament.report.series import BLUE, GREEN, PURPLE, VERMILLION, Line, Panel, Picture, Style, band_around_one

TOLERANCE = 0.1
PER_ROW = 3
WHICH = {"gradient": "the own gradient", "task_vector": "the task vector", "random": "a random direction"}
DRAWN = ("loss_change", "first_order_change", "second_order_change", "first_order_error", "window")
STYLES = {
    "gradient": Style(VERMILLION, width=2.5),
    "task_vector": Style(BLUE, "dash", "square"),
    "random": Style(GREEN, "dot", "diamond", open=True),
}
CAPTION = (
    "One panel per task. Across: the length of the step, as a share of |theta_star - theta_start|, on a logarithmic "
    "axis; up: the measured change of the task's own loss over the one that its gradient predicts. Inside the grey "
    "band the prediction is right within 10 %; the window ends where a line first leaves it (upright: along the own "
    "gradient). Purple: what curvature adds along the own gradient. The axis ends at 0 and at 2, and lines go on "
    "beyond. Mean over seeds; intervals appear on hover and stand in the data table."
)


def window_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw measured over predicted change of the loss along each direction, one small panel per task."""
    tasks = label_texts(sources, "loss_change", "task")
    if not tasks:
        return None
    directions = [d for d in DIRECTIONS if d in label_texts(sources, "loss_change", "direction")]
    of_task = {task: narrowed(sources, *DRAWN, task=task) for task in tasks_of(sources) if task in tasks}
    panels = [_panel(own, task, directions) for task, own in of_task.items()]
    notes = [_window_text(sources, direction) for direction in directions]
    return Picture(
        "geometry-windows", _title(sources), CAPTION, panels, sources, notes, per_row=min(PER_ROW, len(panels))
    )


def smallest_step(sources: Sequence[Record]) -> float:
    """Return the lowest length that was tried; a window of 0 ends below it."""
    return min(label_numbers(sources, "loss_change", "eps"), default=1e-5)


def window_estimate(sources: Sequence[Record], direction: str) -> Estimate:
    """Return the median window over tasks, geometric mean over seeds; one that ends below the smallest step is that."""
    windows = values_of(select(sources, "median_window", direction=direction))
    return estimate_geometric([max(window, smallest_step(sources)) for window in windows])


def _panel(sources: Sequence[Record], task: str, directions: Sequence[str]) -> Panel:
    sizes = label_numbers(sources, "loss_change", "eps")
    lines = [_line(sources, task, direction, sizes) for direction in directions]
    lines += [*_curvature(sources, task, sizes), *_window_line(sources, task), band_around_one(sizes, TOLERANCE)]
    y_title = "measured / predicted"
    decades = [size for size in sizes if math.isclose(math.log10(size), round(math.log10(size)), abs_tol=1e-6)]
    ticks = decades[::-2][::-1]
    return Panel(task, "step eps", y_title, lines, True, fraction=False, ticks=ticks, x_name="eps", y_range=(0.0, 2.0))


def _line(sources: Sequence[Record], task: str, direction: str, sizes: Sequence[float]) -> Line:
    points = [_ratio(sources, task, direction, size, "loss_change") for size in sizes]
    label = f"along {WHICH[direction]}"
    return Line(direction, label, "measured", STYLES[direction], sizes, points, bars=False)


def _curvature(sources: Sequence[Record], task: str, sizes: Sequence[float]) -> list[Line]:
    points = [_ratio(sources, task, "gradient", size, "second_order_change") for size in sizes]
    if all(point.mean is None for point in points):
        return []
    label, style = "second order, own gradient", Style(PURPLE, "dashdot", width=1.5)
    return [Line("second-order", label, "predicted", style, sizes, points, mode="plain", tabled=0)]


def _ratio(sources: Sequence[Record], task: str, direction: str, size: float, name: str) -> Estimate:
    """Return a change over its first-order prediction, of the seeds in which rounding leaves it readable."""
    ratios, why = [], "not measured"
    for record in sources:
        which: dict[str, Label] = {"task": task, "direction": direction, "eps": size}
        change, first = record.value(name, **which), record.value("first_order_change", **which)
        errors = list(record.select("first_order_error", **which))
        if errors and errors[0].value is None:
            why = errors[0].reason or why
        elif change is not None and first:
            ratios.append(change / first)
    estimated = estimate_values(ratios, fraction=False)
    return estimated if ratios else replace(estimated, reason=why)


def _window_line(sources: Sequence[Record], task: str) -> list[Line]:
    windows = values_of(select(sources, "window", task=task, direction="gradient"))
    end = estimate_geometric([max(window, smallest_step(sources)) for window in windows]).mean
    if end is None:
        return []
    style, upright = Style(VERMILLION, "dashdot", width=1.2), [Estimate(0.0), Estimate(2.0)]
    return [Line("window", "window along the own gradient", "reference", style, [end, end], upright, "plain", tabled=0)]


def _window_text(sources: Sequence[Record], direction: str) -> str:
    censored = [w for w in select(sources, "window", direction=direction) if w.value is not None and w.reason]
    n_windows = len(values_of(select(sources, "window", direction=direction)))
    ends = f"; {len(censored)} of {n_windows} windows reach the largest step that was tried" if censored else ""
    ratio = estimate_geometric(seed_medians(sources, "window_ratio", direction=direction))
    told = f"; over the one that curvature predicts: {ratio.text}" if ratio.mean is not None else ""
    window = window_estimate(sources, direction)
    return f"Window along {WHICH[direction]}, median over tasks: {window.text}{told}{ends}."


def _title(sources: Sequence[Record]) -> str:
    window = window_estimate(sources, "gradient").mean
    if window is None:
        return "How far a task's loss follows its gradient"
    if window <= smallest_step(sources):
        return f"A task's loss does not follow its gradient even at a step of {number(window)}"
    return f"A task's loss follows its own gradient up to {number(window)} of a task vector"
