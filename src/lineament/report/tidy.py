"""Tables without what says nothing: rows that are undefined, and one reason in every cell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lineament.report.series import Table

NO_INTERVAL = re.compile(r" ?\(?one (?:seed|recording): no interval\)?")
UNDEFINED = "undefined"
MAX_NAMED = 3


def tidied(table: Table, replicates: str = "seeds") -> Table:
    """Return a table that says once, in its note, why intervals are missing and which rows are undefined.

    Args:
        replicates: what intervals are over.
    """
    said, notes = _said_once(table.rows, replicates)
    rows, left_out = _defined(said, table.note)
    had = [any(row[i] for row in table.rows) for i in range(len(table.columns))]
    kept = [i for i in range(len(table.columns)) if not had[i] or any(row[i] for row in rows)]
    return replace(
        table,
        columns=[table.columns[i] for i in kept],
        rows=[[row[i] for i in kept] for row in rows],
        note=" ".join(filter(None, [*notes, *left_out, table.note])),
    )


def _said_once(rows: Sequence[Sequence[str]], replicates: str) -> tuple[list[list[str]], list[str]]:
    """Take the words for a missing interval out of all cells where more than one has them."""
    one = replicates.removesuffix("s")
    if sum(bool(NO_INTERVAL.search(cell)) for row in rows for cell in row) < 2:
        return [[cell.replace("one seed:", f"one {one}:") for cell in row] for row in rows], []
    return [[NO_INTERVAL.sub("", cell) for cell in row] for row in rows], [f"One {one}: no interval."]


def _defined(rows: Sequence[Sequence[str]], note: str) -> tuple[list[Sequence[str]], list[str]]:
    """Leave out rows that are undefined wherever any row has a value; nothing where no row would be left."""
    values = [i for i in range(1, len(rows[0]) if rows else 0) if any(_is_value(row[i]) for row in rows)]
    undefined = [row for row in rows if values and _is_undefined([row[i] for i in values])]
    if not undefined or len(undefined) == len(rows):
        return list(rows), []
    names = list(dict.fromkeys(row[0] for row in undefined))
    which = ", ".join(names) if len(names) <= MAX_NAMED else f"{len(undefined)} rows"
    reasons = dict.fromkeys(
        why for row in undefined for cell in row if (why := cell.removeprefix(UNDEFINED).strip(": ")) != cell and why
    )
    told = [reason for reason in reasons if reason not in note]
    why = f" ({'; '.join(told)})" if told else ""
    return [row for row in rows if row not in undefined], [f"Left out, undefined: {which}{why}."]


def _is_value(cell: str) -> bool:
    """Return whether a cell holds a measured value with its interval, or says that there is none."""
    return cell.startswith(UNDEFINED) or ("[" in cell and any(c.isdigit() for c in cell))


def _is_undefined(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell and cell not in ("-", "none")]
    return bool(known) and all(cell.startswith(UNDEFINED) for cell in known)
