"""Where random search draws: the whole parameter space or a basis, with the local geometry that predicts its gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.parameters import ParameterSpace
from lineament.population.members import BasisMembers, GaussianMembers, Members, normal_coefficients
from lineament.problems.problem import Batch, Problem, balanced_parts
from lineament.records import MIN_STDERRS, is_told
from lineament.streams import Streams
from lineament.theory import Curvature, best_sigma, curvature_of_best
from lineament.vectors.curvature import curvature_along, estimate_curvature, hessian_in_basis
from lineament.vectors.gradients import mean_gradient
from lineament.vectors.hessian import HessianOperator

# The error of a product with fresh data is that over so many parts of them.
FRESH_PARTS = 8


@dataclass(frozen=True)
class Region:
    """The set that draws come from.

    Attributes:
        name: `full` or a basis's name; part of the key of its draws.
        basis: None for the whole space.
    """

    name: str
    parameters: ParameterSpace
    basis: Basis | None = None

    def __post_init__(self) -> None:
        if self.basis is not None:
            self.parameters.space.require(self.basis.space, f"the model and basis {self.name!r}")

    @property
    def dimension(self) -> int:
        """Number of coordinates that are drawn."""
        return self.parameters.n_params if self.basis is None else self.basis.rank

    def inside(self, vector: Float[Tensor, " n_params"]) -> Float[Tensor, " dimension"]:
        """Return U^T v, or v itself."""
        return vector if self.basis is None else self.basis.columns.T @ vector

    def members(self, streams: Streams, numbers: Sequence[int], sigma: float, *, antithetic: bool = False) -> Members:
        """Draw sigma z (or sigma U c) by number; a draw depends on (streams, name, number) alone."""
        own = streams.child("draws", self.name)
        if self.basis is None:
            return GaussianMembers(self.parameters, own, numbers, sigma, antithetic)
        rows = normal_coefficients(own, numbers, self.basis.rank, sigma, antithetic=antithetic)
        return BasisMembers(self.basis, rows)


@dataclass(frozen=True)
class SearchSpace:
    """A region with gradient and curvature inside it, on one batch at one point.

    Attributes:
        at: gradient norm and curvature inside the region.
        gradient: U^T g, or g itself, float64.
        trace_stderr: standard error of tr H (0 inside a basis, where it is exact).
        hessian: U^T H U inside a basis; None in the whole space.
    """

    region: Region
    at: Curvature
    gradient: Float64[Tensor, " dimension"]
    trace_stderr: float = 0.0
    hessian: Float64[Tensor, "dimension dimension"] | None = None

    @property
    def name(self) -> str:
        """The region's name."""
        return self.region.name

    @property
    def dimension(self) -> int:
        """The region's dimension."""
        return self.region.dimension

    def why_unknown_curvature(self, n: int) -> str | None:
        """Say why the curvature that the best of n draws meets has no sign; None where it is told from zero."""
        curvature = curvature_of_best(self.at, n)
        if is_told(abs(curvature), self.trace_stderr):
            return None
        error = f"{curvature:.3g} with a standard error of {self.trace_stderr:.2g}"
        return f"the curvature, {error}, is not told from zero (below {MIN_STDERRS:g} standard errors)"

    def why_no_best_sigma(self, n: int) -> str | None:
        """Say why there is no step with the largest second-order gain, or return None."""
        helps = None if best_sigma(self.at, n) else "no best sigma: curvature helps"
        return self.why_unknown_curvature(n) or helps

    def best_sigma(self, n: int) -> float | None:
        """Return the sigma with the largest second-order gain of n draws; None where curvature helps or is unknown."""
        return None if self.why_unknown_curvature(n) else best_sigma(self.at, n)

    def first_order_gains(self, members: Members, chunk: int = 64) -> Float64[Tensor, " n_members"]:
        """Return -g . delta_i of every member, (n,) float64."""
        if isinstance(members, BasisMembers):
            return -torch.from_numpy(members.coefficients) @ self.gradient
        gradient = self.gradient.to(torch.float32)
        starts = range(0, len(members), chunk)
        return -torch.cat([members.deltas(s, min(len(members), s + chunk)) @ gradient for s in starts]).double()


@dataclass(frozen=True)
class FreshProduct:
    """The inner product <g, g_b> inside a region of a gradient of fresh data with that of the batch that chooses.

    Attributes:
        stderr: standard error over parts of the fresh data; infinite where these cannot be divided.
    """

    value: float
    stderr: float


def fresh_products(problem: Problem, fresh: Batch, spaces: Sequence[SearchSpace]) -> list[FreshProduct]:
    """Measure <g, g_b> in every space from parts of the fresh data that hold every label equally often."""
    parts = balanced_parts(fresh, FRESH_PARTS)
    gradients = (mean_gradient(problem, part) for part in parts)
    found = np.array([[float(space.gradient @ space.region.inside(g)) for space in spaces] for g in gradients])
    means = np.average(found, axis=0, weights=[len(part) for part in parts])
    errors = found.std(axis=0, ddof=1) / np.sqrt(len(parts)) if len(parts) > 1 else np.full(len(spaces), np.inf)
    return [FreshProduct(float(mean), float(error)) for mean, error in zip(means, errors, strict=True)]


def measured_space(
    operator: HessianOperator, region: Region, streams: Streams, relative_error: float, most_probes: int
) -> SearchSpace:
    """Measure the geometry of a region: exactly inside a basis, by Hutchinson probes in the whole space."""
    if region.basis is not None:
        gradient = region.inside(operator.gradient).double()
        inner = hessian_in_basis(operator, region.basis)
        return SearchSpace(region, curvature_along(inner, gradient), gradient, hessian=inner)
    generator = streams.generator("probes")
    estimate = estimate_curvature(operator, generator, relative_error=relative_error, max_probes=most_probes)
    return SearchSpace(region, estimate.curvature(), operator.gradient, estimate.trace.stderr)
