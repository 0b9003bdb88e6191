"""What random search needs to know about curvature, estimated by Hutchinson probes with standard errors (protocol 4).

For a probe z of independent signs, z'Hz has mean tr H and |Hz|^2 has mean |H|_F^2 (Hutchinson 1990). |g| and g'Hg need
no probe: one product each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError, NonFiniteError
from lineament.theory import Curvature

MIN_PROBES = 4


class Operator(Protocol):
    """A symmetric matrix known by its products, with the gradient at the same point."""

    gradient: Float[Tensor, " n_params"]

    def __matmul__(self, vector: Float[Tensor, " n_params"]) -> Float[Tensor, " n_params"]: ...


@dataclass(frozen=True)
class Estimate:
    """A mean over probes and its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class CurvatureEstimate:
    """|g| and ghat'Hghat, exact on the operator's batch; tr H and |H|_F with standard errors over `n_probes`."""

    gradient_norm: float
    along_gradient: float
    trace: Estimate
    frobenius_norm: Estimate
    n_probes: int

    def curvature(self) -> Curvature:
        """Return the values alone, without standard errors."""
        return Curvature(self.gradient_norm, self.trace.value, self.along_gradient, self.frobenius_norm.value)


def estimate_curvature(
    operator: Operator, generator: np.random.Generator, *, relative_error: float = 0.1, max_probes: int = 256
) -> CurvatureEstimate:
    """Probe until tr H is known well enough.

    Probing ends when the standard error of tr H is at most `relative_error` times the larger of |tr H| and |H|_F: a
    trace near zero is not chased for ever. The latter takes at most about 2 / relative_error^2 probes.

    Args:
        operator: `HessianOperator`, or anything with `gradient` (n_params,) and `@`.
        generator: draws the signs.
        max_probes: products spent at most, besides the one for g'Hg.

    Raises:
        InputError: relative_error not above 0, or fewer than four probes allowed.
        NonFiniteError: a product was NaN or infinite.
    """
    if not relative_error > 0:
        raise InputError(f"relative_error is {relative_error}; it must be above 0.")
    if max_probes < MIN_PROBES:
        raise InputError(f"max_probes is {max_probes}; a standard error needs at least {MIN_PROBES}.")
    gradient = operator.gradient.double()
    traces: list[float] = []
    squares: list[float] = []
    while len(traces) < max_probes:
        signs = torch.from_numpy(2.0 * generator.integers(2, size=len(gradient)) - 1.0)
        image = (operator @ signs).double()
        traces.append(float(signs @ image))
        squares.append(float(image @ image))
        if not math.isfinite(traces[-1] + squares[-1]):
            raise NonFiniteError(
                f"the Hessian product of probe {len(traces)} is {traces[-1]}; the loss has no curvature."
            )
        if len(traces) >= MIN_PROBES and _enough(traces, squares, relative_error):
            break
    return CurvatureEstimate(*_along(operator, gradient), _mean(traces), _root(_mean(squares)), len(traces))


def hessian_in_basis(operator: Operator, basis: Basis) -> Float64[Tensor, "rank rank"]:
    """Return U^T H U: exact, one product per direction."""
    images = torch.stack([(operator @ column).double() for column in basis.columns.T], dim=1)
    inner: Tensor = basis.columns.T @ images
    return inner


def curvature_along(inner: Float64[Tensor, "rank rank"], gradient: Float64[Tensor, " rank"]) -> Curvature:
    """Return what random search needs to know of U^T H U and a gradient U^T g inside the same basis."""
    norm = float(gradient.norm())
    along = float(gradient @ inner @ gradient) / norm**2 if norm else 0.0
    return Curvature(norm, float(inner.trace()), along, float(inner.norm()))


def _along(operator: Operator, gradient: Float64[Tensor, " n_params"]) -> tuple[float, float]:
    norm = float(gradient.norm())
    if norm == 0:
        return 0.0, 0.0
    unit = gradient / norm
    return norm, float(unit @ (operator @ unit).double())


def _enough(traces: list[float], squares: list[float], relative_error: float) -> bool:
    trace, frobenius = _mean(traces), _root(_mean(squares))
    return trace.stderr <= relative_error * max(abs(trace.value), frobenius.value)


def _mean(values: list[float]) -> Estimate:
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


def _root(square: Estimate) -> Estimate:
    """Take the square root, with its standard error by the delta method."""
    root = math.sqrt(max(square.value, 0.0))
    return Estimate(root, square.stderr / (2 * root) if root > 0 else 0.0)
