"""Predictions of random search against closed forms, quadrature, Monte Carlo in standard errors, a quadratic."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from lineament import theory
from lineament.errors import InputError
from lineament.theory import Curvature

sizes = st.integers(1, 10**9)
positive = st.floats(1e-4, 1e3)


def test_small_cases_have_closed_forms() -> None:
    # David and Nagaraja, Order Statistics, section 3.2
    assert theory.expected_max(1) == pytest.approx(0, abs=1e-14)
    assert theory.expected_max(2) == pytest.approx(1 / math.sqrt(math.pi), rel=1e-12)
    assert theory.expected_max(3) == pytest.approx(1.5 / math.sqrt(math.pi), rel=1e-12)
    assert theory.expected_max_square(1) == pytest.approx(1, rel=1e-12)
    assert theory.expected_max_square(2) == pytest.approx(1, rel=1e-12)
    assert theory.expected_max_square(3) == pytest.approx(1 + math.sqrt(3) / (2 * math.pi), rel=1e-12)
    assert theory.expected_max_antithetic(1) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-12)
    assert theory.expected_max_antithetic(2) == pytest.approx(2 / math.sqrt(math.pi), rel=1e-12)
    assert theory.expected_max_square_antithetic(1) == pytest.approx(1, rel=1e-12)
    assert theory.expected_max_square_antithetic(2) == pytest.approx(1 + 2 / math.pi, rel=1e-12)


@pytest.mark.parametrize("n", [5, 100, 10**4, 10**6, 10**9])
@pytest.mark.parametrize("power", [1, 2])
def test_moments_equal_quadrature_over_quantiles(n: int, power: int) -> None:
    """E[M^p] = int_0^inf e^-t Q(e^(-t/n))^p dt, another formula with another quadrature."""

    def integrand(t: float) -> float:
        return math.exp(-t) * stats.norm.isf(-math.expm1(-t / n)) ** power

    pieces = [(0, 1e-6), (1e-6, 0.01), (0.01, 1), (1, 40)]
    truth = sum(integrate.quad(integrand, a, b, limit=200, epsabs=1e-13)[0] for a, b in pieces)
    found = (theory.expected_max if power == 1 else theory.expected_max_square)(n)
    assert found == pytest.approx(truth, rel=2e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1024, 10**6, 10**9])
def test_moments_equal_quadrature_over_tails(n: int) -> None:
    """E[M] = int_0^inf P(M > x) - P(M < -x) dx and E[M^2] = int_0^inf 2x (P(M > x) + P(M < -x)) dx, adaptively."""

    def above(x: float) -> float:
        return -math.expm1(n * stats.norm.logcdf(x))

    def below(x: float) -> float:
        return math.exp(n * stats.norm.logcdf(-x))

    assert theory.expected_max(n) == pytest.approx(adaptive(lambda x: above(x) - below(x)), rel=1e-10, abs=1e-10)
    square = adaptive(lambda x: 2 * x * (above(x) + below(x)))
    assert theory.expected_max_square(n) == pytest.approx(square, rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 5, 64, 1024, 10**6, 10**9])
@pytest.mark.parametrize("power", [1, 2])
def test_antithetic_moments_equal_quadrature_of_the_density(n: int, power: int) -> None:
    """The largest of n absolute values has density 2 n phi(x) P(|z| < x)^(n-1)."""

    def integrand(x: float) -> float:
        return x**power * 2 * n * stats.norm.pdf(x) * math.exp((n - 1) * math.log1p(-2 * stats.norm.sf(x)))

    found = (theory.expected_max_antithetic if power == 1 else theory.expected_max_square_antithetic)(n)
    assert found == pytest.approx(adaptive(integrand, least=1e-12), rel=1e-10)


def adaptive(integrand: Callable[[float], float], least: float = 0.0) -> float:
    """int_0^inf, in pieces one wide, so that the narrow peak of a large n is not stepped over."""
    edges = [least, *range(1, 15)]
    return sum(integrate.quad(integrand, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pairwise(edges))


@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_moments_lie_within_standard_errors_of_monte_carlo(n: int) -> None:
    draws = np.random.default_rng(n).standard_normal((20_000, n))
    for values, truth in (
        (draws.max(axis=1), theory.expected_max(n)),
        (draws.max(axis=1) ** 2, theory.expected_max_square(n)),
        (np.abs(draws).max(axis=1), theory.expected_max_antithetic(n)),
        (np.abs(draws).max(axis=1) ** 2, theory.expected_max_square_antithetic(n)),
    ):
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))


def test_moments_grow_with_n() -> None:
    values = [theory.expected_max(10**k) for k in range(10)]
    assert values == sorted(values)
    assert values[9] == pytest.approx(math.sqrt(2 * math.log(1e9)), rel=0.1)


@given(st.floats(0.001, 0.999), positive, positive, sizes)
def test_quantile_inverts_the_success_probability(p: float, sigma: float, norm: float, n: int) -> None:
    gain = theory.gain_quantile(p, sigma, norm, n)
    assert theory.success_probability(gain, sigma, norm, n) == pytest.approx(1 - p, rel=1e-6)


@given(st.floats(-1, 5), st.floats(0.01, 0.999), positive)
def test_draws_needed_is_the_fewest_that_suffice(deviations: float, confidence: float, sigma: float) -> None:
    n = theory.draws_needed(deviations * sigma, confidence, sigma, 1.0)
    assert theory.success_probability(deviations * sigma, sigma, 1.0, n) >= confidence * (1 - 1e-9)
    if n > 1:
        assert theory.success_probability(deviations * sigma, sigma, 1.0, n - 1) <= confidence * (1 + 1e-9)


def quadratic(n_params: int, seed: int) -> tuple[np.ndarray, np.ndarray, Curvature]:
    """g, diagonal of H (rotations change nothing), and what the predictions see of them."""
    generator = np.random.default_rng(seed)
    gradient, eigenvalues = generator.standard_normal(n_params), generator.gamma(1.0, 1.0, n_params)
    norm = float(np.linalg.norm(gradient))
    along = float(gradient @ (eigenvalues * gradient)) / norm**2
    return gradient, eigenvalues, Curvature(norm, float(eigenvalues.sum()), along, float(np.linalg.norm(eigenvalues)))


def best_gains(gradient: np.ndarray, eigenvalues: np.ndarray, sigma: float, n: int, repeats: int) -> np.ndarray:
    z = np.random.default_rng(7).standard_normal((repeats, n, len(gradient)))
    gains = -sigma * z @ gradient - sigma**2 / 2 * (z**2) @ eigenvalues
    return gains.max(axis=1)


@pytest.mark.parametrize("n", [2, 16])
def test_second_order_gain_on_a_quadratic_within_monte_carlo_error(n: int) -> None:
    gradient, eigenvalues, at = quadratic(20, 0)
    sigma = theory.sigma_of_curvature_cost(0.02, at, n)
    assert sigma is not None
    found = best_gains(gradient, eigenvalues, sigma, n, 40_000)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - theory.second_order_gain(sigma, at, n)) < 4 * error + 1e-3 * found.mean()
    linear = theory.linear_gain(sigma, at.gradient_norm, n)
    assert theory.second_order_gain(sigma, at, n) == pytest.approx(0.98 * linear, rel=1e-9)


def test_mean_gain_of_one_draw_is_exact() -> None:
    gradient, eigenvalues, at = quadratic(20, 1)
    found = best_gains(gradient, eigenvalues, 0.5, 1, 100_000)
    assert abs(found.mean() - theory.second_order_gain(0.5, at, 1)) < 4 * found.std() / math.sqrt(len(found))


def best_of_pairs(
    gradient: np.ndarray, eigenvalues: np.ndarray, sigma: float, n_pairs: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Best gain among n_pairs pairs +z, -z on the quadratic, and best gain without its curvature."""
    z = np.random.default_rng(8).standard_normal((repeats, n_pairs, len(gradient)))
    linear, price = -sigma * z @ gradient, sigma**2 / 2 * (z**2) @ eigenvalues
    both = np.concatenate([linear, -linear], axis=1)
    return (both - np.tile(price, 2)).max(axis=1), both.max(axis=1)


