"""A grid of settings: every combination of the varied values is a cell, and every cell is a run of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from lineament.errors import InputError, unknown_name
from lineament.files.naming import safe_name
from lineament.settings.keys import KEYS
from lineament.settings.plain import plain_value, to_dict, value_of
from lineament.settings.reading import from_file, updated
from lineament.settings.settings import Settings
from lineament.settings.words import short_keys, value_words

# What --vary may not name, and what to say instead.
NOT_VARIED = {
    "seed": "seeds are replicates: choose them with --seeds and --set seed=...",
    "seeds": "seeds are replicates: choose them with --seeds and --set seed=...",
    "measure": "every cell makes the same measurements: choose them with --measure",
    "problem": "a sweep has one problem",
    "preset": "a sweep starts from one preset",
}


@dataclass(frozen=True)
class Cell:
    """One combination of the varied values.

    Attributes:
        name: what tells it from the other cells, fit for a folder's name.
        values: dotted key -> this cell's value.
        settings: the whole configuration of this cell.
    """

    name: str
    values: Mapping[str, Any]
    settings: Settings


@dataclass(frozen=True)
class Grid:
    """What a sweep runs: a base configuration and the values that keys take instead of it.

    Attributes:
        vary: dotted key -> its values, in the order given.
    """

    base: Settings
    vary: Mapping[str, tuple[Any, ...]]

    def __len__(self) -> int:
        """Count the cells."""
        n = 1
        for values in self.vary.values():
            n *= len(values)
        return n

    def cells(self) -> Iterator[Cell]:
        """Yield every cell; the key given last changes fastest."""
        for combination in itertools.product(*self.vary.values()):
            values = dict(zip(self.vary, combination, strict=True))
            yield Cell(cell_name(values), values, updated(self.base, values, "the grid"))

    def to_dict(self) -> dict[str, Any]:
        """Return the base configuration with a table `vary` of dotted keys, as sweep.toml has it."""
        return {
            **to_dict(self.base),
            "vary": {key: [plain_value(value) for value in values] for key, values in self.vary.items()},
        }


def make_grid(base: Settings, vary: Mapping[str, Sequence[Any]], source: str) -> Grid:
    """Make a grid; keys and values are checked and typed.

    Args:
        vary: dotted key -> values. Of a key that is a list, each value is a list, or a text with `+` between parts.
        source: named in errors.

    Raises:
        InputError: no key, an unknown one or one that is no setting to vary; no value, one of the wrong type or twice.
    """
    if not vary:
        raise InputError(f"an empty grid (from {source}): name at least one key to vary, e.g. recovery.optimizer.")
    return Grid(base, {key: _values(base, key, given, source) for key, given in vary.items()})


def grid_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a TOML file with a grid: dotted keys of the base configuration, and those of its table `vary`."""
    body = from_file(path)
    vary = {key.removeprefix("vary."): values for key, values in body.items() if key.startswith("vary.")}
    return {key: value for key, value in body.items() if not key.startswith("vary.")}, vary


def cell_name(values: Mapping[str, Any]) -> str:
    """Return `optimizer=sgd,lr=0.001`: keys by their last part where that is enough, as a safe name."""
    short = short_keys(values)
    text = ",".join(f"{short[key]}={_words(value)}" for key, value in values.items())
    return safe_name(text)


def _values(base: Settings, key: str, given: Any, source: str) -> tuple[Any, ...]:
    if key not in KEYS:
        raise unknown_name("settings key", key, KEYS, f"from {source}; `lineament keys` lists all")
    if key in NOT_VARIED:
        raise InputError(f"{key} cannot be varied (from {source}): {NOT_VARIED[key]}.")
    if not isinstance(given, list | tuple):
        raise InputError(f"{key} = {given!r} (from {source}): a list of values is needed, e.g. {key} = [...].")
    if not given:
        raise InputError(f"an empty grid (from {source}): {key} has no values.")
    listed = get_origin(KEYS[key].type) is tuple
    values = tuple(_typed(base, key, _parts(value) if listed else value, source) for value in given)
    for place, value in enumerate(values):
        if value in values[:place]:
            raise InputError(f"{key} is given {value_words(value)} twice (from {source}); name each value once.")
    return values


def _typed(base: Settings, key: str, value: Any, source: str) -> Any:
    return value_of(updated(base, {key: value}, source), key)


def _parts(value: Any) -> Any:
    return value.split("+") if isinstance(value, str) else value


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    return value_words(value) or "none"
