"""Parameter spaces: round trips, shared tensors, weights given back bit for bit, and spaces kept apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from problems_table import Case, every_problem
from torch import nn

from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import ParameterSpace, Space, Vectors


class Tied(nn.Module):
    """Two names for one tensor, one frozen tensor, and one that no loss touches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(4))


def bits(module: nn.Module) -> list[bytes]:
    """Every parameter's bytes, so that -0.0 and NaN payloads count."""
    return [p.detach().numpy().tobytes() for p in module.parameters()]


@every_problem
def test_what_is_written_is_read_back(case: Case) -> None:
    problem = case.make()
    space = problem.parameters
    theta = torch.from_numpy(np.random.default_rng(0).standard_normal(space.n_params)).to(space.read().dtype)
    space.write(theta)
    assert torch.equal(space.read(), theta)
    named = dict(problem.model.named_parameters())
    flat = torch.cat([named[name].detach().reshape(-1) for name in space.names])
    assert torch.equal(flat, theta)
    assert torch.equal(space.flatten(space.unflatten(theta)), theta)
    assert space.read(torch.float64).dtype == torch.float64


@every_problem
def test_reading_gives_a_copy(case: Case) -> None:
    space = case.make().parameters
    theta = space.read()
    before = theta.clone()
    space.write(theta + 1)
    assert torch.equal(theta, before)


def test_shared_tensors_count_once_and_frozen_ones_not() -> None:
    module = Tied()
    space = ParameterSpace.trainable(module)
    assert space.names == ("idle", "first.weight", "first.bias", "second.bias")
    assert space.n_params == 4 + 6 + 2 + 2
    assert [(part.start, part.stop) for part in space.slices] == [(0, 4), (4, 10), (10, 12), (12, 14)]
    with pytest.raises(InputError, match=r"second\.weight"):
        ParameterSpace(module, ["second.weight"])


def test_gradient_is_zero_where_the_loss_does_not_reach() -> None:
    module = Tied()
    space = ParameterSpace.trainable(module)
    x = torch.ones(3)
    gradient = space.gradient((module.first(x) + 2 * module.second(x)).sum())
    assert torch.equal(gradient, torch.tensor([0.0] * 4 + [3.0] * 6 + [1.0] * 2 + [2.0] * 2))
    assert all(p.grad is None for p in module.parameters())


@every_problem
def test_weights_come_back_bit_for_bit(case: Case) -> None:
    problem = case.make()
    space = problem.parameters
    theta = space.read()
    theta[0] = -0.0
    space.write(theta)
    before = bits(problem.model)
    with space.restored():
        for _ in range(30):
            space.write(space.read() + 1e-4)
    assert bits(problem.model) == before
    with space.temporarily(theta * 2):
        assert bits(problem.model) != before
    assert bits(problem.model) == before


@every_problem
def test_weights_come_back_when_the_body_raises(case: Case) -> None:
    problem = case.make()
    before = bits(problem.model)
    theta = problem.parameters.read()
    with pytest.raises(ZeroDivisionError), problem.parameters.temporarily(theta + 1):
        assert bits(problem.model) != before
        raise ZeroDivisionError
    assert bits(problem.model) == before
    with pytest.raises(KeyboardInterrupt), problem.parameters.restored():
        problem.parameters.write(theta * float("nan"))
        raise KeyboardInterrupt
    assert bits(problem.model) == before
    with pytest.raises(InputError), problem.parameters.temporarily(theta[1:]):
        pytest.fail("a vector of another length was accepted")
    assert bits(problem.model) == before


def test_restoring_survives_nan_weights() -> None:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight[0, 0] = float("nan")
    before = bits(module)
    space = ParameterSpace.trainable(module)
    with space.restored():
        space.write(torch.zeros(6))
    assert bits(module) == before


def test_a_mismatch_names_both_spaces() -> None:
    first, second = ParameterSpace.trainable(nn.Linear(2, 3)).space, ParameterSpace.trainable(nn.Linear(3, 2)).space
    assert first.n_params == 9
    assert second.n_params == 8
    first.require(first)
    with pytest.raises(SpaceMismatchError) as caught:
        first.require(second, "two things")
    message = str(caught.value)
    assert all(part in message for part in ("two things", str(first), str(second), first.layout, second.layout))


def test_kind_and_layout_are_part_of_the_space() -> None:
    one, other = ParameterSpace.trainable(nn.Linear(4, 1)), ParameterSpace.trainable(nn.Linear(4, 1), "lora_factors")
    assert one.space != other.space
    assert one.space == ParameterSpace.trainable(nn.Linear(4, 1)).space
    same_size = nn.Module()
    same_size.vector = nn.Parameter(torch.zeros(5))
    assert ParameterSpace.trainable(same_size).n_params == one.n_params
    assert ParameterSpace.trainable(same_size).space != one.space


def test_a_wrong_shape_does_not_get_past_a_signature() -> None:
    """What makes the axes in signatures true: every test checks them."""
    space = ParameterSpace.trainable(nn.Linear(2, 2))
    with pytest.raises(TypeCheckError, match="n_params"):
        space.write(torch.zeros(2, 3))


@pytest.mark.usefixtures("own_shape_errors")
def test_wrong_shapes_and_empty_spaces_are_refused() -> None:
    module = nn.Linear(2, 2)
    space = ParameterSpace.trainable(module)
    with pytest.raises(InputError, match="does not fit"):
        space.write(torch.zeros(5))
    with pytest.raises(InputError, match="does not fit"):
        space.unflatten(torch.zeros(1, 6))
    with pytest.raises(InputError, match="was given no name"):
        ParameterSpace(module, [])
    with pytest.raises(InputError, match="meta"):
        ParameterSpace.trainable(nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match="do not fit"):
        Vectors(torch.zeros(6), Space("full", 6, "x"))
    with pytest.raises(InputError, match="do not fit"):
        Vectors(torch.zeros(2, 5), Space("full", 6, "x"))
    assert len(Vectors(torch.zeros(3, 6), space.space)) == 3
