"""Elements of an SVG: tags, text that is measured and wrapped, and the marks of series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from lineament.report.series import BLACK, BLUE, Style

TICK, LABEL, SMALL = 12.5, 13, 12.5
LINE = 1.25  # distance of lines over the size of letters
# Widths of letters over their size, of DejaVu Sans, which is among the widest of the fonts that are common.
NARROW, WIDE, CAPITAL, OTHER = 0.36, 0.95, 0.7, 0.6
# Attributes of an element, without those that are None.
Attributes = dict[str, str | float | None]
DASHES = {"solid": None, "dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "10 4"}


@dataclass(frozen=True)
class Palette:
    """The colours of everything but series, as CSS."""

    ink: str
    soft: str
    grid: str
    page: str
    blue: str

    def series(self, color: str) -> str:
        """Return the colour of a series; black and blue are those of the palette."""
        return {BLACK: self.ink, BLUE: self.blue}.get(color, color)


# The page's are variables of its style, which follow the reader's colour scheme and turn light in print.
IN_PAGE = Palette("var(--ink)", "var(--soft)", "var(--grid)", "var(--page)", "var(--blue)")
ALONE = Palette("#1a1d21", "#59616b", "#e3e7eb", "#ffffff", "#0072b2")


def tag(name: str, *content: str, **attributes: str | float | None) -> str:
    """Return an element; an attribute of None is left out, and `_` in its name stands for `-`."""
    given = [
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(_written(value))}"
        for key, value in attributes.items()
        if value is not None
    ]
    head = f"{name}{''.join(given)}"
    return f"<{head}>{''.join(content)}</{name}>" if any(content) else f"<{head}/>"


def place(value: float) -> str:
    """Return a coordinate with one decimal."""
    return f"{value + 0.0 if abs(value) >= 0.05 else 0.0:.1f}".removesuffix(".0")


def words(x: float, y: float, text: str, **attributes: str | float | None) -> str:
    """Return one line of text."""
    return tag("text", escape(text), x=x, y=y, **attributes)


def lines_of_words(x: float, y: float, lines: Sequence[str], size: float, **attributes: str | float | None) -> str:
    """Return lines of text, one below the other, the first with its foot at y."""
    rows = (words(x, y + i * size * LINE, line) for i, line in enumerate(lines))
    return tag("g", *rows, font_size=size, **attributes)


def hover(text: str) -> str:
    """Return what is shown of an element under the pointer."""
    return tag("title", escape(text))


def text_width(text: str, size: float) -> float:
    """Return about how wide a line of text is, rather too much than too little."""
    return size * sum(_letter(letter) for letter in text)


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Return text in lines no wider than `width` where its spaces allow; a number keeps its % sign."""
    lines: list[str] = []
    for word in text.replace(" %", "\u00a0%").split(" "):
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def path(points: Iterable[tuple[float, float] | None], closed: bool = False) -> str:
    """Return the `d` of a line through points, broken where there is none; points that look like one are one."""
    parts: list[str] = []
    last: tuple[float, float] | None = None
    skipped: tuple[float, float] | None = None
    for point in points:
        if point is None:
            last = skipped = None
        elif last is None or math.dist(point, last) >= 0.7:
            parts.append(f"{'L' if last else 'M'}{place(point[0])} {place(point[1])}")
            last, skipped = point, None
        else:
            skipped = point
    if skipped is not None:
        parts.append(f"L{place(skipped[0])} {place(skipped[1])}")
    return "".join(parts) + ("Z" if closed and parts else "")


def mark(style: Style, x: float, y: float, radius: float, palette: Palette, text: str = "") -> str:
    """Return the symbol of a series at a place."""
    color = palette.series(style.color)
    inside, role = (hover(text), "pt") if text else ("", None)
    if style.symbol == "x":
        shape = (
            f"M{place(x - radius)} {place(y - radius)}l{place(2 * radius)} {place(2 * radius)}m0 {place(-2 * radius)}"
        )
        return tag(
            "path",
            inside,
            d=f"{shape}l{place(-2 * radius)} {place(2 * radius)}",
            stroke=color,
            stroke_width=2,
            class_=role,
        )
    look: Attributes = {"fill": palette.page if style.open else color, "stroke": color, "class_": role}
    if style.symbol == "circle":
        return tag("circle", inside, cx=x, cy=y, r=radius, **look)
    corners = [(x + radius * across, y + radius * down) for across, down in SHAPES[style.symbol]]
    return tag("path", inside, d=path(corners, closed=True), **look)


def swatch(style: Style, palette: Palette, line: bool, symbol: bool) -> str:
    """Return the sign of a series for a legend, 34 wide and 14 high."""
    color = palette.series(style.color)
    stroke = tag("path", d="M1 7H33", stroke=color, stroke_width=style.width, stroke_dasharray=DASHES[style.dash])
    return (stroke if line else "") + (mark(style, 17, 7, 4, palette) if symbol else "")


def blend(colors: Sequence[tuple[int, int, int]], shade: float) -> str:
    """Return the colour at `shade` from 0 to 1 between the first, the middle and the last of three colours."""
    start, end = colors[:2] if shade < 0.5 else colors[1:]
    part = 2 * shade - (0 if shade < 0.5 else 1)
    return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in zip(start, end, strict=True))


def _star() -> list[tuple[float, float]]:
    radii = (1.25, 0.5)
    turns = [math.pi * i / 5 for i in range(10)]
    return [(radii[i % 2] * math.sin(turn), -radii[i % 2] * math.cos(turn)) for i, turn in enumerate(turns)]


# Corners of symbols, in radii from their middle.
SHAPES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)],
    "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
    "triangle-up": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    "triangle-down": [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
    "triangle-left": [(-1.2, 0), (0.9, 1.15), (0.9, -1.15)],
    "star": _star(),
}


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else place(value)


def _letter(letter: str) -> float:
    if letter in "ijl.,:;|!'()[] \u00a0ftIr1":
        return NARROW
    return WIDE if letter in "mwMW%@—" else CAPITAL if letter.isupper() else OTHER
