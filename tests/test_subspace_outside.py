"""Training inside a plane when others act on the model: weights written, moved, cast, frozen or wrapped meanwhile."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stand_in_device import DEVICE, OnDevice, stand_in_device
from test_subspace import OPTIMIZERS, in_plane, loss_of, network, plane, train, weights
from torch import Tensor, nn

from lineament.errors import InputError, NonFiniteError
from lineament.parameters import ParameterSpace
from lineament.subspace.optimizer import SubspaceOptimizer
from lineament.subspace.projections import MatrixPlanes

KINDS: dict[str, Callable[[nn.Module], Any]] = {"basis": lambda m: plane(m, 6), "matrices": lambda m: MatrixPlanes(2)}


def loaded(model: nn.Module, other: nn.Module) -> None:
    model.load_state_dict(other.state_dict())


def through_data(model: nn.Module, other: nn.Module) -> None:
    """As averages of weights are often swapped in; torch counts no version then."""
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.data.copy_(q.data)


def replaced(model: nn.Module, other: nn.Module) -> None:
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        p.data = q.data.clone()


@pytest.mark.parametrize("write", [loaded, through_data, replaced])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_others_write_stay_written(kind: str, write: Callable[..., None], dtype: torch.dtype) -> None:
    """A checkpoint that is loaded after the optimizer was made: it goes on as one made of the loaded model."""
    first, second = network(dtype=dtype), network(1, dtype=dtype)
    planes = KINDS[kind](first)
    early, late = in_plane(first, planes, "adamw"), in_plane(second, planes, "adamw")  # with weight decay
    write(first, second)
    assert torch.equal(weights(first), weights(second))
    train(first, early, range(3))
    train(second, late, range(3))
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_sees_the_weights_as_they_are(kind: str) -> None:
    model = network()
    optimizer = in_plane(model, KINDS[kind](model), "adamw")
    train(model, optimizer, range(2))
    for p in model.parameters():
        p.data.zero_()
        optimizer.inner.state.clear()
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert not weights(model).any()


def test_a_clamp_in_the_loop_holds_and_loses_no_small_step() -> None:
    """In bfloat16: what is clamped stays so, and what is not keeps the digits that its weight cannot hold."""
    model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 0.5)
    space = ParameterSpace.trainable(model)
    optimizer = SubspaceOptimizer(torch.optim.SGD(space.tensors, lr=1e-5), MatrixPlanes(1), space)
    for _ in range(2000):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        with torch.no_grad():
            model.weight[0].clamp_(0.25, 0.25)
    assert torch.equal(model.weight[0], torch.full((4,), 0.25, dtype=torch.bfloat16))
    assert model.weight[1:].float().mean().item() == pytest.approx(0.5 - 0.02, rel=4e-3)


def test_the_order_of_loading_weights_and_state_does_not_matter() -> None:
    ends = []
    for state_first in (False, True):
        whole, again = network(dtype=torch.bfloat16), network(1, dtype=torch.bfloat16)
        optimizer = in_plane(whole, MatrixPlanes(2))
        train(whole, optimizer, range(5))
        state, other = copy.deepcopy(optimizer.state_dict()), in_plane(again, MatrixPlanes(2))
        if state_first:
            other.load_state_dict(state)
        loaded(again, whole)
        if not state_first:
            other.load_state_dict(state)
        train(again, other, range(5, 9))
        train(whole, optimizer, range(5, 9))
        assert torch.equal(weights(again), weights(whole))
        ends.append(weights(again))
    assert torch.equal(*ends)


def test_a_model_that_is_cast_is_refused() -> None:
    model = network(dtype=torch.float32)
    optimizer = in_plane(model, MatrixPlanes(2))
    model.bfloat16()
    loss_of(model, 0).backward()
    before = weights(model)
    with pytest.raises(InputError, match=r"0\.weight was torch\.float32 .* is torch\.bfloat16 now"):
        optimizer.step()
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_moved_after_its_optimizer_was_made(
    kind: str, dtype: torch.dtype, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers' Trainer and accelerate's `prepare` do it; before the first step, and later."""
    stays, moves = network(dtype=dtype), network(dtype=dtype)
    refresh: dict[str, Any] = {"refresh": 4}
    if kind == "basis":
        refresh["fresh"] = lambda: plane(stays, 6, seed=3)
    one, two = (in_plane(model, KINDS[kind](stays), **refresh) for model in (stays, moves))
    train(stays, one, range(6))
    train(moves, two, range(after))
    moves.zero_grad()
    state = copy.deepcopy(two.state_dict())
    with stand_in_device(monkeypatch):
        moves.to(DEVICE)
        two.load_state_dict(state)  # from the CPU, as a checkpoint is read
        for step in range(after, 6):
            two.zero_grad()
            for p, gradient in zip(moves.parameters(), gradients(moves, step, dtype), strict=True):
                p.grad = gradient.to(DEVICE)
            two.step()
        assert all(isinstance(p, OnDevice) for p in moves.parameters())
        found = torch.cat([p.detach().cpu().reshape(-1).double() for p in moves.parameters()])
    assert two.refreshes == one.refreshes == [4]
    torch.testing.assert_close(found, weights(stays), rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-2)


