"""Write the generated parts of reference/command-line.md from the source: commands, keys and presets.

    python docs/make_keys.py            rewrite the page
    python docs/make_keys.py --check    exit 1 if the page is not up to date

What a flag or a key means is read from the string below its field, so it is written in one place only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import typing
from pathlib import Path
from typing import Any

from lineament import cli, settings

PAGE = Path(__file__).parent / "reference" / "command-line.md"


def field_docs(module: Any) -> dict[str, dict[str, str]]:
    """Class name -> field name -> the string literal below the field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {}
            for item, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_string(below):
                    found[node.name][item.target.id] = " ".join(below.value.value.split())
    return found


def key_docs(kind: type = settings.Settings, prefix: str = "") -> dict[str, str]:
    """Dotted key -> its doc text, in the order of `settings.flat_keys()`."""
    docs, hints, keys = field_docs(settings), typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            keys.update(key_docs(inner, f"{prefix}{field.name}."))
        else:
            keys[prefix + field.name] = docs[kind.__name__][field.name]
    return keys


def keys_table() -> str:
    """One row per key: type, default before any preset, meaning."""
    defaults, docs = dict(settings.flattened(settings.to_dict(settings.Settings()))), key_docs()
    rows = [
        f"| `{key}` | {_kind(kind)} | `{_written(defaults[key])}` | {_cell(docs[key])} |"
        for key, kind in settings.flat_keys().items()
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def presets_table() -> str:
    """Keys that a preset changes, one column per problem and preset; an empty cell is the default."""
    names = list(settings.PRESETS)
    keys = sorted({key for changes in settings.PRESETS.values() for key in changes})
    head = " | ".join(f"{problem}, {preset}" for problem, preset in names)
    rows = [
        f"| `{key}` | "
        + " | ".join(
            f"`{_written(settings.PRESETS[name][key])}`" if key in settings.PRESETS[name] else "" for name in names
        )
        + " |"
        for key in keys
    ]
    return "\n".join([f"| key | {head} |", "|---" * (len(names) + 1) + "|", *rows])


def commands_text() -> str:
    """Every command: what it does, how it is called, its options."""
    return "\n\n".join(_command(name, kind) for name, kind in cli.COMMANDS.items())


def page_text(text: str) -> str:
    """The page with its generated parts made anew."""
    for name, make in {"commands": commands_text, "keys": keys_table, "presets": presets_table}.items():
        start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{make()}\n\n{end}{rest.split(end)[1]}"
    return text


def _command(name: str, kind: type) -> str:
    docs, fields = field_docs(cli)[kind.__name__], dataclasses.fields(kind)
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


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"list of {typing.get_args(kind)[0].__name__}"
    return str(kind.__name__)


def _written(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _is_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


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
