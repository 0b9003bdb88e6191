"""Where the recovery lies: captures, training inside subspaces, and the grid of recipes."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.sections.basis_capture.captures import capture_picture
from lineament.report.sections.basis_capture.grid import grid_pictures
from lineament.report.sections.basis_capture.inside import recover_picture
from lineament.report.sections.basis_capture.tables import blind_table, krylov_table, later_table, space_table
from lineament.report.sections.section import Section
from lineament.report.series import Picture, Table

NULLS = {
    "capture": "for static bases another task's plane, for all others the first updates on shuffled labels",
    "window_capture": "the same window of a blind run",
    "prefix_share_of_steps": "none: it is a share of steps",
    "krylov_prefix_overlap": "the same overlap with the first updates on shuffled labels",
    "trained_inside": "random directions of the same rank",
    "projected": "random directions of the same rank",
    "grid_capture": "random directions, and updates on shuffled labels",
}


def _pictures(sources: Sequence[Record], rank: int) -> list[Picture | None]:
    return [capture_picture(sources, rank), recover_picture(sources, rank), *grid_pictures(sources, rank)]


def _tables(sources: Sequence[Record], rank: int) -> list[Table | None]:
    return [blind_table(sources, rank), later_table(sources, rank), space_table(sources, rank), krylov_table(sources)]


SECTION = Section(
    "basis_capture",
    "Where the recovery lies",
    "how much of its displacement small subspaces capture",
    pictures=_pictures,
    tables=_tables,
    nulls=NULLS,
)
