"""What a composition says in numbers, each with an interval from a bootstrap over examples.

The bootstrap draws the examples of each data set anew, with replacement; one base, one pair of adapters and the grid
are fixed, so its intervals speak of other examples and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lineament.merging.foretold import Beside, Foretold
from lineament.merging.interference import Composition, Meeting, Source
from lineament.records import is_told
from lineament.streams import Streams
from lineament.vectors.local_geometry import TOLERANCE, last_within, relative_errors, rounding_of

# What is foretold and measured at scales of 1: I(1, 1), and what the other adapter costs.
Of = Literal["interference", "cost"]
N_BOOTSTRAP = 400
TAILS = (2.5, 97.5)
# A sum keeps a task where it keeps this share of what the task's adapter alone gains at the same scale.
KEPT = 0.9
NOT_FINITE = "a loss is not finite there"
# An interval is given where at least this share of the bootstrap's draws has a value.
LEAST_DEFINED = 0.9


@dataclass(frozen=True)
class Figure:
    """A number with its bootstrap interval over examples; None where there is none, with the reason.

    Attributes:
        stderr: standard deviation over the bootstrap's draws.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    stderr: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Resampled:
    """Means over examples, and over the bootstrap's draws of examples.

    Attributes:
        weights: (1 + n_draws, n_examples), rows that sum to 1; the first is the plain mean.
    """

    weights: Tensor

    @staticmethod
    def of(n_examples: int, seed: int, place: int | str) -> Resampled:
        """Draw examples with replacement; equal arguments draw the same."""
        generator = Streams(seed).child("composition", "bootstrap").generator(place)
        drawn = generator.multinomial(n_examples, np.full(n_examples, 1 / n_examples), size=N_BOOTSTRAP)
        plain = np.ones((1, n_examples))
        return Resampled(torch.from_numpy(np.concatenate([plain, drawn]) / n_examples))

    def means(self, values: Tensor) -> Tensor:
        """Average (..., n_examples) over examples in every draw, (..., 1 + n_draws)."""
        return values.double() @ self.weights.T

    def null_size(self, beside: Beside) -> Figure:
        """Return the median size of a figure over the draws of its null.

        Each draw keeps the sign that it has on all examples: the size of a mean over few examples would be too large.
        """
        means = self.means(beside.draws)
        return figure((means[:, :1].sign() * means).nanquantile(0.5, dim=0), "no draw of the null is finite")

    def null_rank(self, beside: Beside) -> Figure:
        """Return the share of the null's draws whose figure is smaller in size than the own one, with signs kept so."""
        draws, own = self.means(beside.draws), self.means(beside.own)
        shares = (draws[:, :1].sign() * draws < own[0].sign() * own).double().mean(dim=0)
        return figure(torch.where(own.isfinite(), shares, torch.nan), "the figure is not finite")


def figure(draws: Tensor | Sequence[float], reason: str = "undefined") -> Figure:
    """Return the first of some values with the interval that the others give, (1 + n_draws,)."""
    values = np.asarray(draws, dtype=float)
    if not math.isfinite(values[0]):
        return Figure(None, reason=reason)
    others = values[1:][~np.isnan(values[1:])]
    if len(others) < LEAST_DEFINED * len(values[1:]) or not np.isfinite(others).all():
        return Figure(float(values[0]), reason="no interval: it is undefined in too many draws of examples")
    low, high = np.percentile(others, TAILS)
    return Figure(float(values[0]), float(low), float(high), float(others.std()))


@dataclass(frozen=True)
class ForetoldFigures:
    """What derivatives say on one data set, before any loss of a sum.

    Attributes:
        data: 0 for A's, 1 for B's. seed: of the composition.
    """

    foretold: Foretold
    data: int
    seed: int

    @property
    def resampled(self) -> Resampled:
        """The bootstrap of this data set's examples."""
        return Resampled.of(self.foretold.n_examples, self.seed, self.data)

    def mean(self, values: Tensor, reason: str = "undefined") -> Figure:
        """Return the mean of (n_examples,) with its interval."""
        return figure(self.resampled.means(values), reason)

    def slope(self, adapter: int) -> Figure:
        """Return g'A or g'B."""
        return self.mean(self.foretold.slopes[:, adapter])

    def curvature(self, place: int) -> Figure:
        """Return A'HA, A'HB or B'HB."""
        return self.mean(self.foretold.curvatures[:, place])

    def cost(self) -> Figure:
        """Return what the other adapter costs to second order, from slope and curvature at the own adapter."""
        return self.mean(self.foretold.cost().own)

    def middle(self) -> Figure:
        """Return A'HB half-way to the sum, which is I(1, 1) to third order."""
        return self.mean(self.foretold.middle)

    def predictions(self) -> Iterator[tuple[Of, str, Beside]]:
        """Yield everything that is foretold at scales of 1: of what, its kind, and the figure beside its null."""
        yield "interference", "predicted", self.foretold.interference_at_one("base")
        yield "interference", "middle", self.foretold.interference_at_one("middle")
        yield "cost", "predicted", self.foretold.cost()


