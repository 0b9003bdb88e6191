"""What two adapters do to each other on one base: interference over a grid of scales, predicted before it is measured.

I(s, t) = L(theta + s A + t B) - L(theta + s A) - L(theta + t B) + L(theta), on the data of each; to second order it is
s t A'HB (protocol, section 8). Sums are of dW, so they are exact for any factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.merging.foretold import Beside, Foretold, Pair, Progress, foretold_of, work_of_foretelling
from lineament.merging.options import CompositionOptions
from lineament.merging.side_branches import SideBranches, losses_at
from lineament.problems.modes import evaluating
from lineament.problems.problem import Batch, Problem
from lineament.problems.stored_adapters import StoredAdapter

# Where the curvature that foretells interference was measured: at the base, or there and half-way to the sum.
Source = Literal["base", "both"]


@dataclass(frozen=True)
class Meeting(Foretold):
    """Two adapters, A and B, on the examples of one data set; all losses in nats per target token.

    Attributes:
        grid: loss at every pair of scales, A's first, (n_scales, n_scales, n_examples); the first scale is 0.
        small: losses at (c, 0), (0, c) and (c, c) for scales c below those of the grid, (n_small, 3, n_examples).
        null_losses: loss with B' alone and with A + B', scales 1, for every draw B' of the null,
            (n_draws, 2, n_examples).
        null_together: loss with the data set's own adapter and each draw of the null of the other one,
            (n_draws, n_examples).
    """

    grid: Float64[Tensor, "n_scales n_scales n_examples"]
    small: Float64[Tensor, "n_small 3 n_examples"]
    null_losses: Float64[Tensor, "n_draws 2 n_examples"]
    null_together: Float64[Tensor, "n_draws n_examples"]

    def interference(self) -> Float64[Tensor, "n_scales n_scales n_examples"]:
        """Return I(s, t) of every example; 0 where a scale is 0."""
        return self.grid - self.grid[:, :1] - self.grid[:1] + self.grid[:1, :1]

    def measured_at_one(self, at: int) -> Beside:
        """Return I(1, 1); `at` is the place of scale 1 in the grid."""
        draws = self.null_losses[:, 1] - self.null_losses[:, 0] - self.grid[at, 0] + self.grid[0, 0]
        return Beside(self.interference()[at, at], draws)

    def measured_cost(self, at: int, own: int) -> Beside:
        """Return what the other adapter adds to the loss of the own one, 0 for A and 1 for B, both at scale 1."""
        alone = self.grid[at, 0] if own == 0 else self.grid[0, at]
        return Beside(self.grid[at, at] - alone, self.null_together - alone)


@dataclass(frozen=True)
class Composition:
    """Two adapters of one base on the data of each.

    Attributes:
        scales: of the grid, for A and B alike, ascending from 0; 1 is among them.
        small: scales below them, ascending, that were measured along s = t.
        meetings: on A's data, then on B's.
        dtype: of the base's weights, which decides the rounding of losses.
        seed: of the halves of the data and of the null's draws.
    """

    adapters: tuple[StoredAdapter, StoredAdapter]
    scales: tuple[float, ...]
    small: tuple[float, ...]
    meetings: tuple[Meeting, Meeting]
    dtype: torch.dtype
    seed: int

    @property
    def one(self) -> int:
        """Place of scale 1 in the grid."""
        return self.scales.index(1.0)

    def predicted(self, data: int, source: Source = "base") -> Float64[Tensor, "n_scales n_scales"]:
        """Return the interference that curvature foretells on data set 0 or 1, the mean over its examples.

        Args:
            source: `base`: s t A'HB. `both`: s t times the curvature half-way to s A + t B, on the line between that at
                the base and that half-way to A + B.
        """
        steps, meeting = torch.tensor(self.scales, dtype=torch.float64), self.meetings[data]
        base = meeting.curvatures[:, 1].mean()
        bend = meeting.middle.mean() - base if source == "both" else torch.zeros_like(base)
        return torch.outer(steps, steps) * (base + bend * (steps[:, None] + steps) / 2)

    def measured(self, data: int) -> Float64[Tensor, "n_scales n_scales"]:
        """Return I(s, t) on data set 0 or 1, the mean over its examples."""
        return self.meetings[data].interference().mean(dim=-1)


def interference(
    problem: Problem,
    adapters: tuple[StoredAdapter, StoredAdapter],
    data: tuple[Batch, Batch],
    options: CompositionOptions | None = None,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Composition:
    """Predict and measure how two adapters interfere, on the data of each.

    The prediction is that of `foretell`, and is made before any loss of the grid is computed. The model's weights are
    not touched; it is evaluated without dropout, and its modes come back.

    Args:
        problem: its `model` is the base, whose modules are named as the adapters name them.
        adapters: A and B, such as `read_adapter` returns.
        data: examples of what A was trained for, and of what B was.
        validation: which examples may choose scales, (n_examples,) for each; default a random half of each.
        progress: called with (what is done, how much of it is done, how much there is).

    Returns:
        Derivatives and losses of every example in nats per target token, so that intervals cost nothing.

    Raises:
        InputError: fewer than 8 examples, adapters that do not fit the model, or that change it on rows that are none
            of single examples, as experts do.
        NotImplementedError: an operation of the model has no second derivative.
    """
    options = options or CompositionOptions()
    pair, before = Pair.of(adapters, options), work_of_foretelling(options)
    work = _Losses(problem, pair, options, progress, before)
    with evaluating(problem.model):
        found = foretold_of(
            problem, pair, data, options, validation, lambda what, done, total: progress(what, done, work.total)
        )
        first, second = (work.meeting(data[own], own, found.foretold[own]) for own in (0, 1))
    return Composition(adapters, options.grid, options.small, (first, second), found.dtype, options.seed)


class _Losses:
    """All losses of a composition, counted for a bar over everything."""

    def __init__(
        self, problem: Problem, pair: Pair, options: CompositionOptions, progress: Progress, before: int
    ) -> None:
        self.problem, self.pair, self.options, self.progress = problem, pair, options, progress
        n_points = len(options.grid) ** 2 + 3 * len(options.small) + 2 * options.draws
        self.done, self.total = before, before + 2 * n_points + options.draws  # B's data need one more for each draw

    def meeting(self, batch: Batch, own: int, foretold: Foretold) -> Meeting:
        """Measure all losses on one data set, whose own adapter is A (0) or B (1)."""
        scales, small = self.options.grid, self.options.small
        a, b = self.pair.adapters
        grid = self._losses(batch, (a, b), [(s, t) for s in scales for t in scales])
        line = self._losses(batch, (a, b), [p for c in small for p in ((c, 0.0), (0.0, c), (c, c))])
        nulls = [self._losses(batch, (a, drawn), [(0.0, 1.0), (1.0, 1.0)]) for drawn in self.pair.drawn[1]]
        together = [null[1] for null in nulls]
        if own == 1:
            together = [self._losses(batch, (drawn, b), [(1.0, 1.0)])[0] for drawn in self.pair.drawn[0]]
        return Meeting(
            **{one.name: getattr(foretold, one.name) for one in fields(Foretold)},
            grid=grid.view(len(scales), len(scales), -1),
            small=line.view(len(small), 3, -1),
            null_losses=torch.stack(nulls),
            null_together=torch.stack(together),
        )

    def _losses(
        self, batch: Batch, adapters: tuple[StoredAdapter, StoredAdapter], points: Sequence[tuple[float, float]]
    ) -> Tensor:
        branches, found = SideBranches(self.problem.model, adapters), []
        for losses in losses_at(self.problem, branches, batch, torch.tensor(points, dtype=torch.float64)):
            found.append(losses)
            self.done += 1
            self.progress("losses over the grid of scales", self.done, self.total)
        return torch.stack(found)
