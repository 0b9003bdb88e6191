"""The composition of two adapters: losses over the grid of scales, interference along s = t, every figure."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.sections.composition.pictures import grid_picture, line_picture
from lineament.report.sections.composition.words import LETTERS, NOTE, SIDES, data_name, first_and_other, rows
from lineament.report.sections.section import Opening, Section, each
from lineament.report.series import Table
from lineament.report.story import Line
from lineament.report.words import model_words


def first_lines(records: Sequence[Record]) -> list[Line]:
    """Return the sentences of the first screen."""
    return [Line(sentence, "", "inconclusive", None) for sentence in _told(records)[0]]


def other_sentences(sources: Sequence[Record]) -> list[str]:
    """Return the sentences that are not on the first screen."""
    return _told(sources)[1]


def _told(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    return first_and_other(records[0]) if records[0].quantities else ([], [])


OPENING = Opening(
    "Adapters",
    "the sum of",
    "Two adapters of one base, and their sums. This page shows what gradients and curvature foretell of them on the "
    "data of each and, where the sums were tried, what the adapters do to each other and which sum is best.",
    judged=False,
    replicates="",
    of_model=False,
    facts=lambda records: [("base", model_words(records[0].model))],
    story=first_lines,
)


def figures_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate every figure with a column for each data set."""
    record = sources[0]
    if not record.quantities:
        return None
    columns = ["", *(f"{LETTERS[side]}'s data: {data_name(record, side)}" for side in SIDES)]
    return Table("The two adapters on the data of each", columns, rows(record), NOTE)


SECTION = Section(
    "composition",
    "Two adapters on one base",
    "how they interfere, predicted and measured, over a grid of scales",
    pictures=each(grid_picture, line_picture),
    tables=each(figures_table),
    opening=OPENING,
    remarks=other_sentences,
)
