"""Axes of a panel: what they span, where their ticks stand, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lineament.report.estimates import number
from lineament.report.series import Line, Panel
from lineament.report.svg.elements import LABEL, LINE, TICK, Palette, lines_of_words, tag, text_width, words, wrapped

FRACTION = (-0.03, 1.05)
FRACTION_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MARGIN = 0.05  # of what is spanned, on both sides
ABOUT_TICKS = 6
BETWEEN = 6  # pixels between the labels of two ticks
RIGHT = 14.0  # pixels right of the area


@dataclass(frozen=True)
class Axis:
    """What an axis spans.

    Attributes:
        low, high: its ends, as logarithms of base 10 where it is logarithmic.
        ticks: (value, label) pairs.
    """

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    title: str = ""
    log: bool = False

    def share(self, value: float | None) -> float | None:
        """Return how far along a value stands, from 0 to 1 inside; None where it has no place."""
        if value is None or not math.isfinite(value) or (self.log and value <= 0):
            return None
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Area:
    """The rectangle of a panel that series are drawn in, in pixels, with its axes."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    def at(self, x: float | None, y: float | None) -> tuple[float, float] | None:
        """Return a place inside of the area; None where a value has none."""
        across, up = self.x.share(x), self.y.share(y)
        return None if across is None or up is None else (across * self.width, (1 - up) * self.height)


def axes_of(panel: Panel) -> tuple[Axis, Axis]:
    """Return what both axes of a panel span; series that wait for the reader count like those that are shown."""
    if panel.rows:
        rows = Axis(len(panel.rows) - 0.4, -0.6, list(enumerate(panel.rows)))
        span = None if panel.fraction else _spanned(_values(panel.lines), panel.x_log)
        return _values_axis(panel.x_title, panel.x_log, span), rows
    x = _positions(panel)
    span = panel.y_range or (None if panel.fraction else _spanned(_values(panel.lines), panel.y_log))
    return x, _values_axis(panel.y_title, panel.y_log, span)


def _positions(panel: Panel) -> Axis:
    if panel.names:
        return Axis(-0.5, len(panel.names) - 0.5, list(enumerate(panel.names)), panel.x_title)
    places = [float(x) for line in panel.lines for x in line.x]
    low, high = _spanned([*places, *panel.ticks], panel.x_log)
    ticks = [(tick, number(tick)) for tick in panel.ticks] or _ticks(low, high, panel.x_log)
    return Axis(low, high, ticks, panel.x_title, panel.x_log)


def _values_axis(title: str, log: bool, span: tuple[float, float] | None) -> Axis:
    if span is None:
        return Axis(*FRACTION, [(tick, f"{tick:g}") for tick in FRACTION_TICKS], title)
    return Axis(*span, _ticks(*span, log), title, log)


def _values(lines: Iterable[Line]) -> list[float]:
    """Return means, and the ends of the bars that are drawn."""
    found = list[float | None]()
    for line in lines:
        ends = line.mode == "band" or (line.bars and line.mode != "plain")
        for point in line.points:
            found += [point.mean, *((point.low, point.high) if ends and point.mean is not None else ())]
    return [value for value in found if value is not None]


def _spanned(values: Iterable[float], log: bool) -> tuple[float, float]:
    """Return ends around values, as logarithms where these are asked for."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    known = [math.log10(value) for value in finite] if log else finite
    low, high = min(known, default=0.0), max(known, default=1.0)
    margin = MARGIN * (high - low) or (0.3 if log else 0.5 * abs(low) or 0.5)
    return low - margin, high + margin


def _ticks(low: float, high: float, log: bool) -> list[tuple[float, str]]:
    if not log:
        return _even_ticks(low, high)
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    every = [step * 10.0**decade for decade in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    inside = [tick for tick in every if low <= math.log10(tick) <= high]
    if len(inside) < 2:  # less than a step of them
        return _even_ticks(10**low, 10**high)
    return [(tick, number(tick)) for tick in inside]


def _even_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / ABOUT_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    places = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = max(0, -math.floor(math.log10(step)))
    told = 1 + max(2, math.ceil(math.log10(max(map(abs, places), default=1.0) / step or 1.0)))
    return [(tick, f"{tick:,.{digits}f}" if digits < 5 else f"{tick:.{told}g}") for tick in places]


def x_title_lines(area: Area) -> list[str]:
    """Return the title of the axis that goes across, in lines that fit the panel."""
    return wrapped(area.x.title, LABEL, area.left + area.width + RIGHT)


def axes_drawn(area: Area, palette: Palette) -> str:
    """Return grid, ticks, labels and titles of both axes; labels that would touch their neighbours are left out."""
    return tag("g", *_across(area, palette), *_up(area, palette), fill=palette.soft, stroke="none")


def _across(area: Area, palette: Palette) -> Iterable[str]:
    bottom, taken = area.top + area.height, -math.inf
    for value, text in area.x.ticks:
        share = area.x.share(value)
        if share is None or not -0.001 <= share <= 1.001:
            continue
        x = area.left + share * area.width
        yield _grid_line(f"M{x:.1f} {area.top:.1f}V{bottom + 4:.1f}", palette)
        room = text_width(text, TICK) / 2
        if x - room >= taken:
            yield words(x, bottom + 6 + TICK, text, text_anchor="middle", font_size=TICK)
            taken = x + room + BETWEEN
    yield _grid_line(f"M{area.left:.1f} {bottom:.1f}h{area.width:.1f}", palette, strong=True)
    lines = x_title_lines(area)
    half = max(text_width(line, LABEL) for line in lines) / 2
    middle = max(half, min(area.left + area.width / 2, area.left + area.width + RIGHT - half))
    foot = bottom + 14 + TICK + LABEL
    yield lines_of_words(middle, foot, lines, LABEL, text_anchor="middle", fill=palette.ink)


def _up(area: Area, palette: Palette) -> Iterable[str]:
    for value, text in area.y.ticks:
        share = area.y.share(value)
        if share is None or not -0.001 <= share <= 1.001:
            continue
        y = area.top + (1 - share) * area.height
        yield _grid_line(f"M{area.left - 4:.1f} {y:.1f}h{area.width + 4:.1f}", palette)
        rows = text.split("\n")
        first = y + TICK * (0.36 - (len(rows) - 1) * LINE / 2)
        yield lines_of_words(area.left - 8, first, rows, TICK, text_anchor="end")
    yield _grid_line(f"M{area.left:.1f} {area.top:.1f}v{area.height:.1f}", palette, strong=True)
    lines = wrapped(area.y.title, LABEL, area.height + 24) if area.y.title else []
    if lines:
        middle = area.top + area.height / 2
        turned = f"translate({LABEL:.1f} {middle:.1f}) rotate(-90)"
        yield lines_of_words(0, 0, lines, LABEL, text_anchor="middle", transform=turned, fill=palette.ink)


def _grid_line(d: str, palette: Palette, strong: bool = False) -> str:
    return tag("path", d=d, stroke=palette.soft if strong else palette.grid, fill="none")
