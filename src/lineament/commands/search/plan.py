"""What a search will gain, said before its budget is spent: geometry, predictions, and a small measured probe.

The local plan needs one gradient and a few Hessian products. Where curvature limits the step, it names the best sigma
and the gain there. Where curvature helps, or is not told from zero, there is no best sigma, and the quadratic picture
does not say how far to go: a probe of a few draws at several sigmas then decides, with the gain of the best of N read
off its losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lineament import theory
from lineament.population.population import Population
from lineament.population.region import FreshProduct, Region, SearchSpace
from lineament.records import is_told
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
        best_sigma: None where curvature helps or is not told from zero.
        why_no_best_sigma: which of the two; None with a best sigma.
        gain: second-order gain of the best of N at best_sigma; None without one.
        transfer: fresh gain over selected gain, <g, g_b> / |g_b|^2 inside the region, to first order.
        transfer_stderr: its standard error, over parts of the fresh data.
    """

    space: SearchSpace
    n: int
    best_sigma: float | None
    why_no_best_sigma: str | None
    gain: float | None
    density: float
    transfer: float
    transfer_stderr: float

    @property
    def fresh_share(self) -> float | None:
        """Return `transfer` where it is told from zero: only then does it say what fresh data will gain."""
        return self.transfer if is_told(abs(self.transfer), self.transfer_stderr) else None

    @property
    def curvature(self) -> float:
        """Return tr H + (q_N - 1) ghat'H ghat, whose sign says whether curvature limits the step or helps."""
        return theory.curvature_of_best(self.space.at, self.n)

    def gain_at(self, sigma: float) -> float | None:
        """Return the second-order gain at a sigma; None where the error of tr H leaves it untold from zero."""
        gain = theory.second_order_gain(sigma, self.space.at, self.n)
        error = sigma**2 / 2 * self.space.trace_stderr
        return gain if is_told(abs(gain), error) else None

    @property
    def reference_sigma(self) -> float | None:
        """Where curvature should change the linear gain by half, in either direction; None if it is not known."""
        if self.space.why_unknown_curvature(self.n):
            return None
        return theory.sigma_of_curvature_cost(REFERENCE_COST, self.space.at, self.n)


def local_plan(space: SearchSpace, fresh: FreshProduct, n: int) -> LocalPlan:
    """Predict the gain of the best of n draws of one region.

    Args:
        fresh: product of the space's gradient with that on data disjoint from the selecting batch.
    """
    norm = space.at.gradient_norm
    shares = [theory.transfer_ratio(x, norm) if norm > 0 else 0.0 for x in (fresh.value, fresh.stderr)]
    sigma, why = space.best_sigma(n), space.why_no_best_sigma(n)
    gain = None if sigma is None else theory.gain_at_best_sigma(space.at, n)
    return LocalPlan(space, n, sigma, why, gain, theory.signal_density(norm, space.dimension), *shares)


@dataclass(frozen=True)
class Probe:
    """Losses of a few draws at one sigma, and the gain of the best of N that they predict.

    Attributes:
        mean, spread: of one draw's gain, nats per target token.
        gain: base loss less the least of N losses, taken as log-normal: cross entropy cannot fall below zero.
        low, high: `gain` with the spread of log losses moved by its 95 % chi-square interval.
    """

    region: str
    sigma: float
    mean: float
    spread: float
    gain: float
    low: float
    high: float
    n_draws: int


def probe(
    population: Population, region: Region, streams: Streams, sigma: float, numbers: Sequence[int], n: int
) -> Probe | None:
    """Score these draws at a sigma; None where too many of them fail to say anything."""
    losses = population.score(region.members(streams.child("probe"), numbers, sigma)).losses
    finite = losses[np.isfinite(losses)]
    if len(finite) < max(2, len(numbers) / 2):
        return None
    gains = population.base - finite
    logs = np.log(np.maximum(finite, np.finfo(float).tiny))
    mean, spread, freedom = float(logs.mean()), float(logs.std(ddof=1)), len(finite) - 1

    def best(factor: float) -> float:
        return population.base - theory.expected_min_lognormal(mean, spread * factor, n)

    low, high = (math.sqrt(freedom / float(stats.chi2.ppf(p, freedom))) for p in (0.975, 0.025))
    return Probe(
        region.name,
        sigma,
        float(gains.mean()),
        float(gains.std(ddof=1)),
        best(1.0),
        best(low),
        best(high),
        len(finite),
    )


def probe_sigmas(region: Region, plan: LocalPlan | None) -> list[float]:
    """Choose where to probe a region: around the local plan's scale, or the parameters' own without one."""
    reference = plan.reference_sigma if plan else None
    if reference is None:
        theta = region.parameters.read()
        size = float(theta.double().norm())
        # A draw of root-mean-square length FALLBACK_SHARE |theta|.
        reference = FALLBACK_SHARE * (size if size > 0 else 1.0) / math.sqrt(region.dimension)
    return [factor * reference for factor in PROBE_FACTORS]