@pytest.mark.parametrize("n_pairs", [2, 16])
def test_second_order_gain_of_pairs_on_a_quadratic_within_monte_carlo_error(n_pairs: int) -> None:
    """The curvature's part alone, so that its 0.2 % is resolved: the linear part is known and taken out of both."""
    gradient, eigenvalues, at = quadratic(20, 0)
    sigma = theory.sigma_of_curvature_cost(0.002, at, n_pairs)
    assert sigma is not None
    best, linear = best_of_pairs(gradient, eigenvalues, sigma, n_pairs, 40_000)
    truth = sigma * at.gradient_norm * theory.expected_max_antithetic(n_pairs)
    assert abs(linear.mean() - truth) < 4 * stats.sem(linear)
    part = theory.second_order_gain_antithetic(sigma, at, n_pairs) - truth
    assert abs((best - linear).mean() - part) < 4 * stats.sem(best - linear)


def test_gain_of_one_pair_is_exact() -> None:
    gradient, eigenvalues, at = quadratic(20, 1)
    best, _ = best_of_pairs(gradient, eigenvalues, 0.5, 1, 100_000)
    assert abs(best.mean() - theory.second_order_gain_antithetic(0.5, at, 1)) < 4 * stats.sem(best)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_variance_and_pair_of_one_parameter_equal_quadrature(sigma: float) -> None:
    slope, bend = 0.7, -1.3
    at = Curvature(slope, bend, bend, abs(bend))

    def gain(z: float) -> float:
        return -sigma * slope * z - sigma**2 / 2 * bend * z**2

    def mean(f: Callable[[float], float]) -> float:
        halves = [(-12, 0), (0, 12)]
        return sum(integrate.quad(lambda z: f(z) * stats.norm.pdf(z), a, b, epsabs=1e-13)[0] for a, b in halves)

    variance = mean(lambda z: gain(z) ** 2) - mean(gain) ** 2
    assert theory.gain_one_draw_variance(sigma, at) == pytest.approx(variance, rel=1e-9)
    pair = mean(lambda z: max(gain(z), gain(-z)))
    assert theory.second_order_gain_antithetic(sigma, at, 1) == pytest.approx(pair, rel=1e-9)


