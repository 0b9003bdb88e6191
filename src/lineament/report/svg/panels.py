"""One panel of a picture as SVG, at the size that it is drawn in."""

from __future__ import annotations

from dataclasses import dataclass

from lineament.report.series import Matrix, Panel, Surface
from lineament.report.svg.axes import RIGHT, Area, Axis, axes_drawn, axes_of, x_title_lines
from lineament.report.svg.elements import LABEL, LINE, TICK, Palette, tag, text_width, words, wrapped
from lineament.report.svg.matrices import matrix_drawn
from lineament.report.svg.series import series_drawn
from lineament.report.svg.surfaces import surface_axes, surface_drawn

# Panels are drawn at these widths and heights in pixels: small where more than two stand side by side.
WIDE, WIDE_HEIGHT = 430.0, 270.0
SMALL, SMALL_HEIGHT = 320.0, 190.0
ROW_HEIGHT, ROW_NAMES = 36.0, 150.0


@dataclass(frozen=True)
class Drawing:
    """A panel that is drawn: its size in pixels, and the elements in it."""

    width: float
    height: float
    body: str


def panel_drawn(panel: Panel | Matrix | Surface, small: bool, palette: Palette) -> Drawing:
    """Draw one panel.

    Args:
        small: whether it stands beside two others or more.
    """
    width = SMALL if small else WIDE
    if isinstance(panel, Matrix):
        return Drawing(width, *matrix_drawn(panel, width, palette))
    x, y = surface_axes(panel) if isinstance(panel, Surface) else axes_of(panel)
    rows = isinstance(panel, Panel) and bool(panel.rows)
    if rows:
        y = _rows_wrapped(y)
    area = _area(x, y, width, _inner_height(panel, small), 8 if rows or not panel.title else 28)
    inside = surface_drawn(panel, area, palette) if isinstance(panel, Surface) else series_drawn(panel, area, palette)
    title = ""
    if panel.title and not rows:
        title = words(area.left, LABEL, panel.title, font_size=LABEL, font_weight="bold", fill=palette.ink)
    below = 16 + TICK + LABEL * LINE * len(x_title_lines(area)) + 4
    return Drawing(width, area.top + area.height + below, title + axes_drawn(area, palette) + inside)


def panel_alone(drawing: Drawing, name: str, palette: Palette) -> str:
    """Return a panel as an element of its own, which takes the width that it is given."""
    return tag(
        "svg",
        drawing.body,
        viewBox=f"0 0 {drawing.width:.0f} {drawing.height:.0f}",
        role="img",
        aria_label=name,
        fill=palette.ink,
        class_="panel",
    )


def _inner_height(panel: Panel | Surface, small: bool) -> float:
    if isinstance(panel, Panel) and panel.rows:
        return ROW_HEIGHT * len(panel.rows)
    return SMALL_HEIGHT if small else WIDE_HEIGHT


def _area(x: Axis, y: Axis, width: float, height: float, top: float) -> Area:
    """Return where series are drawn: beside the labels and the title of the axis that goes up."""
    labels = max((text_width(row, TICK) for _, text in y.ticks for row in text.split("\n")), default=0.0)
    title = LABEL * LINE * len(wrapped(y.title, LABEL, height + 24)) if y.title else 0.0
    left = labels + title + 14
    return Area(left, top, width - left - RIGHT, height, x, y)


def _rows_wrapped(axis: Axis) -> Axis:
    ticks = [(place, "\n".join(wrapped(name, TICK, ROW_NAMES))) for place, name in axis.ticks]
    return Axis(axis.low, axis.high, ticks, axis.title)
