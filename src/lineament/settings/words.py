"""Types and values of settings as a person writes them."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from typing import Any


def type_words(kind: Any) -> str:
    """Name a key's type: `int`, `list of int`; a choice among words is a `str`."""
    if typing.get_origin(kind) is typing.Literal:
        return type(typing.get_args(kind)[0]).__name__
    if typing.get_origin(kind) is tuple:
        return f"list of {typing.get_args(kind)[0].__name__}"
    return str(kind.__name__)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Return dotted key -> its last part, or the whole key if another one ends in the same part."""
    last = {key: key.rpartition(".")[2] for key in keys}
    parts = list(last.values())
    return {key: part if parts.count(part) == 1 else key for key, part in last.items()}


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers, such as those of layers, runs of them as first-last: 1-4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def value_words(value: Any) -> str:
    """Write a value as --set takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value)
