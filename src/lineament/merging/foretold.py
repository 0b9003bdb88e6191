"""What gradients and curvature say of two adapters before any loss of a sum is computed, beside the same of a null.

The null replaces an adapter by one that has its singular values, module by module, and random singular vectors: what is
foretold for such adapters comes of their sizes alone (protocol, section 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from lineament.merging.options import CompositionOptions, random_half, require_examples
from lineament.merging.random_vectors import with_random_vectors
from lineament.merging.side_branches import SideBranches, scale_derivatives
from lineament.problems.modes import evaluating
from lineament.problems.problem import Batch, Problem
from lineament.problems.stored_adapters import StoredAdapter

Progress = Callable[[str, int, int], None]
# Where the curvature that foretells I(1, 1) was measured: at the base, or half-way to the sum.
Place = Literal["base", "middle"]
# Derivatives of a data set take about as long as so many losses of it, and those of a draw of the null as so many more.
WORK_OF_CURVATURE, WORK_OF_DRAW = 12, 7


@dataclass(frozen=True)
class Beside:
    """A figure of every example, beside the same with adapters that mean nothing.

    Attributes:
        own: of the two adapters, (n_examples,). draws: with each draw of the null, (n_draws, n_examples).
    """

    own: Float64[Tensor, " n_examples"]
    draws: Float64[Tensor, "n_draws n_examples"]

    def __sub__(self, other: Beside) -> Beside:
        """Subtract another figure, example by example and draw by draw."""
        return Beside(self.own - other.own, self.draws - other.draws)


@dataclass(frozen=True)
class Foretold:
    """Derivatives of the loss of every example of one data set by the scales of A and B, nats per target token.

    Attributes:
        slopes: g'A and g'B at the base, (n_examples, 2).
        curvatures: A'HA, A'HB and B'HB at the base, (n_examples, 3).
        middle: A'HB half-way to the sum, at theta + A / 2 + B / 2, (n_examples,): I(1, 1) but for terms of fourth order
            (the midpoint rule for the integral of d2L/dsdt, which I is).
        onward: slope and curvature of the loss by the other adapter's scale, at the data set's own adapter,
            (n_examples, 2). Slope + curvature / 2 foretells what the other adapter costs.
        null_curvatures, null_middle: A'HB' at the base, and at theta + A / 2 + B' / 2, for every draw B' of the null,
            (n_draws, n_examples).
        null_onward: `onward` for every draw of the null of the other adapter, (n_draws, 2, n_examples).
        validation: whether an example may choose scales; the others are held out, (n_examples,).
    """

    slopes: Float64[Tensor, "n_examples 2"]
    curvatures: Float64[Tensor, "n_examples 3"]
    middle: Float64[Tensor, " n_examples"]
    onward: Float64[Tensor, "n_examples 2"]
    null_curvatures: Float64[Tensor, "n_draws n_examples"]
    null_middle: Float64[Tensor, "n_draws n_examples"]
    null_onward: Float64[Tensor, "n_draws 2 n_examples"]
    validation: Bool[Tensor, " n_examples"]

    @property
    def n_examples(self) -> int:
        """Examples of the data set."""
        return len(self.slopes)

    def interference_at_one(self, place: Place) -> Beside:
        """Return I(1, 1) as curvature foretells it, at the base or half-way to the sum."""
        if place == "base":
            return Beside(self.curvatures[:, 1], self.null_curvatures)
        return Beside(self.middle, self.null_middle)

    def cost(self) -> Beside:
        """Return what the other adapter adds to the loss of the own one, to second order."""
        return Beside(self.onward[:, 0] + self.onward[:, 1] / 2, self.null_onward[:, 0] + self.null_onward[:, 1] / 2)


@dataclass(frozen=True)
class Prediction:
    """What is foretold of two adapters of one base, on A's data and then on B's.

    Attributes:
        dtype: of the base's weights. seed: of the halves of the data and of the null's draws.
    """

    adapters: tuple[StoredAdapter, StoredAdapter]
    foretold: tuple[Foretold, Foretold]
    dtype: torch.dtype
    seed: int


@dataclass(frozen=True)
class Pair:
    """Two adapters, and the draws that stand for each of them in the null: of A, and of B."""

    adapters: tuple[StoredAdapter, StoredAdapter]
    drawn: tuple[Sequence[StoredAdapter], Sequence[StoredAdapter]]

    @staticmethod
    def of(adapters: tuple[StoredAdapter, StoredAdapter], options: CompositionOptions) -> Pair:
        """Draw the null of both."""
        draw = options.streams.generator
        return Pair(
            adapters,
            (
                [with_random_vectors(adapters[0], draw("null of the first", i)) for i in range(options.draws)],
                [with_random_vectors(adapters[1], draw("null", i)) for i in range(options.draws)],
            ),
        )


def foretell(
    problem: Problem,
    adapters: tuple[StoredAdapter, StoredAdapter],
    data: tuple[Batch, Batch],
    options: CompositionOptions | None = None,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Prediction:
    """Foretell how two adapters interfere, on the data of each, without a loss of any sum.

    Costs a gradient and three Hessian-vector products for each data set, and two more for each draw of the null. The
    model's weights are not touched; it is evaluated without dropout, and its modes come back.

    Args:
        problem: its `model` is the base, whose modules are named as the adapters name them.
        adapters: A and B, such as `read_adapter` returns.
        data: examples of what A was trained for, and of what B was.
        validation: which examples may choose scales, (n_examples,) for each; default a random half of each.
        progress: called with (what is done, how much of it is done, how much there is).

    Raises:
        InputError: fewer than 8 examples, adapters that do not fit the model, or that change it on rows that are none
            of single examples, as experts do.
        NotImplementedError: an operation of the model has no second derivative.
    """
    options = options or CompositionOptions()
    with evaluating(problem.model):
        return foretold_of(problem, Pair.of(adapters, options), data, options, validation, progress)


def work_of_foretelling(options: CompositionOptions) -> int:
    """Return how many losses of a data set take as long as foretelling does for both."""
    return 2 * (WORK_OF_CURVATURE + WORK_OF_DRAW * options.draws)


def foretold_of(
    problem: Problem,
    pair: Pair,
    data: tuple[Batch, Batch],
    options: CompositionOptions,
    validation: tuple[Tensor, Tensor] | None,
    progress: Progress,
) -> Prediction:
    """Foretell as `foretell` does, with a null that was drawn already."""
    for batch in data:
        require_examples(len(batch), "a data set")
    halves = validation or tuple(random_half(len(batch), options, place) for place, batch in enumerate(data))
    done, total = 0, work_of_foretelling(options)

    def tell(work: int) -> None:
        nonlocal done
        done += work
        progress("gradients and curvature", done, total)

    tell(0)
    first, second = (_foretold(problem, pair, data[own], own, halves[own], tell) for own in (0, 1))
    return Prediction(pair.adapters, (first, second), problem.parameters.tensors[0].dtype, options.seed)


def _foretold(
    problem: Problem, pair: Pair, batch: Batch, own: int, validation: Tensor, tell: Callable[[int], None]
) -> Foretold:
    """Differentiate at the base, half-way to the sums, and at the data set's own adapter (0 for A, 1 for B)."""
    drawn = pair.drawn[1]
    base = scale_derivatives(problem, SideBranches(problem.model, [*pair.adapters, *drawn]), batch, rows=(0, 1))
    tell(WORK_OF_CURVATURE // 3)
    middles = []
    for second in (pair.adapters[1], *drawn):
        branches = SideBranches(problem.model, [pair.adapters[0], second])
        middles.append(scale_derivatives(problem, branches, batch, (0,), (0.5, 0.5)).curvatures[:, 0, 1])
        tell(WORK_OF_CURVATURE // 3)
    onward = _onward(problem, pair.adapters[own], [pair.adapters[1 - own], *pair.drawn[1 - own]], batch)
    tell(WORK_OF_CURVATURE // 3 + (WORK_OF_DRAW - WORK_OF_CURVATURE // 3) * len(drawn))
    curvatures = base.curvatures
    return Foretold(
        slopes=base.slopes[:, :2],
        curvatures=torch.stack([curvatures[:, 0, 0], curvatures[:, 0, 1], curvatures[:, 1, 1]], dim=1),
        middle=middles[0],
        onward=onward[0].T.contiguous(),
        null_curvatures=curvatures[:, 0, 2:].T.contiguous(),
        null_middle=torch.stack(middles[1:]),
        null_onward=onward[1:],
        validation=validation.bool(),
    )


def _onward(problem: Problem, own: StoredAdapter, others: Sequence[StoredAdapter], batch: Batch) -> Tensor:
    """Return slope and curvature by the scale of each other adapter, at the own one, (n_others, 2, n_examples)."""
    branches, point = SideBranches(problem.model, [own, *others]), (1.0, *(0.0 for _ in others))
    rows = tuple(range(1, 1 + len(others)))
    found = scale_derivatives(problem, branches, batch, rows, point)
    return torch.stack([torch.stack([found.slopes[:, row], found.curvatures[:, row - 1, row]]) for row in rows])
