"""Whether it matters in which order one trains on two data sets: kappa at the base, beside kappa within each of them.

kappa = |H_b g_a - H_a g_b| / |g_a + g_b| says what the order of two steps changes, per unit of step size (protocol,
section 7). Gradients and Hessians are by the weights that the adapters change. Two batches of one data set do not
commute either: without them, kappa says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from lineament.parameters import ParameterSpace
from lineament.problems.factor_names import PREFIX
from lineament.problems.problem import Batch, Problem
from lineament.problems.stored_adapters import StoredAdapter
from lineament.vectors.hessian import LossHessian
from lineament.vectors.local_geometry import kappa_of, unit_norm_kappa_of

# Four vectors of so many float64 numbers, and the graph of as many gradients, fit into 8 GB.
MOST_PARAMETERS = 120_000_000


@dataclass(frozen=True)
class Kappa:
    """kappa of two batches, per unit of step size.

    Attributes:
        pair: `between` the data sets, or two batches `within` A's (`within_first`) or B's (`within_second`).
        plain: with the gradients as they are, so that the louder task decides.
        unit_norm: with gradients of length 1.
    """

    pair: str
    plain: float
    unit_norm: float


def order_kappas(problem: Problem, adapters: Sequence[StoredAdapter], data: Sequence[Batch], size: int) -> list[Kappa]:
    """Measure kappa between two data sets, twice, and within each, all with batches of `size` examples or half of them.

    Raises:
        NotImplementedError: an operation of the model has no second derivative.
    """
    names = list(changed_weights(problem.model, adapters))
    halves = [_two_batches(batch, size) for batch in data]
    pairs = [
        *(("between", (a, b)) for a, b in zip(*halves, strict=True)),
        ("within_first", halves[0]),
        ("within_second", halves[1]),
    ]
    space = ParameterSpace(problem.model, names)
    with space.requiring_gradients():
        return [_kappa(problem, space, pair, batches) for pair, batches in pairs]


def changed_weights(model: nn.Module, adapters: Sequence[StoredAdapter]) -> dict[str, int]:
    """Map the weights that any of the adapters changes to their numbers of parameters.

    A head that is tied to the embedding is left out: its weight would move the embedding too, as no adapter does.
    """
    own = dict(model.named_parameters())
    modules = dict.fromkeys(name for adapter in adapters for name in adapter.factors)
    names = (f"{name.removeprefix(PREFIX)}.weight" for name in modules)
    return {name: own[name].numel() for name in names if name in own}


def _two_batches(batch: Batch, size: int) -> tuple[Batch, Batch]:
    half = min(size, len(batch) // 2)
    return batch.rows(slice(0, half)), batch.rows(slice(half, 2 * half))


def _kappa(problem: Problem, space: ParameterSpace, pair: str, batches: tuple[Batch, Batch]) -> Kappa:
    first, second = (LossHessian(space, lambda batch=batch: problem.loss(batch)) for batch in batches)  # type: ignore[misc]
    a, b = first.gradient, second.gradient
    by_second, by_first = second @ a, first @ b
    first.release()
    second.release()
    products, gradients = (by_second, by_first), (a, b)
    return Kappa(pair, kappa_of(products, gradients), unit_norm_kappa_of(products, gradients))
