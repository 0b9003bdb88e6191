"""The best of n from one pool: against all subsets, exact integers, theory and noncentral chi-square in errors."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from lineament import theory
from lineament.errors import InputError
from lineament.population import best_of_n
from lineament.population.best_of_n import mean_best, mean_best_controlled

pools = st.lists(st.floats(-100, 100), min_size=8, max_size=8).map(np.array)
rounded = st.lists(st.integers(-2, 2), min_size=8, max_size=8).map(np.array)  # ties


def over_all_subsets(gains: np.ndarray, n: int) -> float:
    return float(np.mean([max(subset) for subset in combinations(gains, n)]))


def delete_one(gains: np.ndarray, n: int) -> np.ndarray:
    return np.array([over_all_subsets(np.delete(gains, i), n) for i in range(len(gains))])


def jackknife(left_out: np.ndarray) -> float:
    return math.sqrt((len(left_out) - 1) / len(left_out) * float(((left_out - left_out.mean()) ** 2).sum()))


@given(pools | rounded, st.integers(1, 4))
def test_value_is_the_mean_over_all_subsets(gains: np.ndarray, n: int) -> None:
    assert mean_best(gains, n).value == pytest.approx(over_all_subsets(gains, n), rel=1e-12, abs=1e-12)


@given(pools | rounded, st.integers(1, 4))
def test_stderr_is_the_literal_jackknife(gains: np.ndarray, n: int) -> None:
    assert mean_best(gains, n).stderr == pytest.approx(jackknife(delete_one(gains, n)), rel=1e-10, abs=1e-12)


@given(pools | rounded, pools, st.integers(1, 4))
def test_controlled_value_and_stderr_are_the_literal_ones(gains: np.ndarray, linear: np.ndarray, n: int) -> None:
    found = mean_best_controlled(gains, linear, 2.0, n)
    truth = over_all_subsets(gains, n) - over_all_subsets(linear, n) + 2.0 * theory.expected_max(n)
    assert found.value == pytest.approx(truth, rel=1e-11, abs=1e-11)
    left_out = delete_one(gains, n) - delete_one(linear, n)
    assert found.stderr == pytest.approx(jackknife(left_out), rel=1e-10, abs=1e-12)


def test_one_draw_is_the_mean_with_its_usual_stderr() -> None:
    gains = np.random.default_rng(0).standard_normal(1000)
    found = mean_best(gains, 1)
    assert found.value == pytest.approx(gains.mean(), rel=1e-12)
    assert found.stderr == pytest.approx(stats.sem(gains), rel=1e-12)


@pytest.mark.parametrize("n", [2, 64, 1024, 500_000])
def test_weights_are_exact_in_a_pool_of_a_million(n: int) -> None:
    """With `top` gains of 1 among zeros, the mean is 1 - C(M - top, n) / C(M, n), a product of top / (M - n) ratios."""
    n_draws, top = 10**6, 3
    gains = (np.arange(n_draws) < top).astype(float)
    miss = math.prod(Fraction(n_draws - n - i, n_draws - i) for i in range(top))
    assert mean_best(gains, n).value == pytest.approx(float(1 - miss), rel=1e-12)
    weights = best_of_n._weights(n_draws, n)
    assert weights.sum() == pytest.approx(1, rel=1e-11)
    if n <= 1024:  # far from the top: the longest product, in exact integers
        rank = n_draws // 2
        truth = Fraction(math.comb(rank - 1, n - 1), math.comb(n_draws, n))
        assert math.log(weights[rank - 1]) == pytest.approx(math.log(truth.numerator) - math.log(truth.denominator))


@pytest.mark.parametrize("n", [1, 4, 32])
def test_unbiased_for_normal_draws(n: int) -> None:
    pools = np.random.default_rng(n).standard_normal((2000, 64))
    values = np.array([mean_best(pool, n).value for pool in pools])
    assert abs(values.mean() - theory.expected_max(n)) < 4 * stats.sem(values)


@pytest.mark.parametrize(("n", "widest"), [(1, 1.1), (4, 1.1), (64, 1.4)])
def test_stderr_is_honest(n: int, widest: float) -> None:
    """Its square is the variance of the values, on average. Deviations in standard errors have spread 1, which 1000
    pools show to 2.2 %, and more at n = 64: eight disjoint sets of 64 leave the stderr itself uncertain by 30 %."""
    pools = np.random.default_rng(n).standard_normal((1000, 512))
    found = [mean_best(pool, n) for pool in pools]
    mean_square = np.mean([m.stderr**2 for m in found])
    assert mean_square / np.var([m.value for m in found]) == pytest.approx(1, abs=0.18)  # 4 sqrt(2 / 1000)
    deviations = np.array([(m.value - theory.expected_max(n)) / m.stderr for m in found])
    assert 0.9 < deviations.std() < widest


N_PARAMS = 5


def quadratic_pool(sigma: float, n_draws: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Gains and linear gains at g = e_1, H = I."""
    z = generator.standard_normal((n_draws, N_PARAMS))
    linear = -sigma * z[:, 0]
    return linear - sigma**2 / 2 * (z**2).sum(axis=1), linear


