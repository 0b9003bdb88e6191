"""Pools of scored random draws, and what predicts them: the shared part of the random-search measurement.

A pool is M draws of one space at one sigma on one batch. Draws of a space are the same at every sigma, so that figures
of one space share their noise over N and sigma.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lineament.bases import Basis
from lineament.best_of_n import Measured, mean_best, mean_best_controlled
from lineament.perturbations import BasisMembers, GaussianMembers, Members, normal_coefficients
from lineament.population import Population, double_precision
from lineament.problems.problem import Batch, Problem
from lineament.streams import Streams
from lineament.theory import Curvature
from lineament.vectors.curvature import curvature_in_basis, estimate_curvature
from lineament.vectors.gradients import HessianOperator

# Below this sigma, losses in float32 lose the gain to rounding (protocol, section 4).
DOUBLE_BELOW_SIGMA = 1e-4
# The first-order gains serve as control variate while second-order noise is below this share of them; fixed beforehand.
CONTROL_BELOW = 0.5
LINEAR_CHUNK = 64


@dataclass(frozen=True)
class SearchSpace:
    """Where draws are made, with the local geometry that predicts their gains.

    Attributes:
        name: `full` or a basis's name.
        basis: None for the whole space.
        at: gradient norm and curvature inside the space, on the batch that draws are scored on.
        gradient: U^T g, or g itself, float64.
        trace_stderr: standard error of tr H (0 inside a basis, where it is exact).
    """

    name: str
    basis: Basis | None
    at: Curvature
    gradient: Tensor
    trace_stderr: float = 0.0

    @property
    def dimension(self) -> int:
        """Number of coordinates that are drawn."""
        return len(self.gradient)

    def inside(self, vector: Tensor) -> Tensor:
        """U^T v, or v itself."""
        return vector if self.basis is None else self.basis.columns.T @ vector


def whole_space(operator: HessianOperator, streams: Streams, relative_error: float, most_probes: int) -> SearchSpace:
    """The whole parameter space, its curvature by Hutchinson probes."""
    found = estimate_curvature(
        operator, streams.generator("probes"), relative_error=relative_error, max_probes=most_probes
    )
    return SearchSpace("full", None, found.curvature(), operator.gradient, found.trace.stderr)


def inside_basis(operator: HessianOperator, basis: Basis) -> SearchSpace:
    """A basis, its curvature exactly."""
    gradient = basis.columns.T @ operator.gradient
    return SearchSpace(basis.label, basis, curvature_in_basis(operator, basis), gradient)


@dataclass(frozen=True)
class Pool:
    """Scored draws.

    Attributes:
        gains: (M,) nats per target token; failed members left out.
        linear: (M,) first-order gains of the same draws.
        sigma: standard deviation per coordinate.
        n_failed: members without a finite score.
    """

    gains: np.ndarray
    linear: np.ndarray
    sigma: float
    space: SearchSpace
    n_failed: int

    @cached_property
    def _controlled(self) -> bool:
        curved = self.sigma * (self.space.at.frobenius_norm or 0.0) / np.sqrt(2)
        return bool(curved < CONTROL_BELOW * self.space.at.gradient_norm)

    def best(self, n: int) -> Measured:
        """E[max gain of n draws]; with the first-order control variate where curvature leaves it useful."""
        if self._controlled:
            return mean_best_controlled(self.gains, self.linear, self.sigma * self.space.at.gradient_norm, n)
        return mean_best(self.gains, n)


@dataclass(frozen=True)
class Searcher:
    """Draws and scores pools on one batch of a problem at its present weights."""

    problem: Problem
    batch: Batch
    streams: Streams

    def members(self, space: SearchSpace, sigma: float, n: int) -> Members:
        """The first n draws of a space at a sigma."""
        streams = self.streams.child("draws", space.name)
        if space.basis is None:
            return GaussianMembers(self.problem.space, streams, range(n), sigma)
        return BasisMembers(space.basis, normal_coefficients(streams, range(n), space.basis.rank, sigma))

    def pool(self, space: SearchSpace, sigma: float, n: int) -> Pool:
        """Score n draws."""
        members = self.members(space, sigma, n)
        gains = self.gains(self.batch, members, sigma)
        linear = self._linear(space, members)
        finite = np.isfinite(gains)
        return Pool(gains[finite], linear[finite], sigma, space, int((~finite).sum()))

    def gains(self, batch: Batch, members: Members, sigma: float) -> np.ndarray:
        """Gains of members on a batch, (n,); nan for failed ones. In float64 where sigma is small."""
        with double_precision(self.problem.model) if sigma < DOUBLE_BELOW_SIGMA else nullcontext():
            return Population(self.problem, batch).score(members).gains

    def _linear(self, space: SearchSpace, members: Members) -> np.ndarray:
        if isinstance(members, BasisMembers):
            return np.asarray(-members.coefficients @ space.gradient.numpy())
        gradient = space.gradient.to(torch.float32)
        starts = range(0, len(members), LINEAR_CHUNK)
        parts = [members.deltas(s, min(len(members), s + LINEAR_CHUNK)) @ gradient for s in starts]
        return -torch.cat(parts).double().numpy()
