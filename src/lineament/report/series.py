"""What is drawn and tabled: lines, panels, pictures and tables, and the data behind a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lineament.records import Record
from lineament.report.estimates import Estimate, number

# Okabe and Ito's colours, which readers who see few colours can tell apart; drawing makes black follow the page.
BLACK, ORANGE, GREEN = "#000000", "#E69F00", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"


@dataclass(frozen=True)
class Style:
    """How a line looks; colour is never the only difference."""

    color: str
    dash: str = "solid"
    symbol: str = "circle"
    width: float = 2.0
    open: bool = False


@dataclass(frozen=True)
class Line:
    """One series: estimates at positions x, with how it is shown.

    Attributes:
        mode: `dots`, `line` (line and dots), `band` (line with a shaded interval) or `plain` (line alone).
        tabled: how many points the data table holds at most.
        bars: whether the interval is drawn too; hover and data table always hold it.
    """

    key: str
    label: str
    group: str
    style: Style
    x: Sequence[float]
    points: Sequence[Estimate]
    mode: str = "line"
    shown: bool = True
    tabled: int = 24
    bars: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        rows: names of the positions 0, 1, ... of a horizontal panel, whose estimates run along x.
        names: names of the positions 0, 1, ... along x, where these are no numbers.
    """

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    x_log: bool = False
    y_log: bool = False
    fraction: bool = True
    ticks: Sequence[float] = ()
    rows: Sequence[str] = ()
    x_name: str = "x"
    y_range: tuple[float, float] | None = None
    names: Sequence[str] = ()

    def position(self, x: float) -> str:
        """Return a place along x, or a row, in words."""
        named = self.rows or self.names
        return named[round(x)] if named else f"{self.x_name} {number(x)}"


@dataclass(frozen=True)
class Matrix:
    """A symmetric square of cells with a number in each.

    Attributes:
        names: of rows and columns alike.
        cells: (row, column) -> estimate, for columns from the row's own on; a cell without one is empty.
        shades: (row, column) -> how dark a cell is, from 0 to 1.
    """

    title: str
    names: Sequence[str]
    cells: Mapping[tuple[int, int], Estimate]
    shades: Mapping[tuple[int, int], float]

    @property
    def lines(self) -> list[Line]:
        """Return the cells of each row as a series, for the data table and for notes on what is missing."""
        rows = [[place for place in sorted(self.cells) if place[0] == row] for row in range(len(self.names))]
        style = Style(GREY)
        return [
            Line("cells", self.names[row], "", style, [j for _, j in places], [self.cells[place] for place in places])
            for row, places in enumerate(rows)
            if places
        ]

    def position(self, x: float) -> str:
        """Return the name of a column."""
        return self.names[round(x)]


