"""Local geometry of updates: how far one step is predictable, whether two add up, and whether their order matters.

Everything here takes a `ParameterSpace` and losses, functions without arguments that compute a scalar at the weights
the model holds, the same at every call (fixed batch, evaluation mode). The weights come back bit for bit.

With g_A, H_A the gradient and the Hessian of loss A at theta and F_A the step theta -> theta - eta g_A(theta), Taylor's
theorem gives F_B F_A theta - F_A F_B theta = eta^2 (H_B g_A - H_A g_B) + O(eta^3) (arXiv 2607.16821): the commutator
says ahead of any training whether two updates commute. It is 0 for a loss with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError, NonFiniteError
from lineament.parameters import ParameterSpace
from lineament.vectors.hessian import LossHessian

Loss = Callable[[], Tensor]
# A change of the loss counts as predicted within this share of the prediction.
TOLERANCE = 0.1
# From 1e-5 to 1, two points a decade.
SIZES = (1e-5, 3.162e-5, 1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2, 3.162e-2, 0.1, 0.3162, 1.0)
# A loss near L is known to about this many units in its last place.
ROUNDINGS = 4


@dataclass(frozen=True)
class ValidityRadius:
    """How far a loss follows its gradient along one direction.

    Attributes:
        sizes: multiples of the direction, ascending.
        changes: of the loss, one for each size, in nats or whatever unit the loss has.
        errors: |change - size g.d| / |size g.d|, one for each size; nan where rounding of the loss could make a quarter
            of the tolerance.
        radius: largest size up to which every error is within the tolerance, interpolated on logarithmic axes; 0 if the
            smallest is not, nan if no size can be judged.
        censored: whether no error is above the tolerance, so that the radius is the last size and may be larger.
        predicted: 2 tolerance |g.d| / |d'Hd|, from the curvature at the start; infinite along a flat direction.
        slope, curvature: g.d and d'Hd.
    """

    sizes: tuple[float, ...]
    changes: tuple[float, ...]
    errors: tuple[float, ...]
    radius: float
    censored: bool
    predicted: float
    slope: float
    curvature: float


@dataclass(frozen=True)
class OrderDefect:
    """What the order of two steps changes.

    Attributes:
        difference: F_B F_A theta - F_A F_B theta, (n_params,) float64.
        moves: F_A F_B theta - theta and F_B F_A theta - theta, (2, n_params) float64.
        relative: its norm over that of the two steps together, eta |g_A + g_B|; 0 where no step moves.
    """

    difference: Float64[Tensor, " n_params"]
    moves: Float64[Tensor, "2 n_params"]
    relative: float


def gradient_of(space: ParameterSpace, loss: Loss) -> Float64[Tensor, " n_params"]:
    """Return the gradient of a loss at the weights that the model holds, (n_params,) float64 on the CPU."""
    return space.gradient(loss()).double().cpu()


def value_at(space: ParameterSpace, loss: Loss, moved: Float[Tensor, " n_params"]) -> float:
    """Return a loss at theta + `moved` (n_params,)."""
    with space.temporarily(displaced(space, moved)), torch.no_grad():
        return float(loss())


def displaced(space: ParameterSpace, moved: Float[Tensor, " n_params"]) -> Float64[Tensor, " n_params"]:
    """Return theta + `moved`, (n_params,) float64."""
    theta = space.read(torch.float64)
    return theta + moved.to(theta)


def commutator(space: ParameterSpace, first: Loss, second: Loss) -> Float64[Tensor, " n_params"]:
    """Return H_B g_A - H_A g_B, (n_params,) float64: what the order of two small steps changes, over eta^2.

    Args:
        first, second: losses A and B; two gradients and two Hessian-vector products are made of them.
    """
    a = LossHessian(space, first)
    gradient = a.gradient
    b = LossHessian(space, second)
    moved = b @ gradient
    b.release()
    difference: Tensor = moved - a @ b.gradient
    return difference


def kappa_of(products: Sequence[Tensor], gradients: Sequence[Tensor]) -> float:
    """Return |H_B g_A - H_A g_B| / |g_A + g_B|: the order defect per unit of step size, to first order.

    Args:
        products: H_B g_A and H_A g_B, (n_params,) each. gradients: g_A and g_B.
    """
    return float((products[0] - products[1]).norm() / (gradients[0] + gradients[1]).norm())


def unit_norm_kappa_of(products: Sequence[Tensor], gradients: Sequence[Tensor]) -> float:
    """Return kappa with both gradients at length 1, so that the louder one does not decide; arguments as `kappa_of`."""
    lengths = [gradient.norm() for gradient in gradients]
    of_units = [product / length for product, length in zip(products, lengths, strict=True)]
    return kappa_of(of_units, [gradient / length for gradient, length in zip(gradients, lengths, strict=True)])


def order_defect(space: ParameterSpace, first: Loss, second: Loss, step_size: float) -> OrderDefect:
    """Take a step on each of two losses in both orders, and compare where they end.

    Differences of gradients are taken, not of positions, so that small defects are not lost in the size of theta.

    Args:
        first, second: losses A and B.
        step_size: eta, of both steps.

    Raises:
        InputError: step_size is not above 0.
        NonFiniteError: a gradient is not finite after a step.
    """
    if not step_size > 0:
        raise InputError(f"step_size is {step_size}; it must be above 0.")
    return defect_of_steps(space, (first, second), (gradient_of(space, first), gradient_of(space, second)), step_size)


def defect_of_steps(
    space: ParameterSpace, losses: tuple[Loss, Loss], gradients: tuple[Tensor, Tensor], step_size: float
) -> OrderDefect:
    """Do the same where both gradients at theta, each (n_params,), are known already; see `order_defect`."""
    (first, second), (own, other) = losses, gradients
    with space.temporarily(displaced(space, -step_size * own)):
        other_later = gradient_of(space, second)
    with space.temporarily(displaced(space, -step_size * other)):
        own_later = gradient_of(space, first)
    difference = step_size * ((other - other_later) - (own - own_later))
    if not bool(difference.isfinite().all()):
        raise NonFiniteError(f"a gradient is not finite after a step of size {step_size:g}; take a smaller step_size.")
    length = step_size * float((own + other).norm())
    moves = -step_size * torch.stack([other + own_later, own + other_later])
    return OrderDefect(difference, moves, float(difference.norm()) / length if length > 0 else 0.0)


def additivity_defect(
    space: ParameterSpace, loss: Loss, first: Float[Tensor, " n_params"], second: Float[Tensor, " n_params"]
) -> float:
    """Return |dL(a + b) - dL(a) - dL(b)| / (|dL(a)| + |dL(b)|), dL(d) = L(theta + d) - L(theta); to second order a'Hb.

    Args:
        first, second: the moves a and b, (n_params,).

    Returns:
        A ratio >= 0; nan where neither move changes the loss.
    """
    zero = torch.zeros_like(first)
    start = value_at(space, loss, zero)
    alone = [value_at(space, loss, move) - start for move in (first, second)]
    return defect_of(value_at(space, loss, first + second) - start, *alone)


def defect_of(together: float, first: float, second: float) -> float:
    """Return |together - first - second| / (|first| + |second|), or nan where both parts are 0."""
    total = abs(first) + abs(second)
    return abs(together - first - second) / total if total > 0 else math.nan


def validity_radius(
    space: ParameterSpace,
    loss: Loss,
    direction: Float[Tensor, " n_params"],
    sizes: Sequence[float] = SIZES,
    tolerance: float = TOLERANCE,
) -> ValidityRadius:
    """Measure how far along a direction the loss changes as its gradient says, and what the curvature predicts.

    Args:
        direction: d, (n_params,); sizes count its length.
        sizes: multiples of d to try, ascending and above 0.
        tolerance: error that is allowed, as a share of the predicted change.

    Raises:
        InputError: sizes are none or do not ascend from above 0, or the direction is zero.
    """
    if not sizes or sizes[0] <= 0 or any(a >= b for a, b in pairwise(sizes)):
        raise InputError(f"sizes are {tuple(sizes)}; give at least one, ascending from above 0.")
    if not bool(direction.any()):
        raise InputError("direction is zero; the loss has nothing to follow along it.")
    operator = LossHessian(space, loss)
    slope = float(operator.gradient @ direction.double().cpu())
    curvature = float(direction.double().cpu() @ (operator @ direction))
    operator.release()
    start = value_at(space, loss, torch.zeros_like(direction))
    changes = [value_at(space, loss, size * direction) - start for size in sizes]
    floor = rounding_of(start, space.tensors[0].dtype)
    return judged_radius(tuple(sizes), tuple(changes), slope, curvature, floor, tolerance)


def judged_radius(
    sizes: tuple[float, ...],
    changes: tuple[float, ...],
    slope: float,
    curvature: float,
    rounding: float,
    tolerance: float = TOLERANCE,
) -> ValidityRadius:
    """Judge changes of a loss that are known already; see `validity_radius`.

    Args:
        rounding: uncertainty of a change through rounding.
    """
    errors = relative_errors(changes, [size * slope for size in sizes], rounding, tolerance)
    radius, censored = last_within(sizes, errors, tolerance)
    predicted = 2 * tolerance * abs(slope) / abs(curvature) if curvature else math.inf
    return ValidityRadius(sizes, changes, errors, radius, censored, predicted, slope, curvature)


def rounding_of(loss: float, dtype: torch.dtype) -> float:
    """Return the uncertainty of a change of a loss near this value, through rounding in `dtype`."""
    return ROUNDINGS * abs(loss) * torch.finfo(dtype).eps


def relative_errors(
    changes: Sequence[float], predictions: Sequence[float], rounding: float, tolerance: float = TOLERANCE
) -> tuple[float, ...]:
    """Return |change - prediction| / |prediction|; nan where rounding alone could make a quarter of the tolerance."""
    usable = [rounding < tolerance / 4 * abs(prediction) for prediction in predictions]
    return tuple(
        abs(change - prediction) / abs(prediction) if use else math.nan
        for change, prediction, use in zip(changes, predictions, usable, strict=True)
    )


def last_within(sizes: Sequence[float], errors: Sequence[float], tolerance: float) -> tuple[float, bool]:
    """Return the size up to which every known error is within the tolerance, and whether none ever leaves it.

    Returns:
        The size, interpolated on logarithmic axes; 0 where the first known error is outside, nan where none is known.
    """
    known = [(size, error) for size, error in zip(sizes, errors, strict=True) if not math.isnan(error)]
    if not known:
        return math.nan, False
    outside = next((i for i, (_, error) in enumerate(known) if error > tolerance), None)
    if outside is None:
        return known[-1][0], True
    if outside == 0:
        return 0.0, False
    (low, below), (high, above) = known[outside - 1], known[outside]
    if below <= 0 or math.isinf(above):
        return low, False
    share = math.log(tolerance / below) / math.log(above / below)
    return low * (high / low) ** share, False
