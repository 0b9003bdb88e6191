"""Training inside a plane: against plain optimizers, closed forms, GaLore written out, and its own resumed self."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lineament.bases import Basis, random_basis
from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import ParameterSpace
from lineament.subspace.moments import carry
from lineament.subspace.optimizer import SubspaceOptimizer
from lineament.subspace.projections import Change, MatrixPlanes

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02, weight_decay=0.3),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.02),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.02),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, centered=True, momentum=0.5),
}


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).to(dtype)


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Another batch at every step."""
    generator = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    inputs = torch.randn(16, 5, generator=generator, dtype=torch.float64).to(dtype)
    return (model(inputs) - inputs[:, :4].square()).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).double() for p in model.parameters()])


def in_plane(model: nn.Module, basis: Basis | MatrixPlanes, name: str = "adamw", **options: Any) -> SubspaceOptimizer:
    space = ParameterSpace.trainable(model)
    return SubspaceOptimizer(OPTIMIZERS[name](space.tensors), basis, space, **options)


def plane(model: nn.Module, rank: int, seed: int = 0) -> Basis:
    return random_basis(ParameterSpace.trainable(model).space, rank, np.random.default_rng(seed))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_space_as_a_basis_is_the_plain_optimizer(name: str) -> None:
    plain, inside = network(), network()
    space = ParameterSpace.trainable(inside).space
    identity = Basis(torch.eye(space.n_params, dtype=torch.float64), space, "identity")
    train(plain, OPTIMIZERS[name](plain.parameters()), range(12))
    train(inside, in_plane(inside, identity, name), range(12))
    assert (weights(plain) - weights(network())).abs().max() > 0.05
    torch.testing.assert_close(weights(inside), weights(plain), rtol=0, atol=1e-12)


def test_gradient_descent_in_a_basis_is_projected_gradient_descent() -> None:
    model, by_hand = network(), network()
    basis, space = plane(model, 6), ParameterSpace.trainable(by_hand)
    optimizer = in_plane(model, basis, "sgd")
    for step in range(8):
        gradient = space.gradient(loss_of(by_hand, step))
        space.write(space.read() - 0.1 * basis.columns @ (basis.columns.T @ gradient))
    train(model, optimizer, range(8))
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=0, atol=1e-13)
    moved = weights(model) - weights(network())
    torch.testing.assert_close(basis.columns @ optimizer.coefficients, moved, rtol=0, atol=1e-13)


