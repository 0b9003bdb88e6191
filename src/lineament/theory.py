"""Closed-form predictions for random search around trained weights (protocol, section 4). Pure functions of numbers.

Setting: delta_i = sigma z_i, z_i ~ N(0, I), i = 1..N; gain_i = L(theta) - L(theta + delta_i), in nats per target token;
g and H are gradient and Hessian of L at theta, ghat = g / |g|. M_N is the maximum of N standard normals.

In a basis U the same formulas hold with U^T g and U^T H U.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import integrate, special

from lineament.errors import InputError

# The densities of M_N for N = 1 .. 1e9 and far beyond vanish outside; the trapezoid rule converges exponentially there.
_X = np.linspace(-12.0, 16.0, 28_001)
_LOG_DENSITY = -0.5 * _X**2 - 0.5 * math.log(2 * math.pi)
_LOG_CDF = special.log_ndtr(_X)
# P(|z| <= x) for x >= 0, by its complement, which keeps its digits in the tail.
_ABSOLUTE = np.linspace(0.0, 16.0, 16_001)
with np.errstate(divide="ignore"):  # P(|z| <= 0) = 0
    _LOG_ABSOLUTE_CDF = np.log1p(-2 * special.ndtr(-_ABSOLUTE))


@dataclass(frozen=True)
class Curvature:
    """What the second-order predictions need to know about L at theta.

    Attributes:
        gradient_norm: |g|, nats per unit of parameter.
        trace: tr H, nats per unit squared; may be negative.
        along_gradient: ghat' H ghat.
        frobenius_norm: |H|_F; needed by `gain_one_draw_variance` and `gain_many_flat_directions` only.
    """

    gradient_norm: float
    trace: float
    along_gradient: float = 0.0
    frobenius_norm: float | None = None


def expected_max(n: int) -> float:
    """Return m_N = E[M_N], the mean of the largest of n standard normals; n from 1 to 1e9 and beyond.

    Integral of x n phi(x) Phi(x)^(n-1), with the density made in logarithms so that no power underflows.
    """
    return _moment(n, 1)


def expected_max_square(n: int) -> float:
    """Return q_N = E[M_N^2]."""
    return _moment(n, 2)


def expected_max_antithetic(n_pairs: int) -> float:
    """Return the mean of the largest of n_pairs pairs +z, -z: the largest of n_pairs absolute values.

    a_n = integral of P(max |z| > x) over x >= 0.
    """
    return _moment_antithetic(n_pairs, 1)


def expected_max_square_antithetic(n_pairs: int) -> float:
    """Return the mean square of the largest of n_pairs absolute values: integral of 2 x P(max |z| > x), x >= 0."""
    return _moment_antithetic(n_pairs, 2)


def expected_min_lognormal(log_mean: float, log_spread: float, n: int) -> float:
    """Return the mean of the least of n draws exp(log_mean + log_spread z), z ~ N(0, 1): losses that stay positive.

    Integral of exp(log_mean - log_spread x) n phi(x) Phi(x)^(n-1).
    """
    _require_count("n", n)
    if not log_spread >= 0:
        raise InputError(f"log_spread is {log_spread}; it must be at least 0.")
    log_density = math.log(n) + _LOG_DENSITY + (n - 1) * _LOG_CDF
    return float(np.trapezoid(np.exp(log_mean - log_spread * _X + log_density), _X))


def linear_gain(sigma: float, gradient_norm: float, n: int) -> float:
    """Return E[max gain] = sigma |g| m_N, to first order. The number of parameters does not appear."""
    _require_sigma(sigma)
    return sigma * gradient_norm * expected_max(n)


def linear_gain_at_length(length: float, gradient_norm: float, n_params: int, n: int) -> float:
    """Return E[max gain] of draws with root-mean-square length |delta| = length: falls as 1 / sqrt(n_params)."""
    return linear_gain(length / math.sqrt(n_params), gradient_norm, n)


def gain_quantile(probability: float, sigma: float, gradient_norm: float, n: int) -> float:
    """Return the gain that the best of n draws stays below with this probability: sigma |g| Phi^-1(p^(1/N))."""
    _require_sigma(sigma)
    _require_count("n", n)
    _require_probability(probability)
    tail = -math.expm1(math.log(probability) / n)  # 1 - p^(1/N), exact for large N
    return sigma * gradient_norm * -float(special.ndtri(tail))


def success_probability(gain: float, sigma: float, gradient_norm: float, n: int) -> float:
    """Return P(max gain >= c) = 1 - Phi(c / (sigma |g|))^N, to first order."""
    _require_sigma(sigma)
    _require_count("n", n)
    return -math.expm1(n * float(special.log_ndtr(gain / (sigma * gradient_norm))))


def draws_needed(gain: float, confidence: float, sigma: float, gradient_norm: float) -> int:
    """Return the fewest draws whose best reaches `gain` with this confidence, to first order.

    Raises:
        InputError: the gain is so many standard deviations away that no float can tell its probability from zero.
    """
    _require_sigma(sigma)
    _require_probability(confidence)
    log_miss = float(special.log_ndtr(gain / (sigma * gradient_norm)))
    if log_miss == 0:
        raise InputError(
            f"a gain of {gain} is {gain / (sigma * gradient_norm):.0f} standard deviations of one draw; no number of "
            "draws reaches it. Ask for a smaller gain or raise sigma."
        )
    return max(1, math.ceil(math.log1p(-confidence) / log_miss - 1e-12))


def second_order_gain(sigma: float, at: Curvature, n: int) -> float:
    """Return E[max gain] = sigma |g| m_N - sigma^2/2 (tr H + (q_N - 1) ghat'H ghat), exact to O(sigma^2).

    n = 1 gives the mean gain of one draw, -sigma^2 tr(H) / 2.
    """
    _require_sigma(sigma)
    return sigma * at.gradient_norm * expected_max(n) - sigma**2 / 2 * _mean_curvature(at, expected_max_square(n))


def second_order_gain_antithetic(sigma: float, at: Curvature, n_pairs: int) -> float:
    """Return E[max gain] of n_pairs pairs +z, -z, to O(sigma^2).

    It is sigma |g| a_n - sigma^2/2 (tr H + (q_n - 1) ghat'H ghat), where a_n and q_n are mean and mean square of the
    largest of n_pairs absolute values: z'Hz is even in z, so the better of a pair gains sigma |g.z| - sigma^2/2 z'Hz,
    and |g.z| chooses among pairs to this order. n_pairs = 1 is exact on a quadratic.
    """
    _require_sigma(sigma)
    linear = sigma * at.gradient_norm * expected_max_antithetic(n_pairs)
    return linear - sigma**2 / 2 * _mean_curvature(at, expected_max_square_antithetic(n_pairs))


def gain_one_draw_variance(sigma: float, at: Curvature) -> float:
    """Return the variance of one draw's gain, sigma^2 |g|^2 + sigma^4 |H|_F^2 / 2 (nats^2): exact on a quadratic."""
    _require_sigma(sigma)
    if at.frobenius_norm is None:
        raise InputError("this prediction needs frobenius_norm; estimate |H|_F first.")
    return (sigma * at.gradient_norm) ** 2 + (sigma**2 * at.frobenius_norm) ** 2 / 2


def gain_many_flat_directions(sigma: float, at: Curvature, n: int) -> float:
    """Return the gain of the best of n where gains are Gaussian: many directions of little curvature each.

    -sigma^2 tr(H)/2 + m_N sqrt(sigma^2 |g|^2 + sigma^4 |H|_F^2 / 2).
    """
    return -(sigma**2) * at.trace / 2 + expected_max(n) * math.sqrt(gain_one_draw_variance(sigma, at))


def curvature_of_best(at: Curvature, n: int) -> float:
    """Return tr H + (q_N - 1) ghat'H ghat, the mean of z'Hz over the best of n draws: what sigma^2/2 multiplies."""
    return _mean_curvature(at, expected_max_square(n))


def best_sigma(at: Curvature, n: int) -> float | None:
    """Return the sigma with the largest second-order gain; None where curvature helps and there is none.

    |g| m_N / (tr H + (q_N - 1) ghat'H ghat), where that denominator is positive. The gain there is half the linear one.
    """
    curvature = curvature_of_best(at, n)
    return at.gradient_norm * expected_max(n) / curvature if curvature > 0 else None


def gain_at_best_sigma(at: Curvature, n: int) -> float | None:
    """Return the gain at the best sigma, (|g| m_N)^2 / (2 (tr H + (q_N - 1) ghat'H ghat)); None without one."""
    sigma = best_sigma(at, n)
    return None if sigma is None else second_order_gain(sigma, at, n)


def sigma_of_curvature_cost(cost: float, at: Curvature, n: int) -> float | None:
    """Return the sigma at which curvature costs the fraction `cost` of the linear gain (or adds it, where it helps)."""
    curvature = curvature_of_best(at, n)
    return 2 * cost * at.gradient_norm * expected_max(n) / abs(curvature) if curvature else None


def transferred_gain(sigma: float, inner: float, batch_gradient_norm: float, n: int) -> float:
    """Return the gain on fresh data of the best of n by one batch: sigma m_N <g, g_b> / |g_b|, to first order.

    Args:
        inner: <g, g_b>, with g from data disjoint from the batch.
        batch_gradient_norm: |g_b|.
    """
    _require_sigma(sigma)
    return sigma * expected_max(n) * inner / batch_gradient_norm


def transfer_ratio(inner: float, batch_gradient_norm: float) -> float:
    """Divide the fresh gain by the gain on the selecting batch: <g, g_b> / |g_b|^2."""
    return inner / batch_gradient_norm**2


def signal_density(projected_gradient_norm: float, rank: int) -> float:
    """Return |U^T g|^2 / k of a rank-k basis: squared gain per draw at equal root-mean-square length."""
    _require_count("rank", rank)
    return projected_gradient_norm**2 / rank


def enrichment(projected_gradient_norm: float, rank: int, gradient_norm: float, n_params: int) -> float:
    """Divide the signal density of a basis by that of the whole space, |g|^2 / n_params."""
    return signal_density(projected_gradient_norm, rank) / signal_density(gradient_norm, n_params)


def gain_in_basis_at_length(length: float, projected_gradient_norm: float, rank: int, n: int) -> float:
    """Return E[max gain] = r m_N |U^T g| / sqrt(k) of draws of root-mean-square length r in a rank-k basis."""
    return linear_gain_at_length(length, projected_gradient_norm, rank, n)


def _moment(n: int, power: int) -> float:
    _require_count("n", n)
    log_density = math.log(n) + _LOG_DENSITY + (n - 1) * _LOG_CDF
    return float(np.trapezoid(_X**power * np.exp(log_density), _X))


def _moment_antithetic(n_pairs: int, power: int) -> float:
    _require_count("n_pairs", n_pairs)
    tail = -np.expm1(n_pairs * _LOG_ABSOLUTE_CDF)
    return float(integrate.simpson(power * _ABSOLUTE ** (power - 1) * tail, x=_ABSOLUTE))


def _mean_curvature(at: Curvature, mean_square: float) -> float:
    """Return the mean of z'Hz over the chosen draws, whose components along ghat have this mean square."""
    return at.trace + (mean_square - 1) * at.along_gradient


def _require_count(name: str, n: int) -> None:
    if n < 1:
        raise InputError(f"{name} is {n}; it must be at least 1.")


def _require_sigma(sigma: float) -> None:
    if not sigma > 0:
        raise InputError(f"sigma is {sigma}; it must be above 0.")


def _require_probability(p: float) -> None:
    if not 0 < p < 1:
        raise InputError(f"a probability of {p} was given; it must lie strictly between 0 and 1.")