def gradients(model: nn.Module, step: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Of a model that is elsewhere, computed here."""
    here = network(dtype=dtype)
    for p, q in zip(here.parameters(), model.parameters(), strict=True):
        p.data.copy_(q.detach().cpu())
    return torch.autograd.grad(loss_of(here, step), list(here.parameters()))


def test_following_retention_waits_for_the_device_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_device(monkeypatch) as waits:
        model = network(dtype=torch.float32).to(DEVICE)
        optimizer = in_plane(model, MatrixPlanes(2), "adam", refresh="retention")
        for step in range(6):
            for p in model.parameters():
                p.grad = torch.full_like(p, 1.0 + step)
            optimizer.step()
            if step == 0:
                waits.clear()
        assert waits["subspace/optimizer.py: _energies"] == 5
        assert sum(times for place, times in waits.items() if "subspace/" in place) == 5


def test_tensors_that_were_replaced_are_not_passed_over() -> None:
    model = network()
    optimizer = in_plane(model, MatrixPlanes(2))
    optimizer.step()  # no gradient yet: nothing to do
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    for p in model.parameters():
        p.grad = None
    with pytest.raises(InputError, match=r"another tensor in place of 2\.weight"):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_are_frozen_later_do_not_move(kind: str) -> None:
    model = network()
    optimizer = in_plane(model, KINDS[kind](model))
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    loss_of(model, 0).backward()
    if kind == "basis":
        with pytest.raises(InputError, match=r"0\.weight was frozen"):
            optimizer.step()
    else:
        optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert torch.equal(weights(model), weights(network())) == (kind == "basis")


class Lookahead(torch.optim.Optimizer):
    """As several packages have it: the optimizer inside steps the real tensors."""

    def __init__(self, base: Any, held_as: Callable[[Any], Any] = lambda base: base) -> None:
        super().__init__(base.param_groups, {})
        self.optimizer = held_as(base)

    def step(self, closure: Any = None) -> None:
        """Step what is inside."""
        self.optimizer.step()


class OwnList(torch.optim.SGD):
    """Keeps its tensors in a list of its own."""

    def __init__(self, tensors: Any) -> None:
        super().__init__(tensors, lr=0.1)
        self.flat = {"all": list(tensors)}


def with_step(tensors: Any) -> torch.optim.Optimizer:
    made: Any = torch.optim.SGD(tensors, lr=0.1)
    made.step = made.step
    return made


WRAPPERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], str]] = {
    "an optimizer inside": (lambda t: Lookahead(torch.optim.SGD(t, lr=0.1)), "another optimizer, the SGD in `optim"),
    "several inside": (lambda t: Lookahead(torch.optim.SGD(t, lr=0.1), lambda o: {"a": [o]}), "another optimizer"),
    "a list of tensors": (OwnList, "keeps tensors of the space in `flat`"),
    "a step put on it": (with_step, "`step` that was put on it"),
}


@pytest.mark.parametrize("case", WRAPPERS)
@pytest.mark.parametrize("kind", KINDS)
def test_optimizers_that_would_leave_the_plane_are_refused(case: str, kind: str) -> None:
    make, words = WRAPPERS[case]
    model = network()
    space = ParameterSpace.trainable(model)
    with pytest.raises(InputError, match=words):
        SubspaceOptimizer(make(space.tensors), KINDS[kind](model), space)


def test_weights_that_are_stepped_by_hidden_ways_are_noticed() -> None:
    model = network()
    space = ParameterSpace.trainable(model)

    class Hidden(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            space.tensors[0].mul_(0.5)

    optimizer = SubspaceOptimizer(Hidden(space.tensors, lr=0.1), MatrixPlanes(2), space)
    loss_of(model, 0).backward()
    with pytest.raises(InputError, match="Hidden stepped the weights themselves"):
        optimizer.step()


def test_muon_takes_planes_of_matrices_and_no_list_of_coefficients() -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False))
    space = ParameterSpace.trainable(model)
    with pytest.raises(InputError, match="Muon steps matrices"):
        SubspaceOptimizer(torch.optim.Muon(space.tensors), plane(model, 4), space)
    optimizer = SubspaceOptimizer(torch.optim.Muon(space.tensors), MatrixPlanes(2), space)
    before = weights(model)
    model(torch.ones(3, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(weights(model), before)


@pytest.mark.parametrize("do", [copy.deepcopy, copy.copy, pickle.dumps])
def test_copies_are_refused(do: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match=r"state_dict\(\)"):
        do(in_plane(network(), MatrixPlanes(2)))


def test_a_state_from_before_any_refresh_takes_the_given_plane_again() -> None:
    model = network()
    basis, seeds = plane(model, 4), iter(range(10, 20))
    optimizer = in_plane(model, basis, "adamw", refresh=5, fresh=lambda: plane(model, 4, seed=next(seeds)))
    state, start = copy.deepcopy(optimizer.state_dict()), weights(model)
    train(model, optimizer, range(4))
    first = weights(model)
    train(model, optimizer, range(4, 8))
    assert optimizer.refreshes == [5]
    ParameterSpace.trainable(model).write(start)
    optimizer.load_state_dict(state)
    train(model, optimizer, range(4))
    assert torch.equal(weights(model), first)
    torch.testing.assert_close(basis.columns @ optimizer.coefficients, first - start, rtol=0, atol=1e-12)


def test_a_nan_in_a_later_matrix_leaves_all_planes_as_they_were() -> None:
    model, other = network(), network()
    optimizer, untouched = (in_plane(m, MatrixPlanes(2), refresh=2) for m in (model, other))
    train(model, optimizer, range(2))
    train(other, untouched, range(2))
    optimizer.zero_grad()
    loss_of(model, 2).backward()
    model[2].weight.grad[0, 0] = math.nan
    with pytest.raises(NonFiniteError):
        optimizer.step()
    train(model, optimizer, range(2, 6))
    train(other, untouched, range(2, 6))
    assert torch.equal(weights(model), weights(other))
    assert optimizer.refreshes == untouched.refreshes == [2, 4]


def test_a_due_refresh_waits_for_a_gradient_that_is_not_zero() -> None:
    model = network()
    optimizer = in_plane(model, MatrixPlanes(2), "sgd", refresh=3)
    for step in range(7):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if step == 3:
            for p in model.parameters():
                p.grad.zero_()
        optimizer.step()
    assert optimizer.refreshes == [4]
    train(model, optimizer, range(7, 8))
    assert optimizer.refreshes == [4, 7]


def state_of(model: nn.Module, name: str = "adamw", groups: int = 1) -> dict[str, Any]:
    """The state after a step."""
    space = ParameterSpace.trainable(model)
    optimizer = SubspaceOptimizer(grouped(space, name, groups), MatrixPlanes(2), space)
    train(model, optimizer, range(1))
    return optimizer.state_dict()


def grouped(space: ParameterSpace, name: str, groups: int) -> torch.optim.Optimizer:
    size = len(space.tensors) // groups
    return OPTIMIZERS[name]([{"params": space.tensors[i * size : (i + 1) * size]} for i in range(groups)])


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != key}


STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "float32": (
        lambda: state_of(network(dtype=torch.float32)),
        r"torch\.float32, and here it is torch\.bfloat16",
    ),
    "float16": (lambda: state_of(network(dtype=torch.float16)), r"torch\.float16, and here it is torch\.bfloat16"),
    "SGD": (lambda: state_of(network(dtype=torch.bfloat16), "momentum"), "is a AdamW, and in the state SGD"),
    "groups": (lambda: state_of(network(dtype=torch.bfloat16), groups=2), r"groups of \[2, 2\] tensors"),
    "torn": (lambda: without(state_of(network(dtype=torch.bfloat16)), "masters"), "lacks masters"),
    "other names": (
        lambda: state_of(nn.Sequential(nn.Identity(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).bfloat16()),
        "what is trained is full of 74 parameters",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_of_another_training_changes_nothing(case: str) -> None:
    make, words = STATES[case]
    model, other = network(dtype=torch.bfloat16), network(dtype=torch.bfloat16)
    optimizer, untouched = in_plane(model, MatrixPlanes(2)), in_plane(other, MatrixPlanes(2))
    train(model, optimizer, range(2))
    train(other, untouched, range(2))
    with pytest.raises(InputError, match=words):
        optimizer.load_state_dict(make())
    train(model, optimizer, range(2, 5))
    train(other, untouched, range(2, 5))
    assert torch.equal(weights(model), weights(other))


def test_a_state_of_narrow_weights_is_refused_by_wide_ones() -> None:
    with pytest.raises(InputError, match=r"torch\.bfloat16, and here it is torch\.float32"):
        in_plane(network(dtype=torch.float32), MatrixPlanes(2)).load_state_dict(state_of(network(dtype=torch.bfloat16)))
