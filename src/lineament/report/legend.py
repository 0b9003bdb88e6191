"""What each series of a picture is called and looks like, by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lineament.report.series import Line, Panel, Picture, Style, Surface
from lineament.report.words import GROUPS


@dataclass(frozen=True)
class Entry:
    """One series, in however many panels it is.

    Attributes:
        shown: whether it is drawn at first.
        line, symbol: whether its sign has a line, and a symbol.
    """

    key: str
    label: str
    shown: bool
    style: Style
    line: bool
    symbol: bool


Groups = Sequence[tuple[str, Sequence[Entry]]]


@dataclass(frozen=True)
class Legend:
    """Entries by group: those drawn at first, and those that wait."""

    shown: Groups
    more: Groups

    @property
    def n_more(self) -> int:
        """Return how many entries wait."""
        return sum(len(entries) for _, entries in self.more)


def legend(picture: Picture) -> Legend:
    """Return the entries of a picture's legend."""
    lines: dict[str, Line] = {}
    for panel in picture.panels:
        named = panel.legend if isinstance(panel, Surface) else panel.lines if isinstance(panel, Panel) else ()
        for line in named:
            lines.setdefault(line.key, line)
    shown, more = (_grouped([line for line in lines.values() if line.shown is kept]) for kept in (True, False))
    return Legend(shown, more)


def _grouped(lines: Sequence[Line]) -> Groups:
    groups: dict[str, list[Entry]] = {}
    for line in lines:
        symbol = line.mode not in ("plain", "band")
        entry = Entry(line.key, line.label, line.shown, line.style, line.mode != "dots", symbol)
        groups.setdefault(GROUPS.get(line.group, line.group), []).append(entry)
    return list(groups.items())