def quadratic_truth(sigma: float, n: int) -> float:
    """Gain = 1/2 - sigma^2/2 |z + e_1 / sigma|^2: a noncentral chi-square, whose least of n has mean int sf(x)^n dx."""
    chi = stats.ncx2(N_PARAMS, 1 / sigma**2)
    low, high = chi.ppf(1e-12), chi.isf(1e-12)
    least = low + integrate.quad(lambda x: chi.sf(x) ** n, low, high, limit=200)[0]
    return 0.5 - sigma**2 / 2 * least


@pytest.mark.parametrize("n", [1, 4, 64])
@pytest.mark.parametrize("sigma", [0.03, 0.3, 2.0])
def test_control_variate_is_unbiased_at_any_curvature(sigma: float, n: int) -> None:
    generator = np.random.default_rng(0)
    found = [mean_best_controlled(*quadratic_pool(sigma, 256, generator), sigma, n).value for _ in range(400)]
    assert abs(np.mean(found) - quadratic_truth(sigma, n)) < 4 * stats.sem(found)


@pytest.mark.parametrize("n", [1, 4, 16])
def test_controlled_stderr_is_honest(n: int) -> None:
    """As above; M = 1024 leaves the stderr of n = 16 uncertain enough for a spread of 1.1."""
    truth, generator = quadratic_truth(0.03, n), np.random.default_rng(5)
    found = [mean_best_controlled(*quadratic_pool(0.03, 1024, generator), 0.03, n) for _ in range(1000)]
    mean_square = np.mean([m.stderr**2 for m in found])
    assert mean_square / np.var([m.value for m in found]) == pytest.approx(1, abs=0.18)
    deviations = np.array([(m.value - truth) / m.stderr for m in found])
    assert 0.9 < deviations.std() < 1.2


@pytest.mark.parametrize("n", [1, 4, 64])
@pytest.mark.parametrize(("sigma", "least", "most"), [(0.01, 0.005, 0.1), (0.1, 0.05, 0.65)])
def test_control_variate_helps_where_curvature_is_small(sigma: float, least: float, most: float, n: int) -> None:
    assert least < stderr_ratio(sigma, n) < most


@pytest.mark.parametrize("n", [4, 64])
def test_control_variate_harms_where_curvature_is_large(n: int) -> None:
    assert stderr_ratio(1.0, n) > 1.1


def stderr_ratio(sigma: float, n: int) -> float:
    gains, linear = quadratic_pool(sigma, 4096, np.random.default_rng(1))
    return mean_best_controlled(gains, linear, sigma, n).stderr / mean_best(gains, n).stderr


def test_linear_gains_are_known_without_error() -> None:
    linear = np.random.default_rng(2).standard_normal(128)
    found = mean_best_controlled(linear, linear, 1.0, 16)
    assert found.value == pytest.approx(theory.expected_max(16), rel=1e-12)
    assert found.stderr == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_best(np.zeros(1), 1), "at least 2 n = 2"),
        (lambda: mean_best(np.zeros(8), 5), "at least 2 n = 10"),
        (lambda: mean_best(np.zeros(8), 8), "at least 2 n = 16"),
        (lambda: mean_best(np.zeros(8), 9), "at least 2 n = 18"),
        (lambda: mean_best(np.zeros(8), 0), "at least 1"),
        (lambda: mean_best(np.zeros((2, 4)), 1), "one number per draw"),
        (lambda: mean_best(np.array([0.0, np.nan, 1.0]), 1), "1 of 3 gains are not finite"),
        (lambda: mean_best(np.array([0.0, -np.inf, 1.0]), 1), "drop failed members"),
        (lambda: mean_best_controlled(np.zeros(8), np.zeros(7), 1.0, 2), "same draws"),
        (lambda: mean_best_controlled(np.zeros(8), np.full(8, np.nan), 1.0, 2), "linear gains are not finite"),
        (lambda: mean_best_controlled(np.zeros(8), np.zeros(8), -1.0, 2), "at least 0"),
        (lambda: mean_best_controlled(np.zeros(8), np.zeros(8), math.nan, 2), "at least 0"),
    ],
)
def test_impossible_input_is_refused(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
