"""`lineament runs`: the runs below a folder, and what other commands and the library left there."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lineament.commands.inspect.flags import Runs
from lineament.commands.inspect.kinds import found_below
from lineament.commands.terminal import console
from lineament.errors import InputError


def runs(flags: Runs) -> int:
    """List folders of results below a folder."""
    if not flags.root.is_dir():
        raise InputError(f"{flags.root} is no folder; give one that holds runs.")
    table = Table("folder", "kind", "problem", "model", "seeds", "done", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[0].overflow = table.columns[3].overflow = "fold"
    for found in found_below(flags.root):
        name = str(found.path.relative_to(flags.root))
        table.add_row(name, found.kind, found.problem, found.model, found.seeds, found.done)
    console.print(table)
    return 0
