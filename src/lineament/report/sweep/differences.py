"""Tables of a sweep: what each value of a varied key changes, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lineament.report.estimates import Estimate, number
from lineament.report.series import Table
from lineament.report.sweep.claim_grid import ClaimGrid
from lineament.settings.words import short_keys, value_words

MAX_ROWS = 40


def difference_tables(grid: ClaimGrid, differences: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Tabulate, for each key, its other values minus its first one, paired by seed, all other keys held fixed."""
    own = [d for d in differences if d["claim"] == grid.claim and d["task"] == grid.task]
    by_key = {key: [d for d in own if d["key"] == key] for key in grid.vary}
    tables = [_difference_table(grid, key, rows) for key, rows in by_key.items() if rows]
    note = (
        "Differences between two cells that differ in this key alone, seed by seed, over the seeds that both have. "
        "Null: 0, no difference."
    )
    intervals = sum(d["low"] is not None for d in own)
    if intervals > 1:
        note += f" About one in twenty of the {intervals} intervals misses its true value by chance."
    return [*tables[:-1], *(replace(table, note=f"{table.note} {note}".strip()) for table in tables[-1:])]


def _difference_table(grid: ClaimGrid, key: str, differences: Sequence[Mapping[str, Any]]) -> Table:
    short, others = short_keys(list(grid.vary)), [name for name in grid.vary if name != key]
    columns = (short[key], *(short[name] for name in others), "mean", "95 % interval over seeds", "seeds")
    rows = [
        (
            f"{value_words(d['other'])} minus {value_words(d['first'])}",
            *(value_words(d["fixed"][name]) for name in others),
            number(d["mean"]),
            Estimate(d["mean"], d["low"], d["high"], d["n_seeds"], pair=d.get("pair")).interval_text,
            str(d["n_seeds"]),
        )
        for d in differences[:MAX_ROWS]
    ]
    more = len(differences) - len(rows)
    note = f"{more} more are in sweep.json." if more else ""
    return Table(f"What {key} changes ({differences[0]['unit']}, paired by seed)", columns, rows, note)
