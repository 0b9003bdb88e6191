"""Write the generated parts of reference/command-line.md from the source: commands, keys and presets.

    python docs/make_keys.py            rewrite the page
    python docs/make_keys.py --check    exit 1 if the page is not up to date

Whatever the page says of a key or a flag is taken from its field, so it is written in one place only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import sys
import typing
from pathlib import Path
from typing import cast

from lineament import cli
from lineament.commands.steer import flags as steer_cli
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
    plain = {name: kind for name, kind in cli.COMMANDS.items() if kind is not steer_cli.Steer}
    steer = {f"steer {name}": kind for name, kind in steer_cli.ACTIONS.items()}
    return "\n\n".join(_command(name, kind) for name, kind in {**plain, **steer}.items())


def page_text(text: str) -> str:
    """Return the page with its generated parts made anew."""
    for name, make in {"commands": commands_text, "keys": keys_table, "presets": presets_table}.items():
        start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def _command(name: str, kind: type) -> str:
    fields, docs = dataclasses.fields(kind), dict[str, str]()
    for parent in filter(dataclasses.is_dataclass, kind.__mro__):
        docs |= _meanings(parent)
    positional = [f for f in fields if "Positional" in str(f.type)]
    words = [f.name.upper() if f.default is dataclasses.MISSING else f"[{f.name.upper()}]" for f in positional]
    options = [f for f in fields if f not in positional]
    call = " ".join(["lineament", name, *words, *(["[OPTIONS]"] if options else [])])
    lines = [f"### `{call}`", "", inspect.cleandoc(kind.__doc__ or "")]
    if fields:
        lines += ["", "| option | default | meaning |", "|---|---|---|"]
    for f in [*positional, *options]:
        shown = f.name.upper() if f in positional else "--" + f.name.replace("_", "-")
        default = "" if f.default in (dataclasses.MISSING, None, False, ()) else f"`{f.default}`"
        lines.append(f"| `{shown}` | {default} | {_cell(docs[f.name])} |")
    return "\n".join(lines)


def _meanings(flags: type) -> dict[str, str]:
    """Return field name -> what the flag means: tyro reads it below the field, or in its annotation if it is made."""
    hints = typing.get_type_hints(flags, include_extras=True)
    made = {name: part.help for name, hint in hints.items() for part in typing.get_args(hint) if hasattr(part, "help")}
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(flags)).body[0]).body
    return made | {
        field.target.id: " ".join(below.value.value.split())
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


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