def test_variance_of_one_draw_within_monte_carlo_error() -> None:
    gradient, eigenvalues, at = quadratic(20, 1)
    found = best_gains(gradient, eigenvalues, 0.5, 1, 100_000)
    squares = (found - found.mean()) ** 2
    assert abs(squares.mean() - theory.gain_one_draw_variance(0.5, at)) < 4 * stats.sem(squares)


def test_many_flat_directions_are_gaussian() -> None:
    gradient, eigenvalues, at = quadratic(600, 2)
    sigma = 3 * at.gradient_norm / float(np.linalg.norm(eigenvalues))  # curvature noise is most of the spread
    found = best_gains(gradient, eigenvalues, sigma, 8, 2_000)
    assert found.mean() == pytest.approx(theory.gain_many_flat_directions(sigma, at, 8), rel=0.02)


@given(positive, positive, st.floats(0, 10), st.integers(2, 10**6))
def test_best_sigma_is_the_largest_gain_and_half_the_linear_one(
    norm: float, trace: float, along: float, n: int
) -> None:
    at = Curvature(norm, trace, along)
    sigma, gain = theory.best_sigma(at, n), theory.gain_at_best_sigma(at, n)
    assert sigma is not None
    assert gain is not None
    assert gain == pytest.approx(theory.linear_gain(sigma, norm, n) / 2, rel=1e-9)
    for factor in (0.9, 1.1):
        assert theory.second_order_gain(factor * sigma, at, n) < gain


def test_helpful_curvature_has_no_best_sigma() -> None:
    at = Curvature(1.0, -5.0)
    assert theory.best_sigma(at, 8) is None
    assert theory.gain_at_best_sigma(at, 8) is None
    assert theory.second_order_gain(0.1, at, 8) > theory.linear_gain(0.1, 1.0, 8)


def test_gain_transfers_to_fresh_data_as_predicted() -> None:
    generator = np.random.default_rng(3)
    fresh, batch = generator.standard_normal(30), generator.standard_normal(30) * 0.5
    batch += fresh
    sigma, n = 1e-3, 32
    z = generator.standard_normal((20_000, n, 30))
    chosen = z[np.arange(len(z)), (-z @ batch).argmax(axis=1)]
    gains, selected = -sigma * chosen @ fresh, -sigma * chosen @ batch
    norm, inner = float(np.linalg.norm(batch)), float(fresh @ batch)
    error = gains.std() / math.sqrt(len(gains))
    assert abs(gains.mean() - theory.transferred_gain(sigma, inner, norm, n)) < 4 * error
    assert gains.mean() / selected.mean() == pytest.approx(theory.transfer_ratio(inner, norm), rel=0.02)


@given(st.integers(1, 50), positive)
def test_a_random_basis_is_not_enriched_and_one_along_the_gradient_is(rank: int, norm: float) -> None:
    n_params = 1000
    share = norm * math.sqrt(rank / n_params)
    assert theory.enrichment(share, rank, norm, n_params) == pytest.approx(1)
    assert theory.enrichment(norm, rank, norm, n_params) == pytest.approx(n_params / rank)
    ratio = theory.gain_in_basis_at_length(1.0, norm, rank, 8) / theory.linear_gain_at_length(1.0, norm, n_params, 8)
    assert ratio == pytest.approx(math.sqrt(theory.enrichment(norm, rank, norm, n_params)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.expected_max(0),
        lambda: theory.linear_gain(0.0, 1.0, 2),
        lambda: theory.second_order_gain(-1.0, Curvature(1, 1), 2),
        lambda: theory.gain_quantile(1.0, 1.0, 1.0, 2),
        lambda: theory.draws_needed(1e6, 0.5, 1.0, 1.0),
        lambda: theory.gain_many_flat_directions(1.0, Curvature(1, 1), 2),
        lambda: theory.gain_one_draw_variance(1.0, Curvature(1, 1)),
        lambda: theory.gain_one_draw_variance(0.0, Curvature(1, 1, 0, 1)),
        lambda: theory.expected_max_square_antithetic(0),
        lambda: theory.second_order_gain_antithetic(0.0, Curvature(1, 1), 2),
    ],
)
def test_impossible_input_is_refused(call) -> None:
    with pytest.raises(InputError):
        call()
