"""Whether it matters in which order one trains on two data sets: kappa at the base, beside kappa within each of them.

kappa = |H_b g_a - H_a g_b| / |g_a + g_b| says what the order of two steps changes, per unit of step size (protocol,
section 7). Gradients and Hessians are by the weights that the adapters change. Two batches of one data set do not
commute either: without them, kappa says nothing. Whether it is larger between the sets is judged by sharing the batches
out anew in every way: one data set in two files gives "larger" in 1 of 35 cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

from torch import nn

from lineament.parameters import ParameterSpace
from lineament.problems.factor_names import PREFIX
from lineament.problems.modes import evaluating
from lineament.problems.problem import Batch, Problem
from lineament.problems.stored_adapters import StoredAdapter
from lineament.vectors.hessian import LossHessian
from lineament.vectors.local_geometry import kappa_of, unit_norm_kappa_of

# Four vectors of so many float64 numbers, and the graph of as many gradients, fit into 8 GB.
MOST_PARAMETERS = 120_000_000
# Batches of each data set; 4 and 4 can be shared out in 35 ways, the least for a level of 5 %.
N_BATCHES = 4
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Kappa:
    """kappa of two batches, per unit of step size.

    Attributes:
        batches: their numbers; below `N_BATCHES` they are A's.
        plain: with the gradients as they are, so that the louder task decides.
        unit_norm: with gradients of length 1.
    """

    batches: tuple[int, int]
    plain: float
    unit_norm: float

    @property
    def pair(self) -> str:
        """`between` the data sets, or two batches `within` A's (`within_first`) or B's (`within_second`)."""
        firsts = sum(number < N_BATCHES for number in self.batches)
        return ("within_second", "between", "within_first")[firsts]


def order_kappas(
    problem: Problem,
    adapters: Sequence[StoredAdapter],
    data: Sequence[Batch],
    size: int,
    told: Told = lambda done, total: None,
) -> list[Kappa]:
    """Measure kappa of every pair of eight batches, four of each data set.

    Args:
        data: of A and of B, at least four examples each.
        size: examples in a batch; fewer where a data set has not four times as many.
        told: called with the batches that are done, and their number.

    Raises:
        NotImplementedError: an operation of the model has no second derivative.
    """
    size = min(size, *(len(batch) // N_BATCHES for batch in data))
    batches = [batch.rows(slice(at, at + size)) for batch in data for at in range(0, N_BATCHES * size, size)]
    space = ParameterSpace(problem.model, list(changed_weights(problem.model, adapters)))
    found: list[Kappa] = []
    with evaluating(problem.model), space.requiring_gradients():
        for first in range(len(batches)):
            found += _kappas(problem, space, batches, first)
            told(first + 1, len(batches))
    return found


def chance_of_larger(kappas: Sequence[tuple[tuple[int, int], float]]) -> float:
    """Return how likely kappa is so much larger between the data sets than within them if both are one data set.

    The p-value of a permutation test: the share of the 35 ways to share eight batches out in four and four, the actual
    one among them, in which the mean between minus the mean within is at least the actual one.

    Args:
        kappas: (batches, kappa) of all 28 pairs.
    """
    own, *others = (_excess(kappas, frozenset(group)) for group in _ways())
    return (1 + sum(other >= own for other in others)) / (1 + len(others))


def _ways() -> Iterator[tuple[int, ...]]:
    """Yield the batches that are with batch 0, the actual ones first."""
    for rest in combinations(range(1, 2 * N_BATCHES), N_BATCHES - 1):
        yield 0, *rest


def _excess(kappas: Sequence[tuple[tuple[int, int], float]], group: frozenset[int]) -> float:
    between = [value for (a, b), value in kappas if (a in group) != (b in group)]
    within = [value for (a, b), value in kappas if (a in group) == (b in group)]
    return mean(between) - mean(within)


def changed_weights(model: nn.Module, adapters: Sequence[StoredAdapter]) -> dict[str, int]:
    """Map the weights that any of the adapters changes to their numbers of parameters.

    A head that is tied to the embedding is left out: its weight would move the embedding too, as no adapter does.
    """
    own = dict(model.named_parameters())
    modules = dict.fromkeys(name for adapter in adapters for name in adapter.factors)
    names = (f"{name.removeprefix(PREFIX)}.weight" for name in modules)
    return {name: own[name].numel() for name in names if name in own}


def _kappas(problem: Problem, space: ParameterSpace, batches: Sequence[Batch], first: int) -> list[Kappa]:
    """Return kappa of one batch with every later one; the graphs of two gradients are held at once."""
    one, found = _hessian(problem, space, batches[first]), []
    for number in range(first + 1, len(batches)):
        other = _hessian(problem, space, batches[number])
        products, gradients = (other @ one.gradient, one @ other.gradient), (one.gradient, other.gradient)
        other.release()
        plain, unit_norm = kappa_of(products, gradients), unit_norm_kappa_of(products, gradients)
        found.append(Kappa((first, number), plain, unit_norm))
    one.release()
    return found


def _hessian(problem: Problem, space: ParameterSpace, batch: Batch) -> LossHessian:
    return LossHessian(space, lambda: problem.loss(batch))