@dataclass(frozen=True)
class Surface:
    """A value over two axes, measured and predicted at the same places.

    Attributes:
        x, y: places along both axes, ascending.
        measured, predicted: (x, y) -> value; predicted ones are drawn as lines over the measured ones.
        mark: a place of note, and what it is.
    """

    title: str
    x_title: str
    y_title: str
    x: Sequence[float]
    y: Sequence[float]
    measured: Mapping[tuple[float, float], Estimate]
    predicted: Mapping[tuple[float, float], Estimate]
    mark: tuple[float, float, str]

    @property
    def lines(self) -> list[Line]:
        """Return both values along x for every place on y, for the data table and for notes on what is missing."""
        kinds = {"measured": self.measured, "predicted": self.predicted}
        style = Style(GREY)
        return [
            Line(kind, f"{kind}, {self.y_title} {number(y)}", "", style, self.x, [values[x, y] for x in self.x])
            for kind, values in kinds.items()
            for y in self.y
        ]

    @property
    def legend(self) -> list[Line]:
        """Return what the legend shows."""
        mark = Style(BLACK, symbol="star")
        return [
            Line("measured", "measured", "surface", Style(BLUE, width=9), (), (), mode="plain"),
            Line("predicted", "predicted", "surface", Style(VERMILLION, "dash"), (), (), mode="plain"),
            Line("mark", self.mark[2], "surface", mark, (), (), mode="dots"),
        ]

    def position(self, x: float) -> str:
        """Return a place along x in words."""
        return f"{self.x_title} {number(x)}"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column holds the row headings.

    Attributes:
        folded: whether the page shows its caption alone until it is opened.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture with what a reader needs: message, caption, panels, notes and the records it came from.

    Attributes:
        per_row: how many panels stand side by side at most where there is room; 0 for all. Where there is none, panels
            stand one below the other, or two side by side if they are this small.
        spread: what the intervals are over.
    """

    key: str
    title: str
    caption: str
    panels: Sequence[Panel | Matrix | Surface]
    sources: Sequence[Record]
    notes: Sequence[str] = ()
    per_row: int = 0
    spread: str = "over seeds"


def reference_line(key: str, label: str, x: Sequence[float], value: Estimate, style: Style) -> Line:
    """Return a straight line at one value, along x."""
    return Line(key, label, "reference", style, x, [value] * len(x), mode="plain", tabled=1)


def band_around_one(ends: Sequence[float], width: float) -> Line:
    """Return the shaded band of 1 plus or minus a width."""
    x, style = [ends[0], ends[-1]], Style(GREY, "dot", width=1.2)
    points = [Estimate(1.0, 1 - width, 1 + width)] * 2
    return Line("tolerance", f"1 ± {100 * width:.0f} %", "reference", style, x, points, mode="band", tabled=0)


def vertical_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Return a range up that holds all means, and their bars as far as a third of the means' span (at least 0.1)."""
    means = [p.mean for line in lines for p in line.points if p.mean is not None]
    low, high = min(means), max(means)
    room = max(0.1, (high - low) / 3)
    barred = [p for line in lines if line.bars for p in line.points]
    lows = [p.low for p in barred if p.low is not None]
    highs = [p.high for p in barred if p.high is not None]
    margin = 0.05 * (high - low + 0.1)
    return max(low - room, min([low, *lows])) - margin, min(high + room, max([high, *highs])) + margin


def data_table(picture: Picture) -> Table:
    """Tabulate everything that a picture shows, one row per point."""
    rows = [row for panel in picture.panels for line in panel.lines for row in _line_rows(panel, line)]
    thinned = any(len(line.points) > line.tabled > 1 for panel in picture.panels for line in panel.lines)
    note = "Long series are thinned here; every value is in the records." if thinned else ""
    columns = (
        "panel",
        "series",
        "at",
        "value",
        f"95 % interval {picture.spread}",
        picture.spread.split()[-1],
        "remark",
    )
    return Table(f"Data: {picture.title}", columns, rows, note)


def undefined_notes(picture: Picture) -> list[str]:
    """Say what could not be drawn, one sentence per place and reason."""
    notes: dict[tuple[str, str, str], list[str]] = {}
    for panel in picture.panels:
        for line in panel.lines:
            for places, why in _undefined(panel, line):
                notes.setdefault((panel.title, places, why), []).append(line.label)
    return [
        f"Not drawn: {'; '.join(labels)} ({title}; {places}): {why}." for (title, places, why), labels in notes.items()
    ]


def _undefined(panel: Panel | Matrix | Surface, line: Line) -> list[tuple[str, str]]:
    """Return (places, reason) of a line's undefined points."""
    places: dict[str, list[float]] = {}
    for x, point in zip(line.x, line.points, strict=True):
        if point.mean is None:
            places.setdefault(point.reason or "not measured", []).append(x)
    return [(_positions(panel, xs), why) for why, xs in places.items()]


def _positions(panel: Panel | Matrix | Surface, xs: Sequence[float]) -> str:
    if not isinstance(panel, Panel) or panel.rows or panel.names:
        return ", ".join(panel.position(x) for x in xs)
    return f"{panel.x_name} {', '.join(number(x) for x in xs)}"


def _line_rows(panel: Panel | Matrix | Surface, line: Line) -> list[tuple[str, ...]]:
    count = len(line.points)
    rows: list[tuple[str, ...]] = []
    for i in np.unique(np.linspace(0, count - 1, min(count, line.tabled)).round().astype(int)):
        point = line.points[i]
        interval = point.interval_text if point.mean is not None else ""
        remark = (point.reason or "") if point.mean is not None else ""
        where = panel.position(line.x[i])
        rows.append((panel.title, line.label, where, point.value_text, interval, str(point.n_seeds), remark))
    return rows
