"""Mean gain of the best of n draws, measured on one pool of M independent draws without bias (protocol, section 4).

With gains sorted, x_(1) <= ... <= x_(M), the mean over all subsets of size n of their largest gain is a U-statistic
(Hoeffding 1948), U = sum_i w_i x_(i), where w_i = C(i-1, n-1) / C(M, n) is the share of subsets that x_(i) wins. One
pool serves every n up to M / 2; the values at different n share its noise. A failed member has no gain: drop it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lineament.errors import InputError
from lineament.theory import expected_max


@dataclass(frozen=True)
class Measured:
    """An unbiased estimate and its jackknife standard error, both in the unit of the gains."""

    value: float
    stderr: float


def mean_best(gains: np.ndarray, n: int) -> Measured:
    """Estimate E[max of n gains] from M independent draws, with the exact delete-one jackknife standard error.

    Its square errs upwards on average (Efron and Stein 1981), but it is itself uncertain where M / n is small: for
    normal gains the deviations in standard errors have spread 1.03 at M = 128 n, 1.1 at 16 n, 1.2 at 8 n and 2.4 at
    2 n. Take M >= 16 n for an interval. n = 1 is the mean with its usual standard error.

    Args:
        gains: (M,), one number per draw.

    Raises:
        InputError: M < 2 n, or a gain that is not finite.
    """
    pool = _pool("gains", gains, n)
    return Measured(_mean(pool, n), _stderr(_changes(pool, n)))


def mean_best_controlled(gains: np.ndarray, linear: np.ndarray, sigma_gradient: float, n: int) -> Measured:
    """Estimate as `mean_best`, with the draws' first-order gains as control variate: U(gains) - (U(linear) - s m_n).

    E[U(linear)] = s m_n exactly, so the estimate is unbiased at any curvature. It is far more precise where the gains
    are nearly linear, sigma |H|_F << |g|. For n > 1 it is less precise than `mean_best`, by several times at large n,
    where sigma |H|_F is near |g| or above: different draws are then the best of the two pools. Choose between the two
    by sigma |H|_F / |g|, not by their values. For an interval take M >= 32 n: there the
    spread spoken of in `mean_best` is 1.1.

    Args:
        gains: (M,).
        linear: (M,), -sigma g.z of the same draws in the same order, z standard normal.
        sigma_gradient: s = sigma |g|, the standard deviation of `linear`.

    Raises:
        InputError: as `mean_best`, pools of two sizes, or a negative sigma_gradient.
    """
    pool, control = _pool("gains", gains, n), _pool("linear gains", linear, n)
    if len(pool) != len(control):
        raise InputError(f"{len(pool)} gains came with {len(control)} linear gains; give both of the same draws.")
    if not 0 <= sigma_gradient < math.inf:
        raise InputError(f"sigma_gradient is {sigma_gradient}; it is sigma |g| and must be finite and at least 0.")
    surplus = _mean(control, n) - sigma_gradient * expected_max(n)
    return Measured(_mean(pool, n) - surplus, _stderr(_changes(pool, n) - _changes(control, n)))


def mean_at_best(gains: np.ndarray, values: np.ndarray, n: int) -> Measured:
    """Average another quantity of the draw that wins among n by its gain, with the jackknife's standard error.

    Args:
        gains: (M,), by which the best is chosen.
        values: (M,), what is wanted of the chosen draw (its gain on fresh data), in the same order.

    Raises:
        InputError: as `mean_best`, or pools of two sizes.
    """
    pool, wanted = _pool("gains", gains, n), _pool("values", values, n)
    if len(pool) != len(wanted):
        raise InputError(f"{len(pool)} gains came with {len(wanted)} values; give both of the same draws.")
    return Measured(_mean(wanted, n, pool), _stderr(_changes(wanted, n, pool)))


def _mean(pool: Float64[np.ndarray, " n_draws"], n: int, by: Float64[np.ndarray, " n_draws"] | None = None) -> float:
    """Return U of the pool, its draws ordered by their own values or by others."""
    order = np.argsort(pool if by is None else by, kind="stable")
    return float(_weights(len(pool), n) @ pool[order])


def _changes(
    pool: Float64[np.ndarray, " n_draws"], n: int, by: Float64[np.ndarray, " n_draws"] | None = None
) -> Float64[np.ndarray, " n_draws"]:
    """Return U without draw i, minus U, for all draws in the pool's order: n (U - h_i) / (M - n). Their mean is 0.

    h_i, the mean over the subsets that hold draw i, has mean U. By summation by parts of its definition,
    h_(i) - h_(i-1) = C(i-2, n-1) / C(M-1, n-1) (x_(i) - x_(i-1)): no cancellation, and ties change nothing.
    """
    n_draws, order = len(pool), np.argsort(pool if by is None else by, kind="stable")
    steps = _weights(n_draws, n)[:-1] * (n_draws / n) * np.diff(pool[order])
    held = np.concatenate([[0.0], np.cumsum(steps)])  # h_(i) - h_(1)
    changes = np.empty(n_draws)
    changes[order] = n * (held.mean() - held) / (n_draws - n)
    return changes


def _stderr(changes: Float64[np.ndarray, " n_draws"]) -> float:
    return math.sqrt((1 - 1 / len(changes)) * float(changes @ changes))


def _weights(n_draws: int, n: int) -> Float64[np.ndarray, " n_draws"]:
    """Return w_i for i = 1..M: n / M for the largest, w_(i-1) = w_i (i-n) / (i-1) below it, 0 for i < n.

    A running product keeps 12 digits at M = 1e6; differences of log-gammas, of order M log M, would leave 8.
    """
    ranks = np.arange(n_draws, 1, -1)
    return np.cumprod(np.concatenate([[n / n_draws], np.maximum(ranks - n, 0) / (ranks - 1)]))[::-1]


def _pool(name: str, values: np.ndarray, n: int) -> Float64[np.ndarray, " n_draws"]:
    pool = np.asarray(values, dtype=float)
    if pool.ndim != 1:
        raise InputError(f"{name} have shape {pool.shape}; give one number per draw.")
    if n < 1:
        raise InputError(f"n is {n}; it must be at least 1.")
    if len(pool) < 2 * n:
        raise InputError(
            f"the best of {n} was asked for from {len(pool)} draws; a standard error needs at least 2 n = {2 * n}."
        )
    failed = int(np.count_nonzero(~np.isfinite(pool)))
    if failed:
        raise InputError(f"{failed} of {len(pool)} {name} are not finite; drop failed members and count them apart.")
    return pool
