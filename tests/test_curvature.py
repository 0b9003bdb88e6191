"""Curvature estimates against dense Hessians, closed forms of a quadratic, and the statistics of their own errors."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from problems_table import CASES, QuadraticProblem
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.errors import InputError, NonFiniteError
from lineament.streams import Streams
from lineament.vectors.curvature import estimate_curvature
from lineament.vectors.hessian import HessianOperator


class Dense:
    """An operator from its matrix."""

    def __init__(self, matrix: Tensor, gradient: Tensor) -> None:
        self.matrix, self.gradient = matrix, gradient

    def __matmul__(self, vector: Tensor) -> Tensor:
        return self.matrix @ vector.to(self.matrix)


def random_symmetric(n: int, seed: int) -> Dense:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return Dense(half + half.T, torch.randn(n, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("name", ["quadratic", "transformer_lora", "conv1d"])
def test_estimates_lie_within_standard_errors_of_the_dense_hessian(name: str) -> None:
    case = CASES[name]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 8)
    dense = oracles.dense_hessian(problem, batch)
    operator = HessianOperator(problem, batch)
    found = estimate_curvature(operator, Streams(0).generator("probes"), relative_error=0.05, max_probes=400)
    assert abs(found.trace.value - np.trace(dense)) < 4 * found.trace.stderr + 1e-5 * np.linalg.norm(dense)
    error = abs(found.frobenius_norm.value - np.linalg.norm(dense))
    assert error < 5 * found.frobenius_norm.stderr + 1e-4 * np.linalg.norm(dense)
    gradient = oracles.dense_gradients(problem, batch, len(batch))[0]
    assert found.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    unit = gradient / np.linalg.norm(gradient)
    assert found.along_gradient == pytest.approx(unit @ dense @ unit, rel=1e-3, abs=1e-4 * float(np.linalg.norm(dense)))


def test_the_trace_of_a_diagonal_is_exact_after_any_probe() -> None:
    values = torch.linspace(-1, 3, 50, dtype=torch.float64)
    found = estimate_curvature(Dense(torch.diag(values), torch.ones(50)), np.random.default_rng(0))
    assert found.n_probes == 4
    assert found.trace.value == pytest.approx(float(values.sum()))
    assert found.trace.stderr == pytest.approx(0, abs=1e-12)
    assert found.frobenius_norm.value == pytest.approx(float(values.norm()))


def test_standard_errors_are_honest() -> None:
    """Over repeats, (estimate - truth) / stderr has unit spread: few lie beyond two, and not none."""
    operator = random_symmetric(60, 0)
    truth = float(operator.matrix.trace())
    scores = []
    for repeat in range(300):
        found = estimate_curvature(operator, Streams(repeat).generator("probes"), relative_error=1e-9, max_probes=40)
        scores.append((found.trace.value - truth) / found.trace.stderr)
    assert abs(np.mean(scores)) < 4 / np.sqrt(300)
    assert np.std(scores) == pytest.approx(1.03, abs=0.17)  # Student t with 39 degrees of freedom


def test_probing_stops_when_the_trace_is_known() -> None:
    operator = random_symmetric(60, 1)
    loose, tight = (
        estimate_curvature(operator, np.random.default_rng(0), relative_error=e, max_probes=4000) for e in (0.3, 0.1)
    )
    assert loose.n_probes < tight.n_probes < 4000
    for found, error in ((loose, 0.3), (tight, 0.1)):
        assert found.trace.stderr <= error * max(abs(found.trace.value), found.frobenius_norm.value)
    assert tight.n_probes < 2 * 2 / 0.1**2


def test_quadratic_is_seen_as_the_predictions_need_it() -> None:
    problem = QuadraticProblem(np.linspace(0.1, 2.0, 12))
    batch = CASES["quadratic"].batch(problem, 8)
    found = estimate_curvature(
        HessianOperator(problem, batch), np.random.default_rng(0), relative_error=0.02
    ).curvature()
    assert found.trace == pytest.approx(np.linspace(0.1, 2.0, 12).sum(), rel=0.1)
    gradient = problem.exact_gradient(batch)
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert found.along_gradient == pytest.approx(float(gradient @ problem.hessian @ gradient / gradient.norm() ** 2))


def test_bad_input_and_bad_products_are_refused() -> None:
    operator = random_symmetric(4, 0)
    with pytest.raises(InputError, match="above 0"):
        estimate_curvature(operator, np.random.default_rng(0), relative_error=0)
    with pytest.raises(InputError, match="at least 4"):
        estimate_curvature(operator, np.random.default_rng(0), max_probes=2)
    broken = Dense(torch.full((4, 4), float("nan")), torch.ones(4))
    with pytest.raises(NonFiniteError, match="probe 1"):
        estimate_curvature(broken, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["transformer_lora", "conv1d"])
def test_products_and_traces_agree_with_hessian_eigenthings(name: str) -> None:
    """Another library's Hessian of the same loss and parameters: products to rounding, traces in standard errors."""
    import hessian_eigenthings

    case = CASES[name]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 8)
    names = set(problem.parameters.names)
    theirs = hessian_eigenthings.HessianOperator(
        problem.model,
        [batch],
        lambda model, batch: problem.loss(batch),
        param_filter=lambda name, parameter: name in names,
        microbatch_unsafe=True,
    )
    ours = HessianOperator(problem, batch)
    vector = torch.from_numpy(Streams(0).generator("vector").standard_normal(problem.parameters.n_params))
    with sdpa_kernel(SDPBackend.MATH):
        expected = theirs.matvec(vector)
        trace = hessian_eigenthings.trace(theirs, num_matvecs=100, method="hutchinson", seed=0)
    assert oracles.relative_error((ours @ vector).numpy(), expected.detach().numpy()) < 1e-9
    found = estimate_curvature(ours, Streams(0).generator("probes"), relative_error=0.05, max_probes=400)
    assert abs(found.trace.value - trace.estimate) < 4 * np.hypot(found.trace.stderr, trace.stderr)
