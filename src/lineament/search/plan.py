"""What a search will gain, said before its budget is spent: geometry, predictions, and a small measured probe.

The local plan needs one gradient and a few Hessian products. Where curvature limits the step, it names the best sigma
and the gain there. Where curvature helps there is no best sigma, and the quadratic picture does not say how far to
go: a probe of a few draws at several sigmas then decides, with the gain of the best of N read off its mean and spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lineament import theory
from lineament.population import Population
from lineament.search_space import Region, SearchSpace
from lineament.streams import Streams

# Sigmas of the probe: around the one at which curvature should change the gain by half, or, without gradients,
# around this share of the root-mean-square parameter.
PROBE_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
FALLBACK_SHARE = 0.1
REFERENCE_COST = 0.5


@dataclass(frozen=True)
class LocalPlan:
    """Predictions for one region from its gradient and curvature.

    Attributes:
        best_sigma: None where curvature helps.
        gain: second-order gain of the best of N at best_sigma; None without one.
        transfer: fresh gain over selected gain, <g, g_b> / |g_b|^2 inside the region, to first order.
    """

    space: SearchSpace
    n: int
    best_sigma: float | None
    gain: float | None
    density: float
    transfer: float

    @property
    def reference_sigma(self) -> float | None:
        """Where curvature should change the linear gain by half, in either direction."""
        return theory.sigma_of_curvature_cost(REFERENCE_COST, self.space.at, self.n)


def local_plan(space: SearchSpace, fresh_gradient: object, n: int) -> LocalPlan:
    """Predictions for the best of n draws of one region.

    Args:
        fresh_gradient: gradient on data disjoint from the selecting batch, (n_params,) float64.
    """
    norm = space.at.gradient_norm
    inner = float(space.gradient @ space.region.inside(fresh_gradient))  # type: ignore[arg-type]
    transfer = theory.transfer_ratio(inner, norm) if norm > 0 else 0.0
    sigma, gain = theory.best_sigma(space.at, n), theory.gain_at_best_sigma(space.at, n)
    return LocalPlan(space, n, sigma, gain, theory.signal_density(norm, space.dimension), transfer)


@dataclass(frozen=True)
class Probe:
    """Measured mean and spread of one draw's gain at one sigma, and the gain of the best of N that they foretell.

    Attributes:
        gain: mean + m_N spread, gains taken as normal; nats per target token.
        stderr: its standard error from the probe's size.
    """

    region: str
    sigma: float
    mean: float
    spread: float
    gain: float
    stderr: float
    n_draws: int


def probe(
    population: Population, region: Region, streams: Streams, sigmas: Sequence[float], n_draws: int, n: int
) -> list[Probe]:
    """Score n_draws draws at every sigma; costs len(sigmas) * n_draws evaluations."""
    found = []
    for sigma in sigmas:
        gains = population.score(region.members(streams.child("probe"), range(n_draws), sigma)).gains
        finite = gains[np.isfinite(gains)]
        if len(finite) < 2 or len(finite) < n_draws / 2:
            continue  # too far: most members fail there
        mean, spread, m = float(finite.mean()), float(finite.std(ddof=1)), theory.expected_max(n)
        # Normal draws: the mean's and the spread's errors are independent.
        error = spread * math.sqrt(1 / len(finite) + m**2 / (2 * (len(finite) - 1)))
        found.append(Probe(region.name, sigma, mean, spread, mean + m * spread, error, len(finite)))
    return found


def probe_sigmas(region: Region, plan: LocalPlan | None) -> list[float]:
    """Where to probe a region: around the local plan's scale, or the parameters' own without one."""
    reference = plan.reference_sigma if plan else None
    if reference is None:
        theta = region.parameters.read()
        size = float(theta.double().norm())
        # A draw of root-mean-square length FALLBACK_SHARE |theta|.
        reference = FALLBACK_SHARE * (size if size > 0 else 1.0) / math.sqrt(region.dimension)
    return [factor * reference for factor in PROBE_FACTORS]


def best_probe(probes: Sequence[Probe]) -> Probe | None:
    """The probe that foretells the largest gain."""
    return max(probes, key=lambda p: p.gain, default=None)