@dataclass(frozen=True)
class DataFigures:
    """What one data set says; `own` is the adapter that was trained for it, 0 for A and 1 for B."""

    composition: Composition
    data: int

    @property
    def meeting(self) -> Meeting:
        """Losses and derivatives on this data set."""
        return self.composition.meetings[self.data]

    @property
    def foretold(self) -> ForetoldFigures:
        """What derivatives said of it."""
        return ForetoldFigures(self.meeting, self.data, self.composition.seed)

    @property
    def resampled(self) -> Resampled:
        """The bootstrap of this data set's examples."""
        return self.foretold.resampled

    def loss(self, row: int, column: int) -> Figure:
        """Return the loss at a place of the grid."""
        return figure(self.resampled.means(self.meeting.grid[row, column]), "the loss is not finite there")

    def measured(self, of: Of) -> Beside:
        """Return I(1, 1), or what the other adapter adds to the loss of this data set's own one, both at scale 1."""
        at = self.composition.one
        return self.meeting.measured_at_one(at) if of == "interference" else self.meeting.measured_cost(at, self.data)

    def interference(self) -> Figure:
        """Return I(1, 1)."""
        return self.foretold.mean(self.measured("interference").own, NOT_FINITE)

    def cost(self) -> Figure:
        """Return what the other adapter costs."""
        return self.foretold.mean(self.measured("cost").own, NOT_FINITE)

    def agreement(self, source: Source) -> Figure:
        """Return the correlation of predicted with measured interference over the pairs of scales of the grid."""
        steps = torch.tensor(self.composition.scales[1:], dtype=torch.float64)
        sums, products = (steps[:, None] + steps).reshape(-1), torch.outer(steps, steps).reshape(-1)
        cells = self.resampled.means(self.meeting.interference()[1:, 1:]).flatten(0, 1)
        if len(cells) < 3:
            return Figure(None, reason="fewer than three pairs of scales")
        expected = products[:, None] * self._bent(source, sums)
        x, y = expected - expected.mean(dim=0), cells - cells.mean(dim=0)
        return figure((x * y).sum(dim=0) / (x.norm(dim=0) * y.norm(dim=0)))

    def _bent(self, source: Source, sums: Tensor) -> Tensor:
        """Return the curvature that `Composition.predicted` takes at scales of these sums, (n_sums, 1 + n_draws)."""
        base, middle = (self.resampled.means(x) for x in (self.meeting.curvatures[:, 1], self.meeting.middle))
        bend = middle - base if source == "both" else torch.zeros_like(base)
        return base + torch.outer(sums / 2, bend)

    def holds_up_to(self, source: Source) -> tuple[Figure, bool]:
        """Return the largest scale along s = t up to which I is predicted within 10 %, and whether none leaves that."""
        sizes, losses = self._line()
        together = losses[:, 2] - losses[:, 0] - losses[:, 1] + losses[:, 3]
        steps = torch.tensor(sizes, dtype=torch.float64)
        expected = steps[:, None].square() * self._bent(source, 2 * steps)
        start = float(losses[0, 3, 0])
        rounding = rounding_of(start, self.composition.dtype) if math.isfinite(start) else math.inf
        found = []
        for draw in range(together.shape[1]):
            errors = relative_errors(together[:, draw].tolist(), expected[:, draw].tolist(), rounding)
            found.append(last_within(sizes, errors, TOLERANCE))
        return figure([radius for radius, _ in found], "no change is larger than rounding"), found[0][1]

    def kept(self) -> tuple[list[float], list[float]]:
        """Return scales along s = t, and the share of the own adapter's gain that the sum keeps at each."""
        sizes, losses = self._line()
        alone, together = losses[:, 3] - losses[:, self.data], losses[:, 3] - losses[:, 2]
        return list(sizes), self._shares(alone, together)[:, 0].tolist()

    def keeps_up_to(self) -> tuple[Figure, bool]:
        """Return the largest scale along s = t up to which the sum keeps 90 % of the gain; whether always."""
        sizes, losses = self._line()
        alone, together = losses[:, 3] - losses[:, self.data], losses[:, 3] - losses[:, 2]
        shares = self._shares(alone, together)
        found = [last_within(sizes, (1 - shares[:, i]).tolist(), 1 - KEPT) for i in range(shares.shape[1])]
        reason = "this adapter alone gains nothing on its data that is told from 0"
        return figure([radius for radius, _ in found], reason), found[0][1]

    def _shares(self, alone: Tensor, together: Tensor) -> Tensor:
        """Divide, where the gain of the adapter alone is told from 0 (protocol, section 7); nan elsewhere."""
        told = [is_told(float(row[0]), float(row[1:].std())) for row in alone]
        shares = together / alone
        shares[~torch.tensor(told)] = torch.nan
        return shares

    def _line(self) -> tuple[tuple[float, ...], Tensor]:
        """Return all scales along s = t, and mean losses with A, with B, with both and with none.

        Returns:
            (n_sizes,), and (n_sizes, 4, 1 + n_draws).
        """
        grid, n = self.meeting.grid, len(self.composition.scales)
        steps = torch.arange(1, n)
        coarse = torch.stack([grid[steps, 0], grid[0, steps], grid[steps, steps]], dim=1)
        losses = torch.cat([self.meeting.small, coarse])
        base = grid[0, 0].expand(len(losses), 1, -1)
        sizes = (*self.composition.small, *self.composition.scales[1:])
        return sizes, self.resampled.means(torch.cat([losses, base], dim=1))
