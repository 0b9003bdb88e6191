"""Write the generated parts of reference/command-line.md from the source: commands, keys and presets.

    python docs/make_keys.py            rewrite the page
    python docs/make_keys.py --check    exit 1 if the page is not up to date

Whatever the page says of a key or a flag is taken from its field, so it is written in one place only.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from lineament import cli
from lineament.command_line.described import Flag, flags_of
from lineament.command_line.help_text import command_help
from lineament.settings import presets
from lineament.settings.keys import KEYS
from lineament.settings.words import type_words, value_words

PAGE = Path(__file__).parent / "reference" / "command-line.md"


def keys_table() -> str:
    """Return one row per key: type, default before any preset, range, unit, meaning."""
    rows = [
        f"| `{key.name}` | {type_words(key.type)} | `{value_words(key.default) or '(empty)'}` "
        f"| {key.range.words} | {key.unit} | {_cell(key.meaning)} |"
        for key in KEYS.values()
    ]
    return "\n".join(["| key | type | default | range | unit | meaning |", "|---|---|---|---|---|---|", *rows])


def presets_table() -> str:
    """Return the keys that a preset changes, one column per problem and preset; an empty cell is the default."""
    names = list(presets.PRESETS)
    keys = sorted({key for changes in presets.PRESETS.values() for key in changes})
    head = " | ".join(f"{problem}, {preset}" for problem, preset in names)
    rows = [
        f"| `{key}` | "
        + " | ".join(
            f"`{value_words(presets.PRESETS[name][key])}`" if key in presets.PRESETS[name] else "" for name in names
        )
        + " |"
        for key in keys
    ]
    return "\n".join([f"| key | {head} |", "|---" * (len(names) + 1) + "|", *rows])


def commands_text() -> str:
    """Describe every command: what it does, how it is called, its options."""
    return "\n\n".join(_command(name, kind) for name, kind in cli.COMMANDS.items())


def page_text(text: str) -> str:
    """Return the page with its generated parts made anew."""
    for name, make in {"commands": commands_text, "keys": keys_table, "presets": presets_table}.items():
        start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def _command(name: str, kind: type) -> str:
    flags = flags_of(kind)
    call = command_help(name, kind).splitlines()[0].removeprefix("Usage: ")
    lines = [f"### `{call}`", "", inspect.cleandoc(kind.__doc__ or "")]
    if flags:
        lines += ["", "| option | default | meaning |", "|---|---|---|"]
    for flag in flags:
        default = f"`{flag.default_words}`" if flag.default_words else ""
        lines.append(f"| `{flag.name}` | {default} | {_cell(_meaning(flag))} |")
    return "\n".join(lines)


def _meaning(flag: Flag) -> str:
    named = all(choice in flag.meaning for choice in flag.choices)
    return flag.meaning if named else f"{flag.meaning}; one of {', '.join(flag.choices)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Rewrite the page, or with --check only say whether it is up to date."""
    old = PAGE.read_text()
    new = page_text(old)
    if "--check" in arguments:
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
