"""How values given as text, TOML or Python become settings: unknown keys and wrong types are refused by name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from lineament.errors import InputError, did_you_mean
from lineament.files.naming import name_fault
from lineament.files.reading import read_toml, shown
from lineament.settings.keys import KEYS
from lineament.settings.plain import flattened

T = TypeVar("T")
BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
TYPE_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def updated(settings: T, changes: Mapping[str, Any], source: str) -> T:
    """Replace dotted keys of settings; values are converted to each key's type, ranges are not checked here.

    Args:
        source: where the changes come from, named in errors.

    Raises:
        InputError: an unknown key (with the nearest match) or a value of the wrong type.
    """
    for key, value in changes.items():
        if key not in KEYS:
            raise InputError(
                f"there is no settings key {key!r} (from {source}).{did_you_mean(key, KEYS)} "
                "`lineament keys` lists all."
            )
        settings = _replaced(settings, key.split("."), _converted(key, value, KEYS[key].type, source))
    return settings


def from_file(path: Path) -> dict[str, Any]:
    """Read the dotted keys of a TOML configuration file.

    Raises:
        InputError: there is no such file, or it is not valid TOML.
    """
    return dict(flattened(read_toml(path, "the configuration file")))


def parse_assignment(text: str) -> tuple[str, str]:
    """Split the `key=value` of --set."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} has no '='. Write --set key=value, e.g. --set recovery.lr=1e-3.")
    return key.strip(), value.strip()


def _replaced(node: Any, path: list[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replaced(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: inner})


def _converted(key: str, value: Any, kind: Any, source: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return _choice(key, value, arguments, source)
    if origin is tuple:
        entries = [part for part in value.split(",") if part] if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            raise InputError(f"{key} is {shown(value)} (from {source}); it must be a list, with --set written a,b,c.")
        return tuple(_converted(key, entry, arguments[0], source) for entry in entries)
    if kind is str and (wrong := name_fault(str(value))):
        raise InputError(f"{key} is {shown(value)} (from {source}); it {wrong}.")
    try:
        return _scalar(value, kind)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{key} is {shown(value)} (from {source}); it must be {TYPE_NOUNS[kind]}.") from None


def _choice(key: str, value: Any, choices: tuple[Any, ...], source: str) -> Any:
    if value not in choices:
        hint = did_you_mean(str(value), map(str, choices))
        allowed = ", ".join(map(str, choices))
        raise InputError(f"{key} is {shown(value)} (from {source}); it must be one of {allowed}.{hint}")
    return value


def _scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        if str(value).lower() not in BOOLEANS:
            raise ValueError(value)
        return BOOLEANS[str(value).lower()]
    if kind is int and (isinstance(value, bool) or float(value) != int(float(value))):
        raise ValueError(value)
    if kind is int and isinstance(value, str) and not value.strip().lstrip("+-").isdecimal():
        return int(float(value))  # 1e3; plain digits go on, since float would round a large seed
    return kind(value)
