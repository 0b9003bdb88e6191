"""The rows of a recording that moved the weights, with a blind run at the same rows.

A learning rate that warms up from 0, as transformers' schedules do, makes the first update exactly zero, one that ends
at 0 the last, and identical checkpoints any. Such a row is no direction: prefixes, k / T and blind values count the
others, and the record says which were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from lineament.errors import InputError
from lineament.records import Quantity
from lineament.vectors.trajectory_gram import TrajectoryGram

DEFINITION = (
    "rows of the recording whose update is exactly zero (a learning rate of 0, or identical checkpoints); they are "
    "left out of prefixes, windows, k / T and blind values"
)
RUNS_SHOWN = 5
# Rows of equal length that tell a shorter last row from uneven ones.
MIN_WHOLE_ROWS = 2


@dataclass(frozen=True)
class MovingRows:
    """Recorded updates that are not zero.

    Attributes:
        gram: of those rows, (n_rows, n_rows).
        blind: of a blind run at the same rows; None where there is none.
        steps: optimizer steps after which each of them was taken.
        rows: their places in the recording, counted from 0, (n_rows,).
        lengths: optimizer steps of each.
    """

    gram: TrajectoryGram
    blind: TrajectoryGram | None
    steps: tuple[int, ...]
    rows: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, gram: TrajectoryGram, steps: Sequence[int], blind: TrajectoryGram | None, name: str) -> MovingRows:
        """Leave out the rows of zeros.

        Args:
            gram, blind: of all recorded rows. steps: of all of them.
            name: of the recording, for errors.

        Raises:
            InputError: fewer than two rows are left.
        """
        rows = np.flatnonzero(np.diag(gram.gram) > 0)
        if len(rows) < 2:
            raise InputError(
                f"{name} holds {gram.n_steps} row(s), of which {len(rows)} moved the weights; at least 2 are needed. "
                "Record more steps, with a step size above 0 and checkpoints that differ."
            )
        lengths = np.diff([0, *steps])[rows]
        chosen = tuple(int(steps[int(row)]) for row in rows)
        return cls(_at(gram, rows), None if blind is None else _at(blind, rows), chosen, rows, lengths)

    @property
    def n_rows(self) -> int:
        """Number of rows that moved the weights."""
        return len(self.rows)

    @cached_property
    def steps_per_row(self) -> int | None:
        """Optimizer steps between rows; None if they differ, or if a row between them is zero.

        The last row may be shorter: a training saves its end, wherever that falls.
        """
        if np.any(np.diff(self.rows) != 1):
            return None
        short_end = len(self.lengths) > MIN_WHOLE_ROWS and self.lengths[-1] < self.lengths[0]
        whole = self.lengths[:-1] if short_end else self.lengths
        return int(whole[0]) if len(set(whole.tolist())) == 1 else None

    def evenly_spaced(self) -> MovingRows:
        """Return the rows without a shorter last one, for what compares rows of equal length."""
        if self.steps_per_row is None or self.lengths[-1] == self.steps_per_row:
            return self
        kept = np.arange(self.n_rows - 1)
        blind = None if self.blind is None else _at(self.blind, kept)
        return MovingRows(_at(self.gram, kept), blind, self.steps[:-1], self.rows[:-1], self.lengths[:-1])

    def zero_rows(self, n_rows: int) -> Quantity:
        """Return how many of all rows are left out, and which."""
        left_out = sorted(set(range(1, n_rows + 1)) - {int(row) + 1 for row in self.rows})
        reason = f"left out: {_runs(left_out)}" if left_out else None
        return Quantity("recorded", float(len(left_out)), "rows", labels={"what": "zero updates"}, reason=reason)


def _at(gram: TrajectoryGram, rows: np.ndarray) -> TrajectoryGram:
    return TrajectoryGram(np.ascontiguousarray(gram.gram[np.ix_(rows, rows)]), gram.space)


def _runs(numbers: Sequence[int]) -> str:
    """Write whole numbers as runs: `rows 1, 4 to 6`."""
    runs = []
    for _, grouped in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in grouped]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}")
    more = f" and {len(runs) - RUNS_SHOWN} more runs" if len(runs) > RUNS_SHOWN else ""
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(runs[:RUNS_SHOWN])}{more}"
