"""Settings as plain data: nested dictionaries as TOML and JSON have them, dotted keys, a stable hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any


def to_dict(settings: Any) -> dict[str, Any]:
    """Convert settings, or one group of them, to a nested dict with lists for tuples, as written to config.toml."""
    return {item.name: plain_value(getattr(settings, item.name)) for item in dataclasses.fields(settings)}


def plain_value(value: Any) -> Any:
    """Convert one value to what JSON and TOML have: a list for a tuple, a dict for a group of settings."""
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def flattened(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted (key, value) pairs of a nested mapping."""
    for key, value in body.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_of(settings: Any, key: str) -> Any:
    """Return the value of a dotted key."""
    return reduce(getattr, key.split("."), settings)


def digest(body: Any) -> str:
    """Return a short stable hash of an object that JSON can hold."""
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()
