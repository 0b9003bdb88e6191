"""Pools of scored random draws, and what predicts them: the shared part of the random-search measurement.

A pool is M draws of one space at one sigma on one batch. Draws of a space are the same at every sigma, so that figures
of one space share their noise over N and sigma.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lineament.population.best_of_n import Measured, mean_best, mean_best_controlled
from lineament.population.members import Members
from lineament.population.population import Objective, Population, cross_entropy_by_example, double_precision
from lineament.population.region import SearchSpace
from lineament.problems.problem import Batch, Problem
from lineament.streams import Streams

# Below this sigma, losses in float32 lose the gain to rounding (protocol, section 4).
DOUBLE_BELOW_SIGMA = 1e-4
# The first-order gains serve as control variate while second-order noise is below this share of them; fixed beforehand.
CONTROL_BELOW = 0.5


@dataclass(frozen=True)
class Pool:
    """Scored draws.

    Attributes:
        gains: (M,) nats per target token; failed members left out.
        linear: (M,) first-order gains of the same draws.
        sigma: standard deviation per coordinate.
        scored: (n_draws,) which draws have a finite gain, in their order.
    """

    gains: np.ndarray
    linear: np.ndarray
    sigma: float
    space: SearchSpace
    scored: np.ndarray

    @property
    def n_failed(self) -> int:
        """Draws without a finite score."""
        return int((~self.scored).sum())

    @cached_property
    def _controlled(self) -> bool:
        curved = self.sigma * (self.space.at.frobenius_norm or 0.0) / np.sqrt(2)
        return bool(curved < CONTROL_BELOW * self.space.at.gradient_norm)

    def plain(self, n: int) -> Measured:
        """Estimate E[max gain of n draws] from the draws' gains alone, which can differ from any prediction."""
        return mean_best(self.gains, n)

    def best(self, n: int) -> Measured:
        """Estimate E[max gain of n draws], with the first-order control variate where curvature leaves it useful."""
        if self._controlled:
            return mean_best_controlled(self.gains, self.linear, self.sigma * self.space.at.gradient_norm, n)
        return self.plain(n)


@dataclass(frozen=True)
class Searcher:
    """Draws and scores pools on one batch of a problem at its present weights."""

    problem: Problem
    batch: Batch
    streams: Streams
    objective: Objective = cross_entropy_by_example

    def members(self, space: SearchSpace, sigma: float, n: int) -> Members:
        """Return the first n draws of a space at a sigma."""
        return space.region.members(self.streams, range(n), sigma)

    def pool(self, space: SearchSpace, sigma: float, n: int) -> Pool:
        """Score n draws."""
        members = self.members(space, sigma, n)
        gains = self.gains(self.batch, members, sigma)
        linear = space.first_order_gains(members).numpy()
        finite = np.isfinite(gains)
        return Pool(gains[finite], linear[finite], sigma, space, finite)

    def gains(self, batch: Batch, members: Members, sigma: float) -> np.ndarray:
        """Return gains of members on a batch, (n,); nan for failed ones. In float64 where sigma is small."""
        with double_precision(self.problem.model) if sigma < DOUBLE_BELOW_SIGMA else nullcontext():
            return Population(self.problem, batch, objective=self.objective).score(members).gains
