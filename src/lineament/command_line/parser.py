"""The command line to the dataclass of a command: one message that says what to do for whatever does not fit.

argparse could stand under it, with shtab for completions. Tried in November 2026: this module stayed as long as it is
(123 lines for 121), since argparse took the place of one loop, and had to be told as much again: our sentences instead
of its own, flags between arguments, words after `--`, lists that begin with a minus, and that `--no-order` is a flag of
that name and switches nothing off. It also refused a value that begins with two dashes, such as a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from lineament.command_line.complaints import unknown_command, unknown_flag
from lineament.command_line.described import Flag, flags_of
from lineament.errors import InputError, did_you_mean
from lineament.files.reading import shown
from lineament.settings.flag_values import flag_name

HELP = ("-h", "--help")
NOUNS: Mapping[type, str] = {int: "a whole number", float: "a number"}


def command_named(words: Sequence[str], commands: Mapping[str, type]) -> tuple[str, int]:
    """Return the command that a line begins with, of one word or two, and how many words that are.

    Raises:
        InputError: there is no such command.
    """
    for n_words in (2, 1):
        if (name := " ".join(words[:n_words])) in commands:
            return name, n_words
    raise unknown_command(words, commands)


def parse(name: str, words: Sequence[str], commands: Mapping[str, type]) -> Any:
    """Make the dataclass of a command from the words after its name.

    Raises:
        InputError: an unknown flag (with the nearest), a value of the wrong type, or something that is missing.
    """
    flags = flags_of(commands[name])
    named = {flag.name: flag for flag in flags if not flag.positional}
    given: dict[str, list[Any]] = {}
    plain: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            plain += rest
            break
        if not word.startswith("-") or _is_number(word) or word == "-":
            plain.append(word)
            continue
        spelled, equals, value = word.partition("=")
        spelled = spelled if spelled in named else flag_name(spelled.removeprefix("--")) if "_" in spelled else spelled
        negated = "--" + spelled.removeprefix("--no-")
        if spelled not in named and spelled.startswith("--no-") and negated in named and named[negated].kind is bool:
            given[named[negated].field] = [_without_value(spelled, equals, False)]
        elif (flag := named.get(spelled)) is None:
            raise unknown_flag(name, spelled, value if equals else rest[0] if rest else "", commands)
        elif flag.kind is bool:
            given[flag.field] = [_without_value(spelled, equals, True)]
        else:
            given.setdefault(flag.field, []).append(_value(flag, value if equals else _next(flag, rest, named)))
    _place(name, plain, [flag for flag in flags if flag.positional], given)
    return _made(name, commands[name], flags, given)


def _is_number(word: str) -> bool:
    """Whether a word that starts with a dash is a value: a negative number, or a list of such."""
    return word[1:2].isdigit() or word[1:2] == "."


def _without_value(spelled: str, equals: str, value: bool) -> bool:
    if equals:
        raise InputError(f"{spelled} takes no value: it is on when given.")
    return value


def _next(flag: Flag, rest: list[str], named: Mapping[str, Flag]) -> str:
    if not rest or rest[0].partition("=")[0] in named or rest[0] in HELP:
        raise InputError(f"{flag.name} needs a value, as in {flag.name} {flag.value} ({flag.meaning}).")
    return rest.pop(0)


def _value(flag: Flag, text: str) -> Any:
    if flag.choices and text not in flag.choices:
        near = did_you_mean(text, flag.choices)
        raise InputError(f"{flag.name} is {shown(text)}; it must be one of {', '.join(flag.choices)}.{near}")
    if flag.kind is Path and not text:
        raise InputError(f"{flag.name} is empty; give a path.")
    try:
        return flag.kind(text)
    except ValueError:
        raise InputError(f"{flag.name} is {shown(text)}; it must be {NOUNS[flag.kind]}.") from None


def _place(name: str, plain: list[str], flags: Sequence[Flag], given: dict[str, list[Any]]) -> None:
    """Give words without a name to the arguments in order; the one that takes several takes all that are left."""
    for flag in flags:
        taken, plain[:] = (plain[:], []) if flag.several else (plain[:1], plain[1:])
        if taken:
            given[flag.field] = [_value(flag, word) for word in taken]
    if plain:
        takes = f"only {' '.join(flag.name for flag in flags)}" if flags else "no arguments"
        raise InputError(
            f"{shown(plain[0])} is one argument too many: `lineament {name}` takes {takes}. "
            f"`lineament {name} --help` says more."
        )


def _made(name: str, kind: type, flags: Sequence[Flag], given: Mapping[str, list[Any]]) -> Any:
    missing = [flag for flag in flags if flag.required and flag.field not in given]
    if missing:
        wanted = f"`lineament {name}` needs {' and '.join(flag.name for flag in missing)}"
        what = "; ".join(flag.meaning for flag in missing)
        raise InputError(f"{wanted}: {what}. `lineament {name} --help` says more.")
    values: dict[str, Any] = {}
    for flag in flags:
        if flag.several and (flag.field in given or flag.default is MISSING):
            values[flag.field] = tuple(given.get(flag.field, ()))
        elif flag.field in given:
            values[flag.field] = given[flag.field][-1]
    return kind(**values)
