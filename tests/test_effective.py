"""Inner products of dW from the factors against the materialised matrices, and their gauge."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import oracles
import pytest
import torch
from problems_table import CASES
from torch import Tensor, nn

from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import ParameterSpace, Space
from lineament.problems.adapters import FactorPair, attach_lora, factor_pairs
from lineament.problems.problem import Problem
from lineament.settings import LoraSettings
from lineament.vectors.effective import effective_space, position_gram, update_gram


def materialised(pairs: list[FactorPair], theta: Tensor) -> np.ndarray:
    """All dW of one adapter, flat."""
    parts = []
    for pair in pairs:
        a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
        parts.append((pair.scale * b @ a).numpy().ravel())
    return np.concatenate(parts)


def drawn(problem: Problem, n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, problem.space.n_params)))


def regauged(pairs: list[FactorPair], theta: Tensor, seed: int) -> Tensor:
    """(A, B) -> (R A, B R^-1) with an own random R for every pair."""
    moved, generator = theta.clone(), np.random.default_rng(seed)
    for pair in pairs:
        rank = pair.a_shape[0]
        r = torch.from_numpy(generator.standard_normal((rank, rank)) + 3 * np.eye(rank))
        moved[pair.a] = (r @ theta[pair.a].view(pair.a_shape)).ravel()
        moved[pair.b] = (theta[pair.b].view(pair.b_shape) @ torch.linalg.inv(r)).ravel()
    return moved


lora_problems = pytest.mark.parametrize("name", ["transformer_lora", "llama_lora"])


@lora_problems
def test_position_gram_equals_materialised_inner_products(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.space), drawn(problem, 5)
    dense = np.stack([materialised(pairs, theta) for theta in thetas])
    assert oracles.relative_error(position_gram(pairs, thetas), dense @ dense.T) < 1e-12


@lora_problems
def test_update_gram_is_that_of_differences_of_dw(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.space), drawn(problem, 6)
    updates = np.diff(np.stack([materialised(pairs, theta) for theta in thetas]), axis=0)
    found = update_gram(pairs, thetas)
    assert found.n_steps == 5
    assert oracles.relative_error(found.gram, updates @ updates.T) < 1e-12
    assert (found.space.kind, found.space.n_params) == ("lora_effective", updates.shape[1])


@lora_problems
def test_the_gauge_moves_factor_cosines_and_leaves_dw_alone(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.space), drawn(problem, 3)
    moved = torch.stack([regauged(pairs, theta, seed) for seed, theta in enumerate(thetas)])
    before, after = position_gram(pairs, thetas), position_gram(pairs, moved)
    assert oracles.relative_error(after, before) < 1e-10
    factors = np.corrcoef(thetas.numpy()), np.corrcoef(moved.numpy())
    assert np.abs(factors[1] - factors[0]).max() > 0.01
    assert oracles.relative_error(moved.numpy(), thetas.numpy()) > 0.1


def test_dw_is_what_the_model_adds() -> None:
    """The scale and the order of the factors are PEFT's: logits equal those with the weights merged."""
    case = CASES["transformer_lora"]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 3)
    adapted = problem.logits(batch)
    theta, layers = problem.space.read(), dict(problem.model.named_modules())
    for pair in factor_pairs(problem.space):
        base: nn.Linear = layers[pair.module].base_layer
        delta = pair.scale * theta[pair.b].view(pair.b_shape) @ theta[pair.a].view(pair.a_shape)
        assert delta.shape == base.weight.shape
        with torch.no_grad():
            base.weight += delta
    problem.space.write(torch.zeros_like(theta))
    assert torch.allclose(problem.logits(batch), adapted, atol=1e-12)
    assert not torch.allclose(CASES["transformer_full"].make().logits(batch).double(), adapted)


def test_every_factor_belongs_to_exactly_one_pair() -> None:
    space = CASES["transformer_lora"].make().space
    covered = np.zeros(space.n_params)
    for pair in factor_pairs(space):
        assert pair.scale == 2.0
        covered[pair.a] += 1
        covered[pair.b] += 1
    assert (covered == 1).all()


def test_adapters_of_other_ranks_share_the_space_of_dw_and_other_modules_do_not() -> None:
    def space(rank: int, target: str) -> Space:
        model = attach_lora(
            nn.Sequential(OrderedDict(a=nn.Linear(3, 5), b=nn.Linear(3, 5))), LoraSettings(rank), 0, [target]
        )
        return effective_space(factor_pairs(ParameterSpace.trainable(model, "lora_factors")))

    assert space(1, "a") == space(4, "a")
    assert space(1, "a").n_params == 15
    with pytest.raises(SpaceMismatchError):
        space(1, "a").require(space(1, "b"))


def test_a_space_without_factors_is_refused() -> None:
    with pytest.raises(InputError, match="no LoRA factors"):
        factor_pairs(ParameterSpace.trainable(nn.Linear(2, 2)))
