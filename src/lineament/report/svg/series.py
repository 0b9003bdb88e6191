"""The series of a panel as SVG: lines, marks, intervals, and what is shown of each point under the pointer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lineament.report.estimates import Estimate
from lineament.report.series import Line, Panel
from lineament.report.svg.axes import Area
from lineament.report.svg.elements import DASHES, Palette, hover, mark, path, tag

# Lines with bars are moved sideways by this much each, so that their bars can be told apart: decades on a logarithmic
# axis, a part of the axis on a linear one, and a part of the way to the next name where positions have names.
DODGE_DECADES, DODGE_SPAN, DODGE_NAMED = 0.025, 0.012, 0.09
RADIUS, RADIUS_ALONE, RADIUS_FELT = 3.5, 4.5, 6.0
BAR_END, FAR = 3.5, 2000.0


def series_drawn(panel: Panel, area: Area, palette: Palette) -> str:
    """Return every series of a panel, inside the area and cut off at its edges."""
    moved = dodged(panel)
    body = "".join(_line(panel, line, x, area, palette) for line, x in zip(panel.lines, moved, strict=True))
    return tag("svg", body, x=area.left, y=area.top, width=area.width, height=area.height)


def dodged(panel: Panel) -> list[list[float]]:
    """Return where the points of each line are drawn along x: moved a little if lines have bars at one place."""
    barred = [line for line in panel.lines if line.shown and line.bars and (line.mode == "line" or panel.names)]
    keys = dict.fromkeys(line.key for line in barred if line.mode in ("line", "dots"))
    middle = (len(keys) - 1) / 2
    moves = {key: i - middle for i, key in enumerate(keys)}
    return [[_moved(panel, float(x), moves.get(line.key, 0.0)) for x in line.x] for line in panel.lines]


def _moved(panel: Panel, x: float, by: float) -> float:
    if panel.names:
        return x + DODGE_NAMED * by
    if not panel.ticks:
        return x
    return x * 10 ** (DODGE_DECADES * by) if panel.x_log else x + DODGE_SPAN * (panel.ticks[-1] - panel.ticks[0]) * by


def _line(panel: Panel, line: Line, x: Sequence[float], area: Area, palette: Palette) -> str:
    """Return one series: its band or bars, its line, its marks."""
    color = palette.series(line.style.color)
    middle = [_placed(panel, area, at, point.mean) for at, point in zip(x, line.points, strict=True)]
    parts = [_band(panel, line, x, area, color)] if line.mode == "band" else []
    if line.bars and line.mode in ("line", "dots"):
        parts += _bars(panel, line, x, area)
    if line.mode != "dots":
        told = hover(line.label) if _named_only(line) else ""
        dash = DASHES[line.style.dash]
        parts.append(tag("path", told, d=path(middle), stroke_width=line.style.width, stroke_dasharray=dash))
    parts += _points(panel, line, middle, palette)
    return tag("g", *parts, data_key=line.key, class_=None if line.shown else "off", stroke=color, fill="none")


def _points(panel: Panel, line: Line, middle: Sequence[tuple[float, float] | None], palette: Palette) -> Iterable[str]:
    """Return marks, or for lines without any the places that tell their values under the pointer."""
    felt = line.mode in ("plain", "band")
    if felt and _named_only(line):
        return
    count = len(line.points)
    kept = set(np.linspace(0, count - 1, min(count, max(2, line.tabled))).round().astype(int)) if felt else None
    radius = RADIUS_ALONE if line.mode == "dots" else RADIUS
    for i, (x, point, at) in enumerate(zip(line.x, line.points, middle, strict=True)):
        if at is None or (kept is not None and i not in kept):
            continue
        text = point_text(panel, line, x, point)
        if felt:
            yield tag("circle", hover(text), cx=at[0], cy=at[1], r=RADIUS_FELT, class_="felt", stroke="none")
        else:
            yield mark(line.style, *at, radius, palette, text)


def point_text(panel: Panel, line: Line, x: float, point: Estimate) -> str:
    """Return what is said of a point: its series, its place, its value with interval, seeds and remark."""
    seeds = f"\n{point.n_seeds} seeds" if point.n_seeds > 1 else ""
    remark = f"\n{point.reason}" if point.reason and point.mean is not None else ""
    return f"{line.label}\n{panel.position(x)}: {point.hover}{seeds}{remark}"


def _named_only(line: Line) -> bool:
    """Return whether a series is a reference, of which its name says all."""
    return line.group == "reference" and line.tabled <= 1


def _placed(panel: Panel, area: Area, at: float, value: float | None) -> tuple[float, float] | None:
    found = area.at(value, at) if panel.rows else area.at(at, value)
    return None if found is None else (_near(found[0]), _near(found[1]))


def _near(place: float) -> float:
    """Return a place that is no further outside than a renderer can take."""
    return min(max(place, -FAR), FAR)


def _bars(panel: Panel, line: Line, x: Sequence[float], area: Area) -> Iterable[str]:
    shapes: list[str] = []
    for at, point in zip(x, line.points, strict=True):
        if point.mean is None or point.low is None or point.high is None:
            continue
        ends = [_end(panel, area, at, value) for value in (min(point.low, point.mean), max(point.high, point.mean))]
        (x0, y0), (x1, y1) = ends
        if panel.rows:
            shapes.append(
                f"M{x0:.1f} {y0 - BAR_END:.1f}v{2 * BAR_END}M{x0:.1f} {y0:.1f}H{x1:.1f}m0 -{BAR_END}v{2 * BAR_END}"
            )
        else:
            shapes.append(
                f"M{x0 - BAR_END:.1f} {y0:.1f}h{2 * BAR_END}M{x0:.1f} {y0:.1f}V{y1:.1f}m-{BAR_END} 0h{2 * BAR_END}"
            )
    return [tag("path", d="".join(shapes), stroke_width=1.2, class_="bars")] if shapes else []


def _end(panel: Panel, area: Area, at: float, value: float) -> tuple[float, float]:
    """Return the end of a bar; one without a place, such as 0 on a logarithmic axis, is beyond the lower edge."""
    found = _placed(panel, area, at, value)
    if found is not None:
        return found
    along = _placed(panel, area, at, 1.0) or (0.0, 0.0)
    return (-FAR, along[1]) if panel.rows else (along[0], FAR)


def _band(panel: Panel, line: Line, x: Sequence[float], area: Area, color: str) -> str:
    if any(point.low is None or point.high is None for point in line.points):
        return ""
    up = [(at, point.high) for at, point in zip(x, line.points, strict=True)]
    down = [(at, point.low) for at, point in zip(x, line.points, strict=True)]
    corners = [_placed(panel, area, at, value) for at, value in [*up, *reversed(down)]]
    return tag("path", d=path([c for c in corners if c], closed=True), fill=color, fill_opacity="0.18", stroke="none")
