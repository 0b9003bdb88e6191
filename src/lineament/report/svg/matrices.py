"""Matrices of pairs as SVG: square cells with a number in each, darker where it matters more."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lineament.report.series import Matrix
from lineament.report.svg.elements import LABEL, TICK, Attributes, Palette, blend, hover, tag, words

# Colours of shades 0, 1/2 and 1, with what is written on them.
COLORS = ((232, 241, 248), (107, 174, 214), (8, 48, 107))
DARK_FROM, ON_LIGHT, ON_DARK = 0.55, "#1a1d21", "#ffffff"
NAME_LETTERS, LARGEST, TOP, LEFT = 8, 56, 26, 96


def matrix_drawn(matrix: Matrix, width: float, palette: Palette) -> tuple[float, str]:
    """Return the height and the body of a matrix: both halves, numbers across, numbers and names down."""
    count = len(matrix.names)
    side = min(LARGEST, (width - LEFT - 8) / max(1, count))
    title = words(LEFT, LABEL, matrix.title, font_size=LABEL, font_weight="bold", fill=palette.ink)
    cells = "".join(_cells(matrix, side))
    names = "".join(_names(matrix, side))
    body = f"{title}{tag('g', cells, font_size=_letters(side), text_anchor='middle')}"
    return TOP + count * side + 22, body + tag("g", names, fill=palette.soft, font_size=TICK)


def _cells(matrix: Matrix, side: float) -> Iterable[str]:
    places = range(len(matrix.names))
    for row in places:
        for column in places:
            pair = (min(row, column), max(row, column))
            cell = matrix.cells.get(pair)
            if cell is None or cell.mean is None:
                continue
            shade = min(1.0, max(0.0, matrix.shades.get(pair, 0.0)))
            x, y = LEFT + column * side, TOP + row * side
            told = hover(cell_words(matrix, pair))
            look: Attributes = {"width": side - 2, "height": side - 2, "fill": blend(COLORS, shade), "class_": "pt"}
            yield tag("rect", told, x=x + 1, y=y + 1, **look)
            color = ON_DARK if shade > DARK_FROM else ON_LIGHT
            at = (x + side / 2, y + side / 2 + 0.36 * _letters(side))
            yield words(*at, cell_text(cell.mean), fill=color, pointer_events="none")


def _names(matrix: Matrix, side: float) -> Iterable[str]:
    below = TOP + len(matrix.names) * side + TICK + 4
    for place, name in enumerate(matrix.names):
        middle = (place + 0.5) * side
        yield words(LEFT + middle, below, str(place + 1), text_anchor="middle")
        short = name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
        yield words(LEFT - 8, TOP + middle + 4, f"{place + 1} {short}", text_anchor="end")


def cell_words(matrix: Matrix, pair: tuple[int, int]) -> str:
    """Return what is said of a cell."""
    first, second = (matrix.names[place] for place in pair)
    cell = matrix.cells.get(pair)
    what = f"{first}, two batches" if first == second else f"{first}, {second}"
    return f"{what}\n{matrix.title}: {cell.text if cell else 'not measured'}"


def cell_text(value: float | None) -> str:
    """Write a number in at most four characters and a sign."""
    if value is None or not math.isfinite(value):
        return ""
    size = abs(value)
    if size != 0 and (size < 0.0095 or size >= 9950):
        digits, power = f"{value:.0e}".split("e")
        return f"{digits}e{int(power)}"
    if size < 0.995:
        return f"{value:.2g}".replace("0.", ".", 1)
    return f"{value:.0f}" if size >= 9.95 else f"{value:.2g}"


def _letters(side: float) -> float:
    return max(8.0, min(13.0, side / 2.6))
