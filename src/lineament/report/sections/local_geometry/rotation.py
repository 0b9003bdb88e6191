"""How fast planes of gradients turn along further training on one task."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_positive,
    estimate_values,
    label_numbers,
    label_texts,
    select,
)
from lineament.report.sections.local_geometry.pairs import seed_medians
from lineament.report.series import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    reference_line,
)

CAPTION = (
    "From theta_star each task is trained on further, alone. Left: overlap of its plane of fresh gradients with the "
    "one at theta_star, rescaled so that 1 is what two halves of one sample share and 0 what two random planes share. "
    "Right: the share of the energy of fresh gradients that the plane of theta_star still holds; the ceiling is a "
    "fresh plane's. Null: the other tasks' planes. Median over tasks, mean and 95 % interval over seeds; single tasks "
    "wait in the legend."
)
COLORS = (VERMILLION, GREEN, PURPLE, ORANGE, BLUE)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def rotation_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw rescaled overlap and retention against lag, with null and ceiling."""
    if not select(sources, "plane_overlap"):
        return None
    panels = [
        _panel(sources, "plane_overlap", "rescaled overlap", "rescaled overlap (fraction)"),
        _panel(sources, "plane_retention", "retention", "energy held (fraction)"),
    ]
    panels = [panel for panel in panels if panel.lines]
    life = estimate_positive(select(sources, "median_plane_half_life"))
    reasons = sorted({q.reason for q in select(sources, "median_plane_half_life") if q.reason})
    told = f" ({'; '.join(reasons)})" if reasons and life.mean is not None else ""
    notes = [f"Half-life in steps, median over tasks: {life.text}{told}."]
    return Picture("geometry-rotation", "How fast planes of gradients turn", CAPTION, panels, sources, notes)


def _panel(sources: Sequence[Record], name: str, title: str, y_title: str) -> Panel:
    lags = label_numbers(sources, name, "lag")
    lines = []
    if lags:
        own = [estimate_values(seed_medians(sources, name, lag=lag), fraction=False) for lag in lags]
        lines.append(Line("own", "median over tasks", "planes", Style(BLUE, width=3), lags, own))
        lines += [*_beside(sources, name, lags), *_single(sources, name, lags)]
        if name == "plane_overlap":
            half = Style(GREY, "dot")
            lines.append(reference_line("half", "half", [lags[0], lags[-1]], Estimate(0.5), half))
    return Panel(title, "lag (steps)", y_title, lines, x_log=True, ticks=lags, x_name="lag")


def _beside(sources: Sequence[Record], name: str, lags: Sequence[float]) -> list[Line]:
    """Return ceiling and null, where the records have them."""
    kinds = {
        "ceiling": ("ceiling: a fresh plane", "reference", Style(GREY, "dash", "square")),
        "null": ("null: other tasks' planes", "null", Style(ORANGE, "dash", "x")),
    }
    lines = []
    for kind, (label, group, style) in kinds.items():
        points = [estimate_values(_means(sources, name, kind, lag), fraction=False) for lag in lags]
        if any(point.mean is not None for point in points):
            lines.append(Line(kind, label, group, style, lags, points, bars=False))
    return lines


def _means(sources: Sequence[Record], name: str, kind: str, lag: float) -> list[float]:
    """Return each seed's mean over tasks of the null or ceiling."""
    found = [[getattr(q, kind) for q in record.select(name, lag=lag)] for record in sources]
    known = [[value for value in values if value is not None] for values in found]
    return [sum(values) / len(values) for values in known if values]


def _single(sources: Sequence[Record], name: str, lags: Sequence[float]) -> list[Line]:
    lines = []
    for place, task in enumerate(label_texts(sources, name, "task")):
        points = [estimate(select(sources, name, task=task, lag=lag), fraction=False) for lag in lags]
        style = Style(COLORS[place % len(COLORS)], DASHES[place // len(COLORS) % len(DASHES)], width=1.2)
        lines.append(Line(f"task-{task}", task, "single tasks", style, lags, points, shown=False, bars=False))
    return lines
