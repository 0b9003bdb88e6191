"""What every option and settings key means, read from the string below its field: it is written in one place only."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import typing
from types import ModuleType
from typing import Any

from lineament.settings import settings


def field_meanings(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class name -> field name -> the string literal below the field, for every class of a module."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = dict(_meanings(node))
    return found


def key_meanings(kind: type = settings.Settings, prefix: str = "") -> dict[str, str]:
    """Dotted settings key -> meaning, in the order of `settings.flat_keys()`."""
    meanings, hints, keys = field_meanings(settings), typing.get_type_hints(kind), dict[str, str]()
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            keys.update(key_meanings(typing.cast(type, inner), f"{prefix}{field.name}."))
        else:
            keys[prefix + field.name] = meanings[kind.__name__][field.name]
    return keys


def type_words(kind: Any) -> str:
    """A key's type as a person writes it: its allowed values, `list of int`, or the type's name."""
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"list of {typing.get_args(kind)[0].__name__}"
    return str(kind.__name__)


def value_words(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meanings(node: ast.ClassDef) -> list[tuple[str, str]]:
    pairs = zip(node.body, node.body[1:], strict=False)
    return [
        (item.target.id, " ".join(below.value.value.split()))
        for item, below in pairs
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    ]
