"""The check of what the command line gave: every number's range and every path, before a command does anything."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from lineament.errors import InputError
from lineament.files.naming import name_fault
from lineament.files.reading import shortened, shown
from lineament.settings.ranges import Range, range_of


def require_flags(command: Any) -> None:
    """Check the values of a command's flags, the fields of a dataclass whose annotations state ranges.

    Raises:
        InputError: names the flag, what was given and what is allowed.
    """
    ranges = flag_ranges(type(command))
    for item in dataclasses.fields(command):
        value = getattr(command, item.name)
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, bool) or entry is None:
                continue
            if isinstance(entry, int | float) and (complaint := ranges[item.name].complaint(entry)):
                raise InputError(f"{flag_name(item.name)} must be {complaint}; got {shortened(str(entry))}.")
            if isinstance(entry, Path | str):
                _require_text(item.name, entry)


def flag_ranges(kind: type) -> dict[str, Range]:
    """Return field -> range of every field of a class of flags that holds numbers.

    Raises:
        TypeError: a number without a range.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {item.name: list(_numbers(hints[item.name])) for item in dataclasses.fields(kind)}
    return {name: range_of(numbers[0]) for name, numbers in found.items() if numbers}


def flag_name(field: str) -> str:
    """Return a field as the command line spells it."""
    return f"--{field.replace('_', '-')}"


def _numbers(hint: Any) -> Iterator[Any]:
    """Yield the numeric types inside an annotation, with what is annotated to them."""
    if hint in (int, float):
        yield hint
    elif typing.get_origin(hint) is Annotated:
        inner = typing.get_args(hint)[0]
        yield from [hint] if inner in (int, float) else _numbers(inner)
    elif typing.get_origin(hint) is not typing.Literal:
        for part in typing.get_args(hint):
            yield from _numbers(part)


def _require_text(field: str, value: Path | str) -> None:
    wrong = name_fault(str(value))
    if isinstance(value, str) and wrong and "longer" in wrong:
        return  # a prompt, a template
    if wrong:
        raise InputError(f"{flag_name(field)} is {shown(str(value))}; it {wrong}.")
