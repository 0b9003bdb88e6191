"""The random-search measurement: exact on a quadratic, honest on a small trained model, and its parts by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems_table import QuadraticProblem
from torch import Tensor

from lineament import theory
from lineament.bases import from_vectors, random_basis
from lineament.measurements.random_search import _departure
from lineament.measurements.search_density import density_figures
from lineament.measurements.search_dimension import pooled_slope
from lineament.measurements.search_pools import Searcher
from lineament.measurements.search_theorem import theorem_figure, theorem_sigma
from lineament.parameters import Vectors
from lineament.population.best_of_n import mean_at_best, mean_best
from lineament.population.region import Region, SearchSpace, measured_space
from lineament.problems.problem import Batch, balanced_parts
from lineament.records import Quantity
from lineament.settings.search import SearchSettings
from lineament.settings.settings import Settings
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


# --- figures that claims rest on can come out otherwise ---


def test_the_theorem_is_judged_by_the_draws_alone(bowl: tuple[Bowl, Batch]) -> None:
    """Right on a quadratic; as far off as its gradient, when the prediction is of another one."""
    problem, batch = bowl
    space = measured_space(HessianOperator(problem, batch), Region("full", problem.parameters), Streams(0), 0.02, 5000)
    sigma = theorem_sigma(space, 64)
    assert sigma is not None
    pool = scored(problem, batch).pool(space, sigma, 2 * N_DRAWS)
    right = theorem_figure(space, pool, 0.0, 64)
    assert right.value is not None
    assert right.stderr is not None
    assert right.value == pytest.approx(1.0, abs=3 * right.stderr + 0.03)
    assert right.stderr < 0.05
    assert right.value == mean_best(pool.gains, 64).value / theory.second_order_gain(sigma, space.at, 64)
    wrong = replace(space, at=replace(space.at, gradient_norm=2 * space.at.gradient_norm))
    halved = theorem_figure(wrong, pool, 0.0, 64).value
    assert halved is not None
    assert halved < 0.6
    # draws that know nothing of the gradient
    noise = replace(pool, gains=np.random.default_rng(0).standard_normal(len(pool.gains)) * 5 * sigma)
    assert not 0.9 < theorem_figure(space, noise, 0.0, 64).value < 1.1  # type: ignore[operator]


def test_a_curvature_that_is_not_told_from_zero_plans_nothing() -> None:
    region = Region.__new__(Region)
    space = SearchSpace(region, Curvature(1.0, 2.0, 0.0, 1.0), torch.zeros(3, dtype=torch.float64), trace_stderr=0.7)
    assert space.best_sigma(64) is None
    assert "not told from zero" in (space.why_no_best_sigma(64) or "")
    assert theorem_sigma(space, 64) is None
    sharp = replace(space, trace_stderr=0.6)
    assert sharp.best_sigma(64) == pytest.approx(theory.best_sigma(sharp.at, 64))
    assert sharp.why_no_best_sigma(64) is None
    helps = replace(sharp, at=Curvature(1.0, -2.0, 0.0, 1.0))
    assert helps.why_no_best_sigma(64) == "no best sigma: curvature helps"


@pytest.mark.parametrize("sizes", [(8, 8), (7, 9)])
def test_halves_hold_every_label_equally_often(sizes: tuple[int, int]) -> None:
    targets = torch.tensor([[5]] * sizes[0] + [[9]] * sizes[1])[torch.randperm(16, generator=torch.manual_seed(0))]
    ids = torch.arange(1, 17)[:, None]
    halves = balanced_parts(Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), targets, (5, 9)), 2)
    assert [len(half) for half in halves] == [8, 8]
    assert all(abs(int((half.targets == 5).sum()) - sizes[0] / 2) < 1 for half in halves)
    assert sorted(int(i) for half in halves for i in half.input_ids) == list(range(1, 17))


class TwoBowls(Bowl):
    """Two tasks whose gradients are orthogonal but for chance."""

    tasks = ("bowl", "other")

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        half = 32 * (task == "other")
        ids = torch.from_numpy(generator.integers(half, half + 4, size=(n, 1)))
        return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), torch.zeros_like(ids), (0, 1))


def correlation_of(tasks: tuple[str, ...], scored_task: str) -> Quantity:
    """Eight subspaces that hold different shares of the target's gradient; draws are scored on a task."""
    problem = TwoBowls(np.linspace(0.5, 2.0, 60), noise=8.0)
    problem.tasks = tasks
    batch, other = (problem.sample(t, 8, Streams(2).generator(t)) for t in ("bowl", "other"))
    operator, generator = HessianOperator(problem, batch), np.random.default_rng(3)
    unit = operator.gradient / operator.gradient.norm()
    bases = {}
    for i, share in enumerate(np.linspace(0.2, 0.95, 8)):
        random = random_basis(problem.parameters.space, 4, generator).columns.T
        random = random - (random @ unit)[:, None] * unit
        random[0] = share * unit + np.sqrt(1 - share**2) * random[0] / random[0].norm()
        bases[f"basis {i}"] = from_vectors(Vectors(random, problem.parameters.space), f"basis {i}")
    full = measured_space(operator, Region("full", problem.parameters), Streams(0), 0.2, 50)
    study = SimpleNamespace(
        problem=problem, target="bowl", streams=Streams(0), progress=lambda *_: None,
        settings=Settings(search=SearchSettings(density_draws=512, headline_count=16, counts=(16,))),
        gradient_batch=lambda task, n, size, stream: problem.sample(task, n, Streams(2).generator(task)),
    )  # fmt: skip
    searcher = scored(problem, {"bowl": batch, "other": other}[scored_task])
    found = density_figures(study, searcher, operator, {"full": full}, bases)  # type: ignore[arg-type]
    return next(q for q in found if q.name == "density_rank_correlation" and q.labels["subspaces"] == "informed")


def test_subspaces_are_ranked_by_the_target_s_gradient_and_not_by_another() -> None:
    found = correlation_of(("bowl", "other"), "bowl")
    assert found.value is not None
    assert found.null is not None
    assert found.value > 0.9
    assert found.null < 0.5


def test_a_gain_that_does_not_follow_the_gradient_is_not_ranked_by_it() -> None:
    found = correlation_of(("bowl", "other"), "other")
    assert found.value is not None
    assert found.value < 0.5


def test_with_one_task_there_is_no_other_gradient() -> None:
    found = correlation_of(("bowl",), "bowl")
    assert found.null is None
    assert found.labels["other_tasks"] == 0
