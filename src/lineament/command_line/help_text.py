"""The texts of --help: all commands by what one wants to do, and one command with its flags."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from lineament.command_line.described import Flag, flags_of, summary_of

WIDTHS = (60, 100)
MARGIN = "  "
# Names up to this long share a line with their meaning.
LONGEST_BESIDE = 20
COLUMN = LONGEST_BESIDE + 4


def overview(about: str, commands: Mapping[str, Mapping[str, type]], notes: Sequence[str]) -> str:
    """Return the help of the whole command line.

    Args:
        commands: what one wants to do -> name -> dataclass.
        notes: paragraphs that follow.
    """
    blocks = ["Usage: lineament COMMAND [OPTIONS]", _filled(about)]
    for aim, kinds in commands.items():
        entries = (line for name, kind in kinds.items() for line in _entry(name, summary_of(kind)))
        blocks.append("\n".join([aim, *entries]))
    return "\n\n".join([*blocks, *map(_filled, notes)])


def group_help(name: str, commands: Mapping[str, type]) -> str:
    """Return the help of commands that share a first word."""
    lines = (line for full, kind in commands.items() for line in _entry(full, summary_of(kind)))
    return "\n\n".join([f"Usage: lineament {name} ACTION [OPTIONS]", "\n".join(lines)])


def command_help(name: str, kind: type) -> str:
    """Return the help of one command: what it does, and its flags under their headings."""
    flags = flags_of(kind)
    words = [_place(flag) for flag in flags if flag.positional]
    must = [f"{flag.name} {flag.value}" for flag in flags if flag.required and not flag.positional]
    usage = " ".join(["Usage: lineament", name, *words, *must, "[OPTIONS]"])
    blocks = [usage, *(_filled(" ".join(text.split())) for text in inspect.cleandoc(kind.__doc__ or "").split("\n\n"))]
    headed: dict[str, list[Flag]] = {"Arguments": [], "Options": []}
    for flag in flags:
        headed.setdefault("Arguments" if flag.positional else flag.heading, []).append(flag)
    for heading, own in headed.items():
        if own:
            entries = (line for flag in own for line in _entry(_name(flag), flag_words(flag)))
            blocks.append("\n".join([heading, *entries]))
    return "\n\n".join(blocks)


def flag_words(flag: Flag) -> str:
    """Return what a flag does, which values it has and what holds without it, as one sentence."""
    parts = [flag.meaning.rstrip(".")]
    named = all(choice in flag.meaning for choice in flag.choices)
    parts += [f"one of {', '.join(flag.choices)}"] if flag.choices and not named else []
    default = flag.default_words
    parts += [f"default {default}"] if default and "default" not in flag.meaning else []
    parts += ["required"] if flag.required and not flag.positional else []
    repeated = flag.several and not flag.positional and "repeatable" not in flag.meaning
    parts += ["may be given several times"] if repeated else []
    return "; ".join(parts)


def _name(flag: Flag) -> str:
    return flag.name if flag.positional or flag.kind is bool else f"{flag.name} {flag.value}"


def _place(flag: Flag) -> str:
    name = f"{flag.name}..." if flag.several else flag.name
    return name if flag.required or (flag.several and flag.default != ()) else f"[{name}]"


def _entry(name: str, text: str) -> Iterator[str]:
    """Yield a name with its meaning beside or below it."""
    lines = textwrap.wrap(text, _width() - COLUMN, break_on_hyphens=False) or [""]
    if len(name) <= LONGEST_BESIDE:
        yield f"{MARGIN}{name:{COLUMN - len(MARGIN)}}{lines.pop(0)}".rstrip()
    else:
        yield f"{MARGIN}{name}"
    yield from (" " * COLUMN + line for line in lines)


def _filled(text: str) -> str:
    return textwrap.fill(text, _width(), break_on_hyphens=False)


def _width() -> int:
    least, most = WIDTHS
    return max(least, min(most, shutil.get_terminal_size().columns))
