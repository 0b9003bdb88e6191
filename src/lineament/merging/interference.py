"""What two adapters do to each other on one base: interference over a grid of scales, predicted before it is measured.

I(s, t) = L(theta + s A + t B) - L(theta + s A) - L(theta + t B) + L(theta), on the data of each; to second order it is
s t A'HB (protocol, section 8). Sums are of dW, so they are exact for any factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.merging.random_vectors import with_random_vectors
from lineament.merging.side_branches import SideBranches, losses_at, scale_derivatives
from lineament.problems.modes import evaluating
from lineament.problems.problem import Batch, Problem
from lineament.problems.stored_adapters import StoredAdapter
from lineament.streams import Streams

Progress = Callable[[str, int, int], None]
# Where the curvature that foretells interference was measured: at the base, or there and half-way to the sum.
Source = Literal["base", "both"]
SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# Beyond it losses are those of a broken model, and float32 sums lose the smaller adapter.
LARGEST_SCALE = 100.0
# How often the smallest scale is halved, along s = t, to find where the prediction begins to hold.
HALVINGS = 5
FEWEST_EXAMPLES = 8
# Derivatives of a data set take about as long as so many losses of it.
WORK_OF_CURVATURE = 12


@dataclass(frozen=True)
class Meeting:
    """Two adapters, A and B, on the examples of one data set; all losses in nats per target token.

    Attributes:
        slopes: g'A and g'B at the base, (n_examples, 2).
        curvatures: A'HA, A'HB and B'HB at the base, (n_examples, 3).
        middle: A'HB half-way to the sum, at theta + A / 2 + B / 2, (n_examples,): I(1, 1) but for terms of fourth order
            (the midpoint rule for the integral of d2L/dsdt, which I is).
        onward: slope and curvature of the loss by the other adapter's scale, at the data set's own adapter,
            (n_examples, 2). Slope + curvature / 2 foretells what the other adapter costs.
        grid: loss at every pair of scales, A's first, (n_scales, n_scales, n_examples); the first scale is 0.
        small: losses at (c, 0), (0, c) and (c, c) for scales c below those of the grid, (n_small, 3, n_examples).
        null_curvatures: A'HB' for every draw B' of the null, (n_draws, n_examples).
        null_losses: loss with B' alone and with A + B', scales 1, (n_draws, 2, n_examples).
        validation: whether an example may choose scales; the others are held out, (n_examples,).
    """

    slopes: Float64[Tensor, "n_examples 2"]
    curvatures: Float64[Tensor, "n_examples 3"]
    middle: Float64[Tensor, " n_examples"]
    onward: Float64[Tensor, "n_examples 2"]
    grid: Float64[Tensor, "n_scales n_scales n_examples"]
    small: Float64[Tensor, "n_small 3 n_examples"]
    null_curvatures: Float64[Tensor, "n_draws n_examples"]
    null_losses: Float64[Tensor, "n_draws 2 n_examples"]
    validation: Bool[Tensor, " n_examples"]

    @property
    def n_examples(self) -> int:
        """Examples of the data set."""
        return len(self.slopes)

    def interference(self) -> Float64[Tensor, "n_scales n_scales n_examples"]:
        """Return I(s, t) of every example; 0 where a scale is 0."""
        return self.grid - self.grid[:, :1] - self.grid[:1] + self.grid[:1, :1]


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


@dataclass(frozen=True)
class CompositionOptions:
    """How a composition is measured.

    Attributes:
        scales: of the grid, above 0; 0 and 1 are added.
        draws: adapters of the null: B with random singular vectors.
        seed: of the halves of the data and of these draws.
    """

    scales: Sequence[float] = SCALES
    draws: int = 8
    seed: int = 0
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", Streams(self.seed).child("composition"))
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise InputError(
                f"scales are {tuple(self.scales)}; give at least one, above 0 and at most {LARGEST_SCALE:g}."
            )
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}; the null needs at least 1.")

    @property
    def grid(self) -> tuple[float, ...]:
        """Scales of the grid, ascending from 0."""
        return tuple(sorted({0.0, 1.0, *map(float, self.scales)}))

    @property
    def small(self) -> tuple[float, ...]:
        """Scales below those of the grid, ascending."""
        return tuple(self.grid[1] / 2**n for n in range(HALVINGS, 0, -1))


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

    The prediction costs one gradient and one Hessian-vector product per adapter and data set, whatever the grid; it is
    made before any loss of the grid is computed. A second one, half-way to the sum, foretells I(1, 1) far better where
    the adapters are too large for the base's curvature, and a third, at each adapter, what the other one costs it. The
    model's weights are not touched; it is evaluated without dropout, and its modes come back.

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
    for batch in data:
        require_examples(len(batch), "a data set")
    halves = validation or tuple(_half(len(batch), options, place) for place, batch in enumerate(data))
    drawn = [with_random_vectors(adapters[1], options.streams.generator("null", i)) for i in range(options.draws)]
    with evaluating(problem.model):
        work = _Work(problem, adapters, drawn, options, progress)
        derivatives = [work.derivatives(batch, own) for own, batch in enumerate(data)]
        meetings = [work.meeting(*one) for one in zip(data, derivatives, halves, strict=True)]
    dtype = problem.parameters.tensors[0].dtype
    return Composition(adapters, options.grid, options.small, (meetings[0], meetings[1]), dtype, options.seed)


def require_examples(n: int, what: str) -> None:
    """Raise `InputError` unless a data set has enough examples for two halves with an interval."""
    if n < FEWEST_EXAMPLES:
        raise InputError(
            f"{what} has {n} examples; at least {FEWEST_EXAMPLES} are needed, half of them to choose scales."
        )


def _half(n: int, options: CompositionOptions, place: int) -> Tensor:
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.from_numpy(options.streams.generator("halves", place).permutation(n)[: n // 2])] = True
    return chosen


class _Work:
    """Everything that is computed with the model, counted for a bar over all of it."""

    def __init__(
        self,
        problem: Problem,
        adapters: tuple[StoredAdapter, StoredAdapter],
        drawn: Sequence[StoredAdapter],
        options: CompositionOptions,
        progress: Progress,
    ) -> None:
        self.problem, self.options, self.progress = problem, options, progress
        self.all = SideBranches(problem.model, [*adapters, *drawn])
        self.pair = SideBranches(problem.model, adapters)
        self.nulls = [SideBranches(problem.model, [adapters[0], one]) for one in drawn]
        n_points = len(options.grid) ** 2 + 3 * len(options.small) + 2 * len(drawn)
        self.done, self.total = 0, 2 * (n_points + WORK_OF_CURVATURE)

    def derivatives(self, batch: Batch, own: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Differentiate at the base, half-way to the sum, and at the data set's own adapter.

        Returns:
            Slopes (n_examples, n_adapters) and curvatures (n_examples, 2, n_adapters) of A, B and all draws, A'HB in
            the middle, (n_examples,), and slope and curvature from the own adapter on, (n_examples, 2).
        """
        self.progress("gradients and curvature", self.done, self.total)
        found = scale_derivatives(self.problem, self.all, batch, rows=(0, 1))
        middle = scale_derivatives(self.problem, self.pair, batch, rows=(0,), point=(0.5, 0.5))
        other, point = 1 - own, (1.0, 0.0) if own == 0 else (0.0, 1.0)
        onward = scale_derivatives(self.problem, self.pair, batch, rows=(other,), point=point)
        self.done += WORK_OF_CURVATURE
        ahead = torch.stack([onward.slopes[:, other], onward.curvatures[:, 0, other]], dim=1)
        return found.slopes, found.curvatures, middle.curvatures[:, 0, 1], ahead

    def meeting(self, batch: Batch, derivatives: tuple[Tensor, Tensor, Tensor, Tensor], validation: Tensor) -> Meeting:
        """Measure all losses on one data set."""
        slopes, curvatures, middle, onward = derivatives
        scales, small = self.options.grid, self.options.small
        grid = self._losses(batch, self.pair, [(s, t) for s in scales for t in scales])
        line = self._losses(batch, self.pair, [p for c in small for p in ((c, 0.0), (0.0, c), (c, c))])
        nulls = [self._losses(batch, one, [(0.0, 1.0), (1.0, 1.0)]) for one in self.nulls]
        own = (curvatures[:, 0, 0], curvatures[:, 0, 1], curvatures[:, 1, 1])
        return Meeting(
            slopes=slopes[:, :2],
            curvatures=torch.stack(own, dim=1),
            middle=middle,
            onward=onward,
            grid=grid.view(len(scales), len(scales), -1),
            small=line.view(len(small), 3, -1),
            null_curvatures=curvatures[:, 0, 2:].T.contiguous(),
            null_losses=torch.stack(nulls),
            validation=validation.bool(),
        )

    def _losses(self, batch: Batch, branches: SideBranches, points: Sequence[tuple[float, float]]) -> Tensor:
        found = []
        for losses in losses_at(self.problem, branches, batch, torch.tensor(points, dtype=torch.float64)):
            found.append(losses)
            self.done += 1
            self.progress("losses over the grid of scales", self.done, self.total)
        return torch.stack(found)