def test_on_a_quadratic_training_in_eigenvectors_reaches_the_closed_form() -> None:
    """L = theta'H theta / 2 from theta_0: in the plane of eigenvectors each coordinate shrinks by (1 - lr value)^t."""
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))
    values = torch.linspace(0.1, 1.7, 9, dtype=torch.float64)
    model = nn.Linear(9, 1, bias=False).double()
    space = ParameterSpace.trainable(model)
    start, columns = space.read(), q[:, [0, 4, 8]]
    optimizer = in_plane(model, Basis(columns, space.space, "eigenvectors"), "sgd")
    for _ in range(20):
        optimizer.zero_grad()
        theta = model.weight[0]
        (0.5 * theta @ (q * values) @ q.T @ theta).backward()
        optimizer.step()
    shrunk = (1 - 0.1 * values[[0, 4, 8]]) ** 20 - 1
    torch.testing.assert_close(space.read(), start + columns @ (shrunk * (columns.T @ start)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_planes_of_matrices_are_galore(name: str) -> None:
    """The method written out: SVD of each gradient, Adam on the projected one, the step projected back."""
    model, by_hand, rank, every = network(), network(), 2, 5
    optimizer = SubspaceOptimizer(
        torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
        if name == "adamw"
        else torch.optim.SGD(model.parameters(), lr=0.1),
        MatrixPlanes(rank),
        ParameterSpace.trainable(model),
        refresh=every if name == "sgd" else None,
    )
    train(model, optimizer, range(12))
    kept: dict[str, Any] = {}
    for step in range(12):
        by_hand.zero_grad()
        loss_of(by_hand, step).backward()
        for key, p in by_hand.named_parameters():
            assert p.grad is not None
            matrix = p.ndim == 2
            if matrix and (key not in kept or (name == "sgd" and step % every == 0)):
                u, _, vh = torch.linalg.svd(p.grad, full_matrices=False)
                kept[key] = vh[:rank].T if p.shape[0] >= p.shape[1] else u[:, :rank]
            right = matrix and p.shape[0] >= p.shape[1]
            small = p.grad if not matrix else p.grad @ kept[key] if right else kept[key].T @ p.grad
            update = 0.1 * small
            if name == "adamw":
                m, v = kept.get(f"{key} moments", (0.0, 0.0))
                m, v = 0.9 * m + 0.1 * small, 0.999 * v + 0.001 * small.square()
                kept[f"{key} moments"] = m, v
                update = 0.02 * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            p.data -= update if not matrix else update @ kept[key].T if right else kept[key] @ update
    assert optimizer.refreshes == ([5, 10] if name == "sgd" else [])
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=0, atol=1e-9)
    moved = model[0].weight.detach() - network()[0].weight.detach()
    assert torch.linalg.matrix_rank(moved, atol=1e-9) == (rank if name == "adamw" else 5)


@pytest.mark.parametrize("name", ["momentum", "adamw", "nadam", "radam", "rmsprop"])
def test_a_refresh_that_turns_nothing_changes_nothing(name: str) -> None:
    """The same columns, and the same columns in another order and sign: these methods do not see the difference."""
    start = network()
    basis = plane(start, 6)
    order, signs = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([1.0, -1, 1, -1, -1, 1])
    turned = Basis(basis.columns[:, order] * signs, basis.space, "turned")
    stays, same, other = network(), network(), network()
    train(stays, in_plane(stays, basis, name), range(12))
    train(same, in_plane(same, basis, name, refresh=4, fresh=lambda: basis), range(12))
    train(other, in_plane(other, basis, name, refresh=5, fresh=lambda: turned), range(12))
    torch.testing.assert_close(weights(same), weights(stays), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights(other), weights(stays), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fill", [False, True])
def test_moments_in_a_plane_that_turned_follow_the_stated_rule(fill: bool) -> None:
    model = network()
    old, new = plane(model, 4, seed=1), plane(model, 4, seed=2)
    optimizer = in_plane(model, old, "adam", refresh=6, fresh=lambda: new, fill_unseen=fill)
    train(model, optimizer, range(6))
    ((before,),) = [[copy.deepcopy(state) for state in optimizer.inner.state.values()]]
    optimizer._refresh([p.grad for p in model.parameters()])
    (after,) = optimizer.inner.state.values()
    q = new.columns.T @ old.columns
    mean, second = before["exp_avg"] / (1 - 0.9**6), before["exp_avg_sq"] / (1 - 0.999**6)
    expected = [
        sum(q[i, j] ** 2 * (second[j] - mean[j] ** 2) for j in range(4)) + sum(q[i, j] * mean[j] for j in range(4)) ** 2
        for i in range(4)
    ]
    unseen = [(1 - q[i].square().sum()) * second.mean() if fill else 0.0 for i in range(4)]
    torch.testing.assert_close(after["exp_avg"], q @ before["exp_avg"], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        after["exp_avg_sq"],
        (1 - 0.999**6) * torch.stack([e.abs() + u for e, u in zip(expected, unseen, strict=True)]),
        rtol=1e-12,
        atol=0,
    )
    assert after["step"] == 6


def test_carried_moments_are_those_that_the_new_plane_would_have_seen() -> None:
    """Independent coordinates in the old plane, drawn: mean and mean square of Q g, within five standard errors."""
    rng = np.random.default_rng(0)
    mean, spread = torch.tensor([1.0, -0.2, 0.0, 3.0]).double(), torch.tensor([0.1, 2.0, 1.0, 0.5]).double()
    drawn = mean + spread * torch.from_numpy(rng.standard_normal((50_000, 4)))
    q = torch.linalg.qr(torch.from_numpy(rng.standard_normal((4, 4))))[0][:3]
    state: dict[str, Any] = {"step": 7, "exp_avg": mean * (1 - 0.9**7)}
    state["exp_avg_sq"] = (mean.square() + spread.square()) * (1 - 0.99**7)
    carry(state, {"betas": (0.9, 0.99)}, Change(q), fill_unseen=True)
    seen = drawn @ q.T
    for found, sample in (
        (state["exp_avg"] / (1 - 0.9**7), seen),
        (state["exp_avg_sq"] / (1 - 0.99**7), seen.square()),
    ):
        error = sample.std(dim=0) / math.sqrt(len(sample))
        assert bool(((found - sample.mean(dim=0)).abs() < 5 * error).all())


@pytest.mark.parametrize("right", [False, True])
def test_steps_keep_their_length_where_the_old_plane_saw_nothing(right: bool) -> None:
    """Gradients of one size, and every 20 steps a plane orthogonal to the last one: Adam's steps stay about lr long."""
    lengths = {}
    for fill in (False, True):
        model = nn.Linear(24, 90, bias=False) if right else nn.Linear(90, 24, bias=False)
        space = ParameterSpace.trainable(model)
        optimizer = SubspaceOptimizer(
            torch.optim.Adam(space.tensors, lr=1e-3), MatrixPlanes(4), space, refresh=20, fill_unseen=fill
        )
        generator, lengths[fill] = torch.Generator().manual_seed(0), []
        for step in range(100):
            gradient = torch.zeros(24, 90)
            gradient[4 * (step // 20) : 4 * (step // 20) + 4] = torch.randn(4, 90, generator=generator)
            model.weight.grad = gradient.T.contiguous() if right else gradient
            before = model.weight.detach().clone()
            optimizer.step()
            if step >= 40:
                lengths[fill].append(float((model.weight.detach() - before).norm()) / (1e-3 * math.sqrt(4 * 90)))
    assert max(lengths[True]) < 1.1
    assert sum(lengths[False]) > 1.5 * sum(lengths[True])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["basis", "refreshed basis", "matrices", "retention"])
def test_a_resumed_training_goes_on_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    def make(model: nn.Module) -> SubspaceOptimizer:
        if kind == "matrices":
            return in_plane(model, MatrixPlanes(2, skip=("2.",)), refresh=4)
        if kind == "retention":
            return in_plane(model, MatrixPlanes(2), refresh="retention")
        fresh = (lambda: plane(model, 6, seed=5)) if kind == "refreshed basis" else None
        return in_plane(model, plane(model, 6), fresh=fresh, refresh=7 if fresh else None)

    whole, first, second = network(dtype=dtype), network(dtype=dtype), network(1, dtype=dtype)
    one, two, three = make(whole), make(first), make(second)
    train(whole, one, range(40))
    train(first, two, range(18))
    state = copy.deepcopy(two.state_dict())
    second.load_state_dict(first.state_dict())
    three.load_state_dict(state)
    train(second, three, range(18, 40))
    assert torch.equal(weights(second), weights(whole))
    assert three.refreshes == one.refreshes
    assert bool(one.refreshes) == (kind != "basis")


def test_narrow_weights_do_not_lose_small_steps() -> None:
    """In bfloat16 a step of 1e-5 is less than half a unit of every weight; the sum of 2,000 is not."""
    model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 0.5)
    space = ParameterSpace.trainable(model)
    column = torch.full((16, 1), 0.25, dtype=torch.float64)
    optimizer = SubspaceOptimizer(torch.optim.SGD(space.tensors, lr=1e-5), Basis(column, space.space, "mean"), space)
    for _ in range(2000):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    assert optimizer.coefficients.item() == pytest.approx(-2000 * 1e-5 * 4)
    assert model.weight.float().mean().item() == pytest.approx(0.5 - 0.02, rel=4e-3)


def test_a_closure_is_called_once_and_schedulers_act() -> None:
    model, other = network(), network()
    one, two = in_plane(model, plane(model, 6)), in_plane(other, plane(other, 6))
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        one.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss.detach()

    schedule = torch.optim.lr_scheduler.LambdaLR(two, lambda step: 0.0 if step else 1.0)
    assert one.step(closure) == pytest.approx(loss_of(network(), 0).item())
    train(other, two, range(1))
    assert len(calls) == 1
    assert torch.equal(weights(model), weights(other))
    schedule.step()
    stood = weights(other)
    train(other, two, range(1, 3))
    assert torch.equal(weights(other), stood)


def test_accumulated_and_clipped_gradients_are_those_of_the_parameters() -> None:
    model, other = network(), network()
    one, two = in_plane(model, plane(model, 6), "sgd"), in_plane(other, plane(other, 6), "sgd")
    for micro in range(2):
        (loss_of(model, micro) / 2).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    one.step()
    ((loss_of(other, 0) + loss_of(other, 1)) / 2).backward()
    nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    two.step()
    torch.testing.assert_close(weights(model), weights(other), rtol=0, atol=1e-14)
    assert (weights(model) - weights(network())).norm() < 0.01  # lr 0.1 times a gradient of norm 0.1


def test_weight_decay_shrinks_what_lies_in_the_planes() -> None:
    model = nn.Linear(6, 9, bias=False).double()
    space = ParameterSpace.trainable(model)
    sgd = torch.optim.SGD(space.tensors, lr=0.1, weight_decay=0.5)
    optimizer = SubspaceOptimizer(sgd, MatrixPlanes(2), space, refresh=2)
    generator, weight = torch.Generator().manual_seed(0), model.weight.detach().clone()
    for step in range(4):
        gradient = torch.randn(9, 6, generator=generator, dtype=torch.float64)
        if step % 2 == 0:
            right = torch.linalg.svd(gradient)[2][:2].T
        model.weight.grad = gradient
        optimizer.step()
        weight -= 0.1 * (gradient + 0.5 * weight) @ right @ right.T
    torch.testing.assert_close(model.weight.detach(), weight, rtol=0, atol=1e-12)


def test_planes_keep_the_groups_of_their_tensors_and_the_given_optimizer_as_it_was() -> None:
    model = network()
    names = [(name, p) for name, p in model.named_parameters() if "weight" in name]
    others = [(name, p) for name, p in model.named_parameters() if "weight" not in name]
    given = torch.optim.Adam([{"params": names, "lr": 0.1}, {"params": others, "lr": 0.0}])
    optimizer = SubspaceOptimizer(given, MatrixPlanes(2), ParameterSpace.trainable(model))
    train(model, optimizer, range(3))
    for name, p in model.named_parameters():
        assert torch.equal(p, network().get_parameter(name)) == ("bias" in name)
    optimizer.param_groups[1]["lr"] = 0.1
    train(model, optimizer, range(3, 5))
    assert not torch.equal(model[0].bias, network()[0].bias)
    assert not given.state
    assert given.param_groups[1]["lr"] == 0.0
    assert [p for group in given.param_groups for p in group["params"]] == [p for _, p in [*names, *others]]


BAD: dict[str, tuple[Callable[[nn.Module, ParameterSpace], Any], str]] = {
    "another optimizer's tensors": (
        lambda m, s: SubspaceOptimizer(torch.optim.SGD(s.tensors[:1], lr=1), plane(m, 2), s),
        "lacks 3",
    ),
    "L-BFGS": (lambda m, s: SubspaceOptimizer(torch.optim.LBFGS(s.tensors), plane(m, 2), s), "L-BFGS"),
    "state made in advance": (
        lambda m, s: SubspaceOptimizer(torch.optim.Adagrad(s.tensors), plane(m, 2), s),
        "has a state",
    ),
    "groups": (
        lambda m, s: SubspaceOptimizer(
            torch.optim.SGD([{"params": s.tensors[:2]}, {"params": s.tensors[2:]}], lr=1), plane(m, 2), s
        ),
        "2 parameter groups",
    ),
    "no fresh": (lambda m, s: in_plane(m, plane(m, 2), refresh=3), "give `fresh`"),
    "refresh 0": (lambda m, s: in_plane(m, MatrixPlanes(2), refresh=0), "refresh is 0"),
    "refresh True": (lambda m, s: in_plane(m, MatrixPlanes(2), refresh=True), "refresh is True"),
    "unknown state": (
        lambda m, s: SubspaceOptimizer(torch.optim.Adamax(s.tensors), MatrixPlanes(2), s, refresh=3),
        "Adamax",
    ),
    "amsgrad": (
        lambda m, s: SubspaceOptimizer(torch.optim.Adam(s.tensors, amsgrad=True), MatrixPlanes(2), s, refresh=3),
        "amsgrad",
    ),
    "columns of length 2": (
        lambda m, s: in_plane(m, Basis(2 * plane(m, 2).columns, s.space, "long")),
        "'long' are not orthonormal",
    ),
    "columns of NaN": (
        lambda m, s: in_plane(m, Basis(math.nan * plane(m, 2).columns, s.space, "lost")),
        "'lost' are not orthonormal",
    ),
    "rank 0": (lambda m, s: MatrixPlanes(0), "at least 1"),
    "rank of everything": (lambda m, s: in_plane(m, MatrixPlanes(7)), "none of the 4 tensors"),
    "a group more": (
        lambda m, s: in_plane(m, MatrixPlanes(2)).add_param_group({"params": [torch.zeros(2)]}),
        "is fixed",
    ),
    "scheduler inside": (
        lambda m, s: SubspaceOptimizer(
            torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(s.tensors, lr=1)).optimizer, plane(m, 2), s
        ),
        "scheduler",
    ),
    "state of another basis": (
        lambda m, s: in_plane(m, plane(m, 2)).load_state_dict(in_plane(m, plane(m, 2, seed=1)).state_dict()),
        "began in a basis",
    ),
    "state of planes": (
        lambda m, s: in_plane(m, plane(m, 2)).load_state_dict(in_plane(m, MatrixPlanes(2)).state_dict()),
        "planes of matrices",
    ),
    "state of a plain optimizer": (
        lambda m, s: in_plane(m, plane(m, 2)).load_state_dict(torch.optim.SGD(s.tensors).state_dict()),
        "no state of a SubspaceOptimizer",
    ),
    "state of another rank": (
        lambda m, s: in_plane(m, MatrixPlanes(2)).load_state_dict(in_plane(m, MatrixPlanes(3)).state_dict()),
        "shapes",
    ),
    "coefficients of matrices": (lambda m, s: in_plane(m, MatrixPlanes(2)).coefficients, "have none"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_words(case: str) -> None:
    do, words = BAD[case]
    model = network()
    before = weights(model)
    with pytest.raises(InputError, match=words):
        do(model, ParameterSpace.trainable(model))
    assert torch.equal(weights(model), before)


def test_a_basis_of_another_model_is_refused() -> None:
    other = nn.Linear(3, 3).double()
    with pytest.raises(SpaceMismatchError):
        in_plane(network(), plane(other, 2))
