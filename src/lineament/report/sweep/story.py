"""What a sweep found, for the first screen of its report: how often each claim held, and between which figures."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import target_words
from lineament.report.estimates import number
from lineament.report.story import FIRST, N_SENTENCES, SCALED, Line, bar_of
from lineament.report.sweep.claim_grid import ClaimGrid
from lineament.report.verdicts import verdict_counts

NOTE = (
    "Scales run from 0 to 1. Bar: from the lowest to the highest cell; dot: the cell in the middle. Thin mark: null, "
    "thick mark: blind, both the mean over cells."
)


def sweep_story(grids: Sequence[ClaimGrid]) -> list[Line]:
    """Return the lines of the first screen: the claims that a reader asks for first, over all cells."""
    several = len({grid.task for grid in grids}) > 1
    known = [grid for grid in grids if _measured(grid)]
    place = {id: number for number, id in enumerate(FIRST)}
    shown = sorted(known, key=lambda grid: place.get(grid.claim, len(FIRST)))[:N_SENTENCES]
    return [_line(grid, several) for grid in shown]


def _line(grid: ClaimGrid, several: bool) -> Line:
    verdicts = [claim["verdict"] for claim in grid.claims.values()]
    name = f"{target_words(grid.task)}: " if several else ""
    sentence = f"{name}{grid.title}: {verdict_counts(verdicts)} in {len(verdicts)} cells."
    values = _measured(grid)
    figures = f"from {number(values[0])} to {number(values[-1])}" if values[0] < values[-1] else number(values[0])
    null, blind = (_mean(grid, field) for field in ("null", "blind"))
    beside = "".join(f"; {word} {number(of)}" for word, of in (("blind", blind), ("null", null)) if of is not None)
    kind = verdicts[0] if len(set(verdicts)) == 1 else "inconclusive"
    scaled = set(grid.distinct("unit")) <= set(SCALED)
    bar = bar_of((values[len(values) // 2], values[0], values[-1]), null, blind) if scaled else None
    return Line(sentence, figures + beside, kind, bar)


def _measured(grid: ClaimGrid) -> list[float]:
    """Return what was measured in the cells, ascending."""
    return sorted(claim["measured"] for claim in grid.claims.values() if claim["measured"] is not None)


def _mean(grid: ClaimGrid, field: str) -> float | None:
    known = [value for combination in grid.claims if (value := grid.beside(field, combination)) is not None]
    return sum(known) / len(known) if known else None
