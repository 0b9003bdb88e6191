"""`lineament keys`: every settings key; needs no model and no torch."""

from __future__ import annotations

import textwrap

from lineament.commands.inspect.flags import Keys
from lineament.settings.keys import KEYS, Key
from lineament.settings.words import type_words, value_words

WIDTH = 80


def keys(flags: Keys) -> int:
    """Print every settings key with its default, type, range, unit and meaning; return the exit code."""
    print("Defaults before any preset. Change one with --set key=value or --config FILE.")
    for key in KEYS.values():
        # a long list goes on in the next line, broken after a comma
        default = f"{key.name} = {value_words(key.default) or '(empty)'}".replace(",", ", ")
        print(textwrap.fill(default, WIDTH, subsequent_indent="        ").replace(", ", ","))
        print(_wrapped(_description(key)))
    return 0


def _wrapped(text: str) -> str:
    indent = 4 * " "
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _description(key: Key) -> str:
    unit = f" ({key.unit})" if key.unit else ""
    return f"{type_words(key.type)}{unit}, {key.range.words}: {key.meaning}"
