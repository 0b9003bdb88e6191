"""What `lineament compose` prints: sentences first, then a table of figures for each data set."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.commands.terminal import console
from lineament.records import Record
from lineament.report.sections.composition.words import (
    LETTERS,
    NOTE,
    SIDES,
    adapter_name,
    data_name,
    rows,
    sentences,
)


def print_composition(record: Record) -> None:
    """Print sentences and the table; results go to stdout."""
    names = ", ".join(f"{LETTERS[side]} = {adapter_name(record, side)}" for side in SIDES)
    console.print(Text.assemble((record.model, "bold"), f": {names}"))
    for sentence in sentences(record):
        console.print(sentence)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for side in SIDES:
        table.add_column(f"{LETTERS[side]}'s data: {data_name(record, side)}", overflow="fold")
    for row in rows(record):
        table.add_row(*row)
    console.print(table)
    console.print(NOTE, style="dim")
