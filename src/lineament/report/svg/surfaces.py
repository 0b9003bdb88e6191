"""Surfaces as SVG: measured values filled in, with lines of equal predicted value over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from lineament.report.estimates import Estimate, number
from lineament.report.series import VERMILLION, Style, Surface
from lineament.report.svg.axes import Area, Axis
from lineament.report.svg.elements import Attributes, Palette, blend, hover, mark, path, tag, words

COLORS = ((242, 247, 251), (158, 202, 225), (49, 130, 189))
N_LEVELS = 12
# Levels of the measured values are between these percentiles: at large scales losses may be those of a broken model.
ENDS = (0, 95)
STAR = Style("#ffffff", symbol="star")
Values = Mapping[tuple[float, float], Estimate]
# A corner of a polygon: its place, its value, and whether a level runs through it.
Corner = tuple[float, float, float, bool]
Segment = tuple[tuple[float, float], tuple[float, float]]


def surface_axes(surface: Surface) -> tuple[Axis, Axis]:
    """Return both axes."""
    x, y = (
        Axis(min(places), max(places), [(place, number(place)) for place in places], title)
        for places, title in ((surface.x, surface.x_title), (surface.y, surface.y_title))
    )
    return x, y


def surface_drawn(surface: Surface, area: Area, palette: Palette) -> str:
    """Return bands of measured values, dashed lines of predicted ones at the same levels, and the mark."""
    levels = _levels(surface.measured.values())
    x, y, name = surface.mark
    star = area.at(x, y)
    shown = mark(STAR, *star, 7, palette, name).replace('stroke="#ffffff"', 'stroke="#111111"') if star else ""
    parts = (
        tag("g", *_bands(surface, area, levels), data_key="measured"),
        tag("g", *_contours(surface, area, levels), data_key="predicted", fill="none", stroke=VERMILLION),
        tag("g", *_felt(surface, area), class_="hovers"),
    )
    inside = tag("svg", *parts, x=area.left, y=area.top, width=area.width, height=area.height)
    return inside + tag("g", shown, data_key="mark", transform=f"translate({area.left:.1f} {area.top:.1f})")


def _levels(values: Iterable[Estimate]) -> np.ndarray:
    known = np.array([value.mean for value in values if value.mean is not None] or [0.0])
    low, high = (float(end) for end in np.percentile(known, ENDS))
    return np.linspace(low, high if high > low else low + 1.0, N_LEVELS + 1)


def _bands(surface: Surface, area: Area, levels: np.ndarray) -> Iterator[str]:
    """Return for each level everything at or above it, painted over the levels below."""
    for i, level in enumerate(levels[:-1]):
        shapes = []
        for cell in _cells(surface, surface.measured, area):
            corners = _above(cell, -np.inf if i == 0 else float(level))
            shapes.append(path([(x, y) for x, y, _, _ in corners], closed=True) if len(corners) > 2 else "")
        color = blend(COLORS, i / (N_LEVELS - 1))
        yield tag("path", d="".join(shapes), fill=color, stroke=color, stroke_width=0.6)


def _contours(surface: Surface, area: Area, levels: np.ndarray) -> Iterator[str]:
    for level in levels[1:]:
        segments = [s for cell in _cells(surface, surface.predicted, area) for s in _crossings(cell, float(level))]
        if not segments:
            continue
        d = "".join(path(segment) for segment in segments)
        yield tag("path", d=d, stroke_width=1.5, stroke_dasharray="5 3")
        (x0, y0), (x1, y1) = segments[len(segments) // 2]
        where: Attributes = {"font_size": 10, "text_anchor": "middle", "fill": VERMILLION, "stroke": "none"}
        if 12 < (x0 + x1) / 2 < area.width - 12 and 12 < (y0 + y1) / 2 < area.height - 6:
            yield words((x0 + x1) / 2, (y0 + y1) / 2 + 3.5, number(float(level)), **where)


def _cells(surface: Surface, values: Values, area: Area) -> Iterator[list[Corner]]:
    """Return the corners of each rectangle of the grid, in their order around it; those with a gap are left out."""
    for x in zip(surface.x, surface.x[1:], strict=False):
        for y in zip(surface.y, surface.y[1:], strict=False):
            corners = list[Corner]()
            for place in ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])):
                at, value = area.at(*place), values[place].mean
                if at is not None and value is not None:
                    corners.append((*at, value, False))
            if len(corners) == 4:
                yield corners


def _above(corners: Sequence[Corner], level: float) -> list[Corner]:
    """Return the part of a polygon whose values, taken as linear along its edges, are at or above a level."""
    kept = list[Corner]()
    for one, other in zip(corners, [*corners[1:], corners[0]], strict=True):
        if one[2] >= level:
            kept.append(one)
        if (one[2] >= level) != (other[2] >= level):
            part = (level - one[2]) / (other[2] - one[2])
            kept.append((one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1]), level, True))
    return kept


def _crossings(corners: Sequence[Corner], level: float) -> Iterator[Segment]:
    """Return the pieces of the line of one level inside a rectangle."""
    ends = [(x, y) for x, y, _, crossing in _above(corners, level) if crossing]
    yield from zip(ends[::2], ends[1::2], strict=False)


def _felt(surface: Surface, area: Area) -> Iterator[str]:
    for (x, y), measured in surface.measured.items():
        at = area.at(x, y)
        if at is not None:
            where = f"{surface.x_title} {number(x)}, {surface.y_title} {number(y)}"
            text = f"{surface.title}\n{where}\nmeasured {measured.text}\npredicted {surface.predicted[x, y].text}"
            yield tag("circle", hover(text), cx=at[0], cy=at[1], r=8, class_="felt", stroke="none", fill="none")
