"""The composition of two adapters: losses over the grid of scales, interference along s = t, every figure."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.sections.composition.pictures import grid_picture, line_picture
from lineament.report.sections.composition.words import LETTERS, NOTE, SIDES, data_name, rows, sentences
from lineament.report.sections.section import Opening, Section, each
from lineament.report.series import Table

OPENING = Opening(
    "Adapters",
    "the sum of",
    "Two adapters of one base, and their sums. This page shows what gradients and curvature foretell of them on the "
    "data of each and, where the sums were tried, what the adapters do to each other and which sum is best.",
    judged=False,
    replicates="",
)


def figures_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate every figure with a column for each data set."""
    record = sources[0]
    if not record.quantities:
        return None
    columns = ["", *(f"{LETTERS[side]}'s data: {data_name(record, side)}" for side in SIDES)]
    return Table("The two adapters on the data of each", columns, rows(record), NOTE)


def first_words(sources: Sequence[Record]) -> str:
    """Return the sentences that come before every picture."""
    return " ".join(sentences(sources[0])) if sources[0].quantities else ""


SECTION = Section(
    "composition",
    "Two adapters on one base",
    "how they interfere, predicted and measured, over a grid of scales",
    pictures=each(grid_picture, line_picture),
    tables=each(figures_table),
    opening=OPENING,
    warning=first_words,
)
