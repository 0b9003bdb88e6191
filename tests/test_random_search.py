"""The random-search measurement: exact on a quadratic, honest on a small trained model, and its parts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_table import QuadraticProblem
from torch import Tensor

from lineament import theory
from lineament.bases import random_basis
from lineament.measurements.random_search import _departure
from lineament.measurements.search_dimension import pooled_slope
from lineament.measurements.search_pools import Searcher
from lineament.population.best_of_n import mean_at_best
from lineament.population.region import Region, SearchSpace, measured_space
from lineament.problems.problem import Batch
from lineament.streams import Streams
from lineament.theory import Curvature
from lineament.vectors.hessian import HessianOperator

N_DRAWS = 4096


class Bowl(QuadraticProblem):
    """A quadratic whose score per example is its loss itself, so that populations can score it."""

    def logits(self, batch: Batch) -> Tensor:
        return self.example_losses(batch)[:, None, None]


def scored(problem: Bowl, batch: Batch) -> Searcher:
    return Searcher(problem, batch, Streams(0).child("bowl"), lambda logits, _: logits[:, 0, 0])


@pytest.fixture(scope="module")
def bowl() -> tuple[Bowl, Batch]:
    problem = Bowl(np.linspace(-0.5, 2.0, 60))
    return problem, problem.sample("bowl", 8, Streams(2).generator("batch"))


@pytest.mark.parametrize("where", ["full", "basis"])
@pytest.mark.parametrize("cost", [0.01, 0.1, 0.25])
def test_quadratic_gives_the_second_order_gain(bowl: tuple[Bowl, Batch], where: str, cost: float) -> None:
    """The prediction errs by O(sigma^3) in E[max], even on a quadratic: within 3 % up to half the best sigma."""
    problem, batch = bowl
    basis = random_basis(problem.parameters.space, 20, np.random.default_rng(0)) if where == "basis" else None
    operator = HessianOperator(problem, batch)
    space = measured_space(operator, Region(where, problem.parameters, basis), Streams(0), 0.01, 20_000)
    sigma = theory.sigma_of_curvature_cost(cost, space.at, 64)
    assert sigma is not None
    pool = scored(problem, batch).pool(space, sigma, N_DRAWS)
    for n in (2, 16, 64, 256):
        found, predicted = pool.best(n), theory.second_order_gain(sigma, space.at, n)
        assert abs(found.value - predicted) < 4 * found.stderr + 0.03 * predicted
    mean = pool.best(1)
    expected = -(sigma**2) / 2 * space.at.trace
    trace_error = 4 * sigma**2 / 2 * space.trace_stderr
    assert abs(mean.value - expected) < 4 * mean.stderr + trace_error


def test_curvature_in_a_basis_is_exact(bowl: tuple[Bowl, Batch]) -> None:
    problem, batch = bowl
    basis = random_basis(problem.parameters.space, 5, np.random.default_rng(1))
    space = measured_space(HessianOperator(problem, batch), Region("b", problem.parameters, basis), Streams(0), 1.0, 0)
    inner = basis.columns.T @ problem.hessian @ basis.columns
    gradient = basis.columns.T @ problem.exact_gradient(batch)
    assert space.at.trace == pytest.approx(float(inner.trace()))
    assert space.at.frobenius_norm == pytest.approx(float(inner.norm()))
    assert space.at.gradient_norm == pytest.approx(float(gradient.norm()))
    assert space.at.along_gradient == pytest.approx(float(gradient @ inner @ gradient / gradient.norm() ** 2))
    assert space.trace_stderr == 0


def test_draws_of_a_space_are_the_same_at_every_sigma(bowl: tuple[Bowl, Batch]) -> None:
    problem, batch = bowl
    space = measured_space(HessianOperator(problem, batch), Region("full", problem.parameters), Streams(0), 1.0, 8)
    searcher = scored(problem, batch)
    small, large = searcher.pool(space, 1e-3, 64), searcher.pool(space, 2e-3, 64)
    assert np.allclose(2 * small.linear, large.linear, rtol=1e-5)


def test_control_variate_is_used_only_where_curvature_leaves_it_useful(bowl: tuple[Bowl, Batch]) -> None:
    problem, batch = bowl
    space = measured_space(HessianOperator(problem, batch), Region("full", problem.parameters), Streams(0), 0.1, 200)
    searcher = scored(problem, batch)
    assert space.at.frobenius_norm is not None
    edge = space.at.gradient_norm / space.at.frobenius_norm * math.sqrt(2) / 2
    assert searcher.pool(space, 0.9 * edge, 64)._controlled
    assert not searcher.pool(space, 1.1 * edge, 64)._controlled


def test_gain_on_fresh_data_is_that_of_the_chosen_draw() -> None:
    """Correlated normal pairs: the winner's partner has rho times the mean maximum."""
    generator, rho, n = np.random.default_rng(0), 0.6, 16
    x = generator.standard_normal(20_000)
    y = rho * x + math.sqrt(1 - rho**2) * generator.standard_normal(20_000)
    found = mean_at_best(x, y, n)
    assert abs(found.value - rho * theory.expected_max(n)) < 4 * found.stderr
    assert found.stderr < 0.05
    literal = [y[i : i + n][x[i : i + n].argmax()] for i in range(0, 20_000, n)]
    spread = float(np.std(literal, ddof=1) / math.sqrt(len(literal)))
    assert abs(found.value - np.mean(literal)) < 4 * spread


def test_departure_is_interpolated_and_compared_with_the_curvature() -> None:
    at = Curvature(1.0, 2.0, 0.5, 1.0)
    space = SearchSpace(Region.__new__(Region), at, torch.zeros(3, dtype=torch.float64))
    object.__setattr__(space.region, "name", "full")
    ratios = [(1e-3, 1.0), (1e-2, 0.95), (1e-1, 0.80)]
    found = _departure(space, ratios, 64)
    assert found.value == pytest.approx(10 ** (-2 + 0.05 / 0.15))
    assert found.null == pytest.approx(theory.sigma_of_curvature_cost(0.1, at, 64))
    inside = _departure(space, ratios[:2], 64)
    assert inside.value is None
    assert "within" in (inside.reason or "")
    outside = _departure(space, ratios[2:], 64)
    assert outside.value is None
    assert "already" in (outside.reason or "")


def test_slope_over_sizes_has_one_intercept_per_cost() -> None:
    points = [(n, cost, factor * n**0.1) for cost, factor in ((0.01, 1.0), (0.5, 0.3)) for n in (10, 100, 1000)]
    assert pooled_slope(points) == pytest.approx(0.1)
    assert pooled_slope([(10, 0.01, 1.0)]) is None
    assert pooled_slope([]) is None
