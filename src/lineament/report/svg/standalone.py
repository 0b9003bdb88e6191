"""A picture as one SVG that explains itself: title, legend, panels and caption, in light colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from lineament.report.legend import Entry, Groups, legend
from lineament.report.series import Matrix, Panel, Picture, Surface
from lineament.report.svg.elements import (
    ALONE,
    LINE,
    SMALL,
    Attributes,
    Palette,
    hover,
    lines_of_words,
    swatch,
    tag,
    text_width,
    words,
    wrapped,
)
from lineament.report.svg.panels import SMALL as SMALL_PANEL
from lineament.report.svg.panels import WIDE, Drawing, panel_drawn

# Renderers without a browser know no generic family, so those of the common systems are named.
FONT = "'DejaVu Sans', 'Noto Sans', 'Liberation Sans', 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
TITLE, EDGE, GAP, SWATCH, ROW = 17, 20.0, 16.0, 34.0, 20.0
MOST_IN_A_ROW = 3
# How much wider bold letters are, the least width of the whole, and how much a panel grows that stands alone.
BOLD, LEAST_WIDTH, GROWN = 1.17, 680.0, 1.35
# How a picture that was made here is known again.
MAKER = "Lineament"


@dataclass(frozen=True)
class Block:
    """Elements that take a height of the picture."""

    height: float
    body: str


def standalone(picture: Picture) -> str:
    """Return a picture as the text of a file: everything that is shown at first, with values under the pointer.

    The same picture always gives the same text.
    """
    shown = replace(picture, panels=[_shown(panel) for panel in picture.panels])
    return _assembled(shown, [drawing.body for drawing in drawings(shown, ALONE)], more=False)


def frame(picture: Picture) -> str:
    """Return what `standalone` puts around panels, without them, and with the legend of series that wait.

    Panels have places of their own, `svg` elements with the attribute `data-panel`; entries have `data-key`.
    """
    return _assembled(picture, [""] * len(picture.panels), more=True)


def drawings(picture: Picture, palette: Palette) -> list[Drawing]:
    """Draw the panels of a picture."""
    return [panel_drawn(panel, is_small(picture), palette) for panel in picture.panels]


def is_small(picture: Picture) -> bool:
    """Return whether the panels of a picture are small, so that three or more stand side by side."""
    return _in_a_row(picture) > 2


def _assembled(picture: Picture, bodies: Sequence[str], more: bool) -> str:
    sizes = drawings(picture, ALONE)
    per_row = _in_a_row(picture)
    panel_width = SMALL_PANEL if is_small(picture) else WIDE
    width = max(LEAST_WIDTH, per_row * panel_width + (per_row - 1) * GAP + 2 * EDGE)
    room, entries = width - 2 * EDGE, legend(picture)
    blocks = [
        _text(picture.title, TITLE, room, ALONE.ink, bold=True),
        _legend(entries.shown, room, ""),
        _panels(sizes, bodies, per_row),
        _text(picture.caption, SMALL, room, ALONE.soft),
    ]
    last = _legend(entries.more, room, "off") if more and entries.more else Block(0.0, "")
    height = EDGE + sum(block.height + GAP for block in blocks)
    starts = accumulate((block.height + GAP for block in [*blocks]), initial=EDGE)
    body = "".join(
        tag("g", block.body, transform=f"translate({EDGE:.0f} {start:.1f})")
        for block, start in zip([*blocks, last], starts, strict=True)
    )
    paper = tag("rect", width="100%", height="100%", fill=ALONE.page)
    return tag(
        "svg",
        hover(picture.title),
        tag("desc", _plain(picture.caption)),
        paper,
        body,
        xmlns="http://www.w3.org/2000/svg",
        data_maker=MAKER,
        data_more=f"{last.height + GAP:.0f}" if last.body else None,
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        fill=ALONE.ink,
        font_family=FONT,
    )


def _shown(panel: Panel | Matrix | Surface) -> Panel | Matrix | Surface:
    """Return a panel without the series that wait for a reader to ask for them."""
    return replace(panel, lines=[line for line in panel.lines if line.shown]) if isinstance(panel, Panel) else panel


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _in_a_row(picture: Picture) -> int:
    return picture.per_row or min(MOST_IN_A_ROW, len(picture.panels))


def _text(text: str, size: float, room: float, color: str, bold: bool = False) -> Block:
    lines = wrapped(text, size * (BOLD if bold else 1.0), room)
    weight = "bold" if bold else None
    return Block(len(lines) * size * LINE, lines_of_words(0, size, lines, size, fill=color, font_weight=weight))


def _panels(sizes: Sequence[Drawing], bodies: Sequence[str], per_row: int) -> Block:
    parts, top, grown = list[str](), 0.0, GROWN if per_row == 1 else 1.0
    for row in range(0, len(sizes), per_row):
        ours = sizes[row : row + per_row]
        for column, drawing in enumerate(ours):
            width, height = grown * drawing.width, grown * drawing.height
            size: Attributes = {
                "width": width,
                "height": height,
                "viewBox": f"0 0 {drawing.width:.0f} {drawing.height:.1f}",
            }
            where: Attributes = {"x": column * (width + GAP), "y": top, "data_panel": str(row + column)}
            parts.append(tag("svg", bodies[row + column], **where, **size))
        top += grown * max(drawing.height for drawing in ours) + GAP
    return Block(top - GAP, "".join(parts))


def _legend(groups: Groups, room: float, off: str) -> Block:
    """Return signs and names of series, each group on lines of its own."""
    parts, top = list[str](), 0.0
    for name, entries in groups:
        heading = f"{name}:" if name else ""
        left = text_width(heading, SMALL) + 10 if heading else 0.0
        parts.append(words(0, top + SMALL, heading, font_size=SMALL, fill=ALONE.soft) if heading else "")
        x = left
        for entry in entries:
            wide = SWATCH + 6 + text_width(entry.label, SMALL) + 14
            if x > left and x + wide > room:
                x, top = left, top + ROW
            parts.append(_entry(entry, x, top, off))
            x += wide
        top += ROW
    return Block(max(0.0, top - 4), "".join(parts))


def _entry(entry: Entry, x: float, top: float, off: str) -> str:
    sign = swatch(entry.style, ALONE, entry.line, entry.symbol)
    name = words(SWATCH + 6, SMALL, entry.label, font_size=SMALL)
    where = f"translate({x:.1f} {top:.1f})"
    waits = "" if entry.shown else "1"
    return tag("g", sign, name, transform=where, data_key=entry.key, data_waits=waits or None, class_=off or None)
