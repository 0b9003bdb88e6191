"""Modules as a grid of layers by kinds: a cell is one module, darker where its figure is larger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# How much of the colour the darkest cell has, so that its number can still be read in both colour schemes.
DARKEST = 0.7
OUTSIDE = "other"


@dataclass(frozen=True)
class Cell:
    """One module: its number in words, how dark it is (from -1 to 1; below 0 in the other colour), and its details."""

    text: str
    shade: float
    details: str

    @property
    def style(self) -> str:
        """The background, as CSS."""
        color = "0, 114, 178" if self.shade >= 0 else "213, 94, 0"
        return f"background: rgba({color}, {DARKEST * min(1.0, abs(self.shade)):.2f})"


@dataclass(frozen=True)
class Grid:
    """Rows are layers, columns kinds of modules; a place without a module is None.

    Attributes:
        key: its name in links. note: how it is read.
    """

    key: str
    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    note: str


def layer_grid(
    key: str, title: str, modules: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], Cell], note: str
) -> Grid:
    """Arrange modules by the first number in their path and by what is left of it.

    Args:
        modules: with a name under `module`, in the order of the model.
        cell: what to show of a module.
    """
    placed: dict[str, dict[str, Cell]] = {}
    kinds: dict[str, None] = {}
    for module in modules:
        layer, kind = _place(module["module"])
        placed.setdefault(layer, {})[kind] = cell(module)
        kinds[kind] = None
    shared = _shared_start(list(kinds))
    rows = [(layer, [own.get(kind) for kind in kinds]) for layer, own in placed.items()]
    return Grid(key, title, "layer", [kind[shared:] for kind in kinds], rows, note)


def pair_grid(key: str, title: str, names: Sequence[str], cells: Mapping[tuple[str, str], Cell], note: str) -> Grid:
    """Arrange pairs of adapters as a square whose diagonal is empty."""
    rows = [(one, [cells.get((one, other)) or cells.get((other, one)) for other in names]) for one in names]
    return Grid(key, title, "", names, rows, note)


def _place(module: str) -> tuple[str, str]:
    parts = module.split(".")
    where = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return (OUTSIDE, module) if where is None else (parts[where], ".".join([*parts[:where], *parts[where + 1 :]]))


def _shared_start(kinds: Sequence[str]) -> int:
    """Return how many letters of the paths all kinds share, in whole parts; their last parts always stay."""
    parts = [kind.split(".") for kind in kinds]
    least = min(map(len, parts), default=1) - 1
    common = next((i for i in range(least) if len({one[i] for one in parts}) > 1), least)
    return sum(len(part) + 1 for part in parts[0][:common]) if parts else 0
