"""Losses of several parameter vectors in one pass: each loss and gradient as if its vector alone stood in the model."""

from __future__ import annotations

import pytest
import torch
from problems_table import CASES
from test_population import MODELS, assert_untouched, batch_of, lora_problem, state
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.population.losses import losses_at
from lineament.population.population import Way
from lineament.population.shared_pass import can_share
from lineament.problems.problem import Batch, Problem


def vectors(problem: Problem, n: int = 3) -> nn.Parameter:
    theta = problem.parameters.read()
    noise = torch.randn(n, len(theta), generator=torch.Generator().manual_seed(4))
    return nn.Parameter(theta + 0.05 * noise)


def one_at_a_time(problem: Problem, batch: Batch, thetas: Tensor) -> tuple[Tensor, Tensor]:
    losses, gradients = [], []
    for theta in thetas.detach():
        with problem.parameters.temporarily(theta):
            loss = problem.loss(batch)
            gradients.append(problem.parameters.gradient(loss))
            losses.append(loss.detach())
    return torch.stack(losses), torch.stack(gradients)


def assert_as_one_at_a_time(problem: Problem, batch: Batch, way: Way | None) -> None:
    thetas, before = vectors(problem), state(problem)
    losses = losses_at(problem, batch, thetas, way)
    (gradients,) = torch.autograd.grad(losses.sum(), thetas)
    wanted_losses, wanted = one_at_a_time(problem, batch, thetas)
    assert torch.allclose(losses, wanted_losses, rtol=1e-5)
    assert float((gradients - wanted).norm() / wanted.norm()) < 1e-5
    assert len(set(losses.tolist())) == len(thetas)
    assert_untouched(problem, before)


@pytest.mark.parametrize("name", MODELS)
def test_adapters_share_a_pass(name: str) -> None:
    problem = lora_problem(name)
    assert can_share(problem)
    assert_as_one_at_a_time(problem, batch_of(problem), None)


@pytest.mark.parametrize("way", ["functional", "one_by_one"])
@pytest.mark.parametrize("name", ["transformer_full", "transformer_lora", "gpt2_full"])
def test_other_ways_agree(name: str, way: Way) -> None:
    problem = CASES[name].make()
    assert_as_one_at_a_time(problem, CASES[name].batch(problem, 5), way)


def test_a_loss_that_is_not_finite_leaves_the_others_alone() -> None:
    problem = lora_problem("llama")
    batch, thetas = batch_of(problem), vectors(problem)
    (whole,) = torch.autograd.grad(losses_at(problem, batch, thetas).sum(), thetas)
    with torch.no_grad():
        thetas[1] = float("inf")
    losses = losses_at(problem, batch, thetas)
    (gradients,) = torch.autograd.grad(losses.sum(), thetas)
    assert not losses[1].isfinite()
    assert torch.allclose(gradients[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=1e-7)


def test_an_adapter_that_is_more_than_its_factors_does_not_share_a_pass() -> None:
    problem = lora_problem("llama")
    layer = next(m for m in problem.model.modules() if getattr(m, "use_dora", None))
    layer.use_dora["default"] = True
    assert not can_share(problem)
    assert not can_share(CASES["transformer_full"].make())


def test_a_shared_pass_that_cannot_be_had_is_refused() -> None:
    problem = CASES["transformer_full"].make()
    with pytest.raises(InputError, match="no low rank"):
        losses_at(problem, CASES["transformer_full"].batch(problem, 5), vectors(problem), "shared")
