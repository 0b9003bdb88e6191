"""The second recovery, without momentum: captures by its own updates beside those of a blind run."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.sections.basis_capture.tables import blind_table
from lineament.report.sections.section import Section
from lineament.report.series import Table


def _tables(sources: Sequence[Record], rank: int) -> list[Table | None]:
    return [blind_table(sources, rank)]


SECTION = Section(
    "capture_without_momentum",
    "The recovery without momentum",
    "the same damaged point and batches, with an optimizer whose blind updates are independent",
    tables=_tables,
    nulls={"capture": "the same basis of a blind run", "window_capture": "the same window of a blind run"},
)
