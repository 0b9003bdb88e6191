"""A command's dataclass back to the line that gives it."""

from __future__ import annotations

import shlex
from typing import Any

from lineament.command_line.described import Flag, flags_of


def line_of(name: str, command: Any) -> str:
    """Return the shortest line that `parse` makes this dataclass of: what is as by default is left out."""
    kind: type = type(command)
    words = ["lineament", *name.split()]
    for flag in flags_of(kind):
        value = getattr(command, flag.field)
        if flag.positional and value is not None:
            words += [str(one) for one in (value if flag.several else [value])]
        elif not flag.positional and value != flag.default:
            words += _given(flag, value)
    return shlex.join(words)


def _given(flag: Flag, value: Any) -> list[str]:
    if flag.kind is bool:
        return [flag.name if value else flag.name.replace("--", "--no-", 1)]
    texts = [str(one) for one in (value if flag.several else [value])]
    # a value that begins with a dash would be taken for a flag
    return [word for text in texts for word in ([f"{flag.name}={text}"] if text.startswith("-") else [flag.name, text])]
