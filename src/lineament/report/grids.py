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
    """Arrange modules by the first number in their path and by what is left of it, called by its last parts.

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
    rows = [(layer, [own.get(kind) for kind in kinds]) for layer, own in placed.items()]
    return Grid(key, title, "layer", [_short(kind, list(kinds)) for kind in kinds], rows, note)


def pair_grid(key: str, title: str, names: Sequence[str], cells: Mapping[tuple[str, str], Cell], note: str) -> Grid:
    """Arrange pairs of adapters as a square whose diagonal is empty."""
    rows = [(one, [cells.get((one, other)) or cells.get((other, one)) for other in names]) for one in names]
    return Grid(key, title, "", names, rows, note)


def _place(module: str) -> tuple[str, str]:
    parts = module.split(".")
    where = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return (OUTSIDE, module) if where is None else (parts[where], ".".join([*parts[:where], *parts[where + 1 :]]))


def _short(kind: str, kinds: Sequence[str]) -> str:
    """Return the last parts of a path, as few as no other path ends with."""
    parts = kind.split(".")
    ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    others = [f".{other}" for other in kinds if other != kind]
    return next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), kind)
