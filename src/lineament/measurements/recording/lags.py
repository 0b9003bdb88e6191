"""Windows of a recording's rows, and the lag at which a curve over pairs of them first falls to a level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np

from lineament.measurements.crossings import crossing
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.staleness import jackknife_stderr
from lineament.records import Label, Quantity
from lineament.vectors.trajectory_gram import StepBasis, TrajectoryGram

# Windows that are compared, at most; more would repeat what neighbours say.
MOST_WINDOWS = 48
# Groups of starting times that are left out in turn for the spread within a run.
GROUPS = 5
PHASES = ("all", "early", "late")


class Started(Protocol):
    """Something compared from a starting row on."""

    @property
    def start(self) -> int:
        """First row of the earlier window."""

    @property
    def lag(self) -> int:
        """Rows from the earlier window to the later one."""


Pair = TypeVar("Pair", bound=Started)


@dataclass(frozen=True)
class Window:
    """Two planes of a window's even and odd rows, with their coefficients on every row, U^T r_t."""

    start: int
    planes: tuple[StepBasis, StepBasis]
    rows: tuple[np.ndarray, np.ndarray]


def windows_of(gram: TrajectoryGram, options: AnalysisOptions) -> list[Window]:
    """Return windows on an even grid over the run, half a window apart or further."""
    width, last = options.window, gram.n_steps - options.window
    stride = max(1, width // 2, -(-last // MOST_WINDOWS))
    return [_window(gram, start, options) for start in range(0, last + 1, stride)]


def _window(gram: TrajectoryGram, start: int, options: AnalysisOptions) -> Window:
    even, odd = (
        gram.top_of(range(start + 1 + offset, start + 1 + options.window, 2), options.plane_rank) for offset in (0, 1)
    )
    return Window(start, (even, odd), (gram.coefficients(even).values, gram.coefficients(odd).values))


def in_phase(pairs: Sequence[Pair], phase: str, n_rows: int) -> list[Pair]:
    """Return the pairs whose first window starts in a phase of the run; early is its first third."""
    return [pair for pair in pairs if phase == "all" or (pair.start < n_rows // 3) == (phase == "early")]


def by_lag(pairs: Sequence[Pair]) -> dict[int, list[Pair]]:
    """Group pairs by their lag, the shortest first."""
    found: dict[int, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.lag):
        found.setdefault(pair.lag, []).append(pair)
    return found


def without_groups(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Leave out the pairs of each of a few groups of successive starting times in turn."""
    starts = np.array(sorted({pair.start for pair in pairs}))
    edges = np.linspace(0, len(starts), min(GROUPS, len(starts)) + 1).round().astype(int)
    for low, high in pairwise(edges):
        left_out = set(starts[low:high].tolist())
        yield [pair for pair in pairs if pair.start not in left_out]


def lag_quantity(
    name: str,
    pairs: Sequence[Pair],
    value_of: Callable[[Sequence[Pair]], float | None],
    level: float,
    steps_per_row: int,
    labels: dict[str, Label],
) -> Quantity:
    """Return the lag, in steps, at which the isotonic fit of a curve falls to a level, with a jackknife error.

    Args:
        pairs: compared windows. value_of: those of one lag -> height of the curve there, or None.
    """

    def reached(kept: Sequence[Pair]) -> tuple[float | None, int, int]:
        """(lag in rows or None, shortest and largest lag with a value, or 0)."""
        heights = {lag: value_of(own) for lag, own in by_lag(kept).items()}
        known = [(lag, height) for lag, height in heights.items() if height is not None]
        if not known:
            return None, 0, 0
        lags, values = zip(*known, strict=True)
        return crossing(np.array(lags), np.array(values), level), int(lags[0]), int(lags[-1])

    value, shortest, largest = reached(pairs)
    if largest == 0:
        return Quantity(name, None, "steps", labels=labels, reason="undefined: no ceiling above the floor")
    if value is None:
        reason = f"> {largest * steps_per_row} (largest lag; it does not cross)"
        return Quantity(name, None, "steps", labels=labels, reason=reason)
    if value < shortest:  # the fit's first point is (0, 1), which was not measured
        reason = f"< {shortest * steps_per_row} (shortest lag; it crosses before)"
        return Quantity(name, None, "steps", labels=labels, reason=reason)
    without = [reached(kept)[0] for kept in without_groups(pairs)]
    known = np.array([lag for lag in without if lag is not None])
    error = jackknife_stderr(known) * steps_per_row if len(known) == len(without) > 1 else None
    return Quantity(name, value * steps_per_row, "steps", stderr=error, labels=labels)
