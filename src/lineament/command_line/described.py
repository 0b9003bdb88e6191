"""What a command's dataclass says of its flags: types, choices, defaults and meanings, for parser, help and docs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from lineament.command_line.markers import Said, _Place
from lineament.settings.flag_values import flag_name

# What a value is called in the help where the flag does not say.
PLACEHOLDERS: Mapping[type, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
# What values of these fields are called, the same in every command.
OWN_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("device", "preset", "method", "model", "task", "point", "basis", "model_type", "adapter"), "NAME"),
    **{"set": "KEY=VALUE", "vary": "KEY=A,B", "combine": "NAME=X,...", "truncate": "RANK|SHARE", "data": "FILE"},
    **dict.fromkeys(("measure", "tests"), "NAMES"),
    **dict.fromkeys(("layers", "doses", "scales"), "LIST"),
    "time_limit": "MINUTES",
}
FOLDERS: Mapping[str, str] = {
    **dict.fromkeys(("config", "log_file", "file"), "FILE"),
    **dict.fromkeys(("adapter", "null", "other", "end", "save_step"), "DIR"),
}


@dataclass(frozen=True)
class Flag:
    """One flag of a command, or one argument without a name.

    Attributes:
        field: the field of the dataclass.
        kind: type of one value; bool is a flag that takes none.
        meaning: what it does, in words.
        default: `MISSING` where it must be given.
        positional: stands by its place.
        several: may be given several times, and makes a tuple.
        choices: the only values that are allowed; empty allows all.
        value: what its value is called in the help.
        heading: under which the help lists it.
    """

    field: str
    kind: type
    meaning: str
    default: Any
    positional: bool
    several: bool
    choices: tuple[str, ...]
    value: str
    heading: str

    @property
    def name(self) -> str:
        """As a person writes it: `--dry-run`, or `RUN` for an argument without a name."""
        return self.field.upper() if self.positional else flag_name(self.field)

    @property
    def required(self) -> bool:
        """Whether a command cannot do without it; whoever takes any number of arguments says what none means."""
        return self.default is MISSING and not (self.several and self.positional)

    @property
    def default_words(self) -> str:
        """Return the default as a person writes it; empty where leaving the flag out says it all."""
        if self.default is MISSING or self.default is None or self.default is False or self.default in ((), ""):
            return ""
        return "on" if self.default is True else f"{self.default:g}" if self.kind is float else str(self.default)


@cache
def flags_of(kind: type) -> tuple[Flag, ...]:
    """Return the flags of a command, arguments without a name first, in the order of the fields.

    Raises:
        TypeError: a field that no command line can give.
    """
    hints, texts = typing.get_type_hints(kind, include_extras=True), _texts(kind)
    fields = dataclasses.fields(kind)
    flags = [_flag(item, hints[item.name], texts.get(item.name, ""), _heading(kind, item.name)) for item in fields]
    return tuple(sorted(flags, key=lambda flag: not flag.positional))


def summary_of(kind: type) -> str:
    """Return the first sentence of a command's docstring."""
    return inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _flag(item: dataclasses.Field[Any], hint: Any, text: str, heading: str) -> Flag:
    inner, marks = _unwrapped(hint)
    said = next((mark for mark in marks if isinstance(mark, Said)), Said())
    several = typing.get_origin(inner) is tuple
    if several:
        inner = _unwrapped(typing.get_args(inner)[0])[0]
    choices = typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
    one = str if choices else inner
    if not (one is bool or one in PLACEHOLDERS):
        raise TypeError(f"{item.name} is {hint}: flags are of plain types, with the marks of command_line/markers.py.")
    own = FOLDERS.get(item.name) if one is Path else OWN_WORDS.get(item.name)
    value = said.value or ("NAME" if choices else own or PLACEHOLDERS.get(one, ""))
    positional = any(isinstance(mark, _Place) for mark in marks)
    meaning = said.meaning or text
    return Flag(item.name, one, meaning, item.default, positional, several, choices, value, heading)


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without `Annotated` and `None`, and all that was annotated."""
    marks: list[Any] = []
    while True:
        if typing.get_origin(hint) is Annotated:
            hint, *more = typing.get_args(hint)
            marks += more
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        else:
            return hint, marks


@cache
def _texts(kind: type) -> Mapping[str, str]:
    """Return field -> the text below it, in the class or in one that it inherits from."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        if dataclasses.is_dataclass(parent):
            body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]).body
            texts |= _texts_below(body)
    return texts


def _texts_below(body: Sequence[ast.stmt]) -> dict[str, str]:
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _heading(kind: type, field: str) -> str:
    """Return the heading of the class that declares a field last, where it has one."""
    owner = next(parent for parent in kind.__mro__ if field in inspect.get_annotations(parent))
    return str(vars(owner).get("HEADING", "Options"))
