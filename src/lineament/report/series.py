"""From records to numbers over seeds: estimates with intervals, and the lines and panels that are drawn and tabled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lineament.claims.intervals import over_seeds
from lineament.records import Label, Quantity, Record


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds. `mean` is None if no seed has it; `low`, `high` are None for fewer than two seeds.

    `reason` says what is missing, in words.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    reason: str | None = None

    @property
    def value_text(self) -> str:
        """The mean, or why there is none."""
        return number(self.mean) if self.mean is not None else f"undefined: {self.reason or 'not measured'}"

    @property
    def interval_text(self) -> str:
        """`[low, high]`, or why there is none."""
        if self.low is not None and self.high is not None:
            return f"[{number(self.low)}, {number(self.high)}]"
        return "one seed: no interval" if self.n_seeds == 1 else "none"

    @property
    def text(self) -> str:
        """Mean and interval in one."""
        return self.value_text if self.mean is None else f"{self.value_text} {self.interval_text}"


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
        """A place along x, or a row, in words."""
        named = self.rows or self.names
        return named[round(x)] if named else f"{self.x_name} {number(x)}"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `heads` columns are row headings."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture with what a reader needs: message, caption, panels, notes and the records it came from."""

    key: str
    title: str
    caption: str
    panels: Sequence[Panel]
    sources: Sequence[Record]
    notes: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=tuple)


def number(value: float) -> str:
    """Three significant digits, whole numbers with separators."""
    if abs(value) >= 1000 and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def estimate(figures: Iterable[Quantity], *, fraction: bool) -> Estimate:
    """One figure per seed -> mean with Student t interval; on logit values if `fraction`."""
    found = list(figures)
    reasons = sorted({f.reason for f in found if f.value is None and f.reason})
    values = [f.value for f in found if f.value is not None]
    why = "; ".join(reasons) or None
    if not values:
        return Estimate(None, reason=why or "not measured")
    if len(values) < len(found):
        why = f"{len(found) - len(values)} of {len(found)} seeds: {why or 'undefined'}"
    return _of_values(values, fraction, why)


def estimate_values(values: Sequence[float], *, fraction: bool) -> Estimate:
    """One number per seed -> mean with Student t interval."""
    return _of_values([v for v in values if np.isfinite(v)], fraction, None)


def estimate_geometric(values: Sequence[float]) -> Estimate:
    """One positive number per seed -> geometric mean, interval on logarithms; undefined if one is not positive."""
    if not values:
        return Estimate(None, reason="not measured")
    if min(values) <= 0:
        return Estimate(None, reason=f"not positive in {sum(v <= 0 for v in values)} of {len(values)} seeds")
    found = over_seeds([float(np.log(value)) for value in values])
    low, high = (None if end is None else float(np.exp(end)) for end in (found.low, found.high))
    return Estimate(float(np.exp(found.mean)), low, high, found.n_seeds)


def of(records: Sequence[Record], measurement: str) -> list[Record]:
    """The records of one measurement."""
    return [record for record in records if record.measurement == measurement]


def select(records: Iterable[Record], quantity: str, **labels: Label) -> list[Quantity]:
    """Matching figures of all records (with fully given labels: one per seed)."""
    return [figure for record in records for figure in record.select(quantity, **labels)]


def label_values(records: Iterable[Record], quantity: str, label: str) -> list[Label]:
    """Values of a label over the figures of a quantity: numbers sorted, texts in the order of appearance."""
    found = [f.labels[label] for record in records for f in record.select(quantity) if label in f.labels]
    unique = list(dict.fromkeys(found))
    texts = any(isinstance(value, str) for value in unique)
    return unique if texts else sorted(unique)


def data_table(picture: Picture) -> Table:
    """Everything a picture shows, in long form."""
    rows = [row for panel in picture.panels for line in panel.lines for row in _line_rows(panel, line)]
    thinned = any(len(line.points) > line.tabled > 1 for panel in picture.panels for line in panel.lines)
    note = "Long series are thinned here; every value is in the records." if thinned else ""
    columns = ("panel", "series", "at", "value", "95 % interval over seeds", "seeds", "remark")
    return Table(f"Data: {picture.title}", columns, rows, note)


def undefined_notes(picture: Picture) -> list[str]:
    """What could not be drawn, in words, one sentence per series and reason."""
    notes: dict[tuple[str, str, str], list[str]] = {}
    for panel in picture.panels:
        for line in panel.lines:
            for places, why in _undefined(panel, line):
                notes.setdefault((panel.title, places, why), []).append(line.label)
    return [
        f"Not drawn: {'; '.join(labels)} ({title}; {places}): {why}." for (title, places, why), labels in notes.items()
    ]


def _of_values(values: Sequence[float], fraction: bool, why: str | None) -> Estimate:
    if not values:
        return Estimate(None, reason=why or "not measured")
    found = over_seeds(values, fraction=fraction)
    return Estimate(found.mean, found.low, found.high, found.n_seeds, why)


def _undefined(panel: Panel, line: Line) -> list[tuple[str, str]]:
    """(places, reason) of a line's undefined points."""
    found: dict[str, list[float]] = {}
    for x, point in zip(line.x, line.points, strict=True):
        if point.mean is None:
            found.setdefault(point.reason or "not measured", []).append(x)
    return [(_positions(panel, xs), why) for why, xs in found.items()]


def _positions(panel: Panel, xs: Sequence[float]) -> str:
    if panel.rows or panel.names:
        return ", ".join(panel.position(x) for x in xs)
    return f"{panel.x_name} {', '.join(number(x) for x in xs)}"


def _line_rows(panel: Panel, line: Line) -> list[tuple[str, ...]]:
    count = len(line.points)
    rows: list[tuple[str, ...]] = []
    for i in np.unique(np.linspace(0, count - 1, min(count, line.tabled)).round().astype(int)):
        point = line.points[i]
        interval = point.interval_text if point.mean is not None else ""
        remark = (point.reason or "") if point.mean is not None else ""
        where = panel.position(line.x[i])
        rows.append((panel.title, line.label, where, point.value_text, interval, str(point.n_seeds), remark))
    return rows
