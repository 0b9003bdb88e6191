"""Group gradients, their Gram matrix and Hessian products against autograd in dense float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from problems_table import (
    CASES,
    Case,
    QuadraticProblem,
    conv1d,
    every_problem,
    hooked_problems,
    one_pass_problems,
    padded_problems,
)
from torch import nn

from lineament.errors import InputError
from lineament.problems.problem import Batch, Problem
from lineament.vectors import gradients, layer_gradients
from lineament.vectors.gradients import gradient_gram, group_gradients, mean_gradient
from lineament.vectors.hessian import HessianOperator
from lineament.vectors.layer_gradients import GroupGradient, has_unknown_layers


def hooks_on(model: nn.Module) -> int:
    """Number of hooks of any kind on any module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def widened(batch: Batch, width: int) -> Batch:
    """The same examples with `width` more columns of padding."""
    pad = nn.functional.pad
    return replace(
        batch, input_ids=pad(batch.input_ids, (0, width)), attention_mask=pad(batch.attention_mask, (0, width))
    )


@every_problem
@pytest.mark.parametrize("group_size", [1, 4])
def test_group_gradients_and_gram_equal_the_dense_loop(case: Case, group_size: int) -> None:
    problem = case.make()
    batch = case.batch(problem, 4 * group_size)
    rows = group_gradients(problem, batch, group_size).rows.double().numpy()
    gram = gradient_gram(problem, batch, group_size)
    assert gram.dtype == torch.float64
    problem.model.double()
    dense = oracles.dense_gradients(problem, batch, group_size)
    true = dense @ dense.T
    assert np.linalg.norm(dense, axis=1).min() > 0
    assert oracles.relative_error(rows, dense) < 1e-5
    assert oracles.relative_error(gram.numpy(), true) < 1e-5
    eigenvalues = np.linalg.eigvalsh(true)
    assert np.abs(np.linalg.eigvalsh(gram.numpy()) - eigenvalues).max() < 1e-5 * eigenvalues[-1]


@every_problem
def test_gradients_in_float64_are_exact(case: Case) -> None:
    """At double precision only rounding is left, so a small systematic error cannot hide below 1e-5."""
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 6)
    found = group_gradients(problem, batch, 2).rows
    assert found.dtype == torch.float64
    assert oracles.relative_error(found.numpy(), oracles.dense_gradients(problem, batch, 2)) < 1e-12


@every_problem
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_gradients_do_not_depend_on_the_chunk_size(case: Case, chunk: int) -> None:
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 12)
    whole = group_gradients(problem, batch, 2).rows.numpy()
    problem.chunk = chunk
    assert oracles.relative_error(group_gradients(problem, batch, 2).rows.numpy(), whole) < 1e-12


@padded_problems
def test_gradients_do_not_depend_on_padding(case: Case) -> None:
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 6)
    longer = widened(batch, 5)
    assert longer.input_ids.shape[1] == batch.input_ids.shape[1] + 5
    # The pass itself sees the padding here; group_gradients would cut it off first.
    assert oracles.relative_error(gradient_gram(problem, longer).numpy(), gradient_gram(problem, batch).numpy()) < 1e-12
    assert torch.allclose(problem.example_losses(longer), problem.example_losses(batch), rtol=1e-12)


@padded_problems
def test_joining_with_longer_examples_changes_no_gradient(case: Case) -> None:
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 8)
    lengths = batch.attention_mask.sum(dim=1)
    short, long = batch.rows(lengths < lengths.max()), batch.rows(lengths == lengths.max())
    assert short.input_ids.shape[1] < long.input_ids.shape[1]
    alone = group_gradients(problem, short).rows
    together = group_gradients(problem, Batch.join([short, long])).rows[: len(short)]
    assert oracles.relative_error(together.numpy(), alone.numpy()) < 1e-12


@hooked_problems
def test_hooks_and_grad_are_left_as_they_were(case: Case) -> None:
    problem = case.make()
    batch = case.batch(problem, 4)
    before = hooks_on(problem.model)
    group_gradients(problem, batch)
    gradient_gram(problem, batch)
    mean_gradient(problem, batch)
    HessianOperator(problem, batch)
    assert hooks_on(problem.model) == before
    assert all(p.grad is None for p in problem.model.parameters())


@hooked_problems
def test_hooks_are_removed_when_the_loss_raises(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = case.make()
    before, during = hooks_on(problem.model), []

    def broken(batch: Batch) -> torch.Tensor:
        problem.logits(batch)
        during.append(hooks_on(problem.model))
        raise RuntimeError("in the loss")

    monkeypatch.setattr(problem, "example_losses", broken)
    with pytest.raises(RuntimeError, match="in the loss"):
        gradient_gram(problem, case.batch(problem, 4))
    assert hooks_on(problem.model) == before
    if case.one_pass:  # otherwise the hooks may give up before the loss is reached
        assert during[0] > before


@pytest.mark.parametrize(("n", "tokens", "d_out", "d_in"), [(3, 2, 5, 7), (5, 30, 2, 3), (1, 1, 1, 1), (4, 6, 4, 4)])
def test_both_ways_to_a_gram_agree(n: int, tokens: int, d_out: int, d_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(n * tokens)
    left = torch.randn(n, tokens, d_out, generator=generator, dtype=torch.float64)
    right = torch.randn(n, tokens, d_in, generator=generator, dtype=torch.float64)
    dense = np.stack([(left[i].T @ right[i]).numpy().ravel() for i in range(n)])
    gradient = GroupGradient(left, right)
    assert np.allclose(gradient.dense().numpy(), dense)
    for materialise in (True, False):
        monkeypatch.setattr(GroupGradient, "_materialise", lambda self, way=materialise: way)
        assert np.allclose(gradient.gram().numpy(), dense @ dense.T)


def test_the_cheaper_way_is_chosen() -> None:
    """Short sequences through a wide layer: inner products; long ones through a narrow layer: materialise."""
    wide = GroupGradient(torch.zeros(4, 2, 300), torch.zeros(4, 2, 300))
    narrow = GroupGradient(torch.zeros(4, 200, 2), torch.zeros(4, 200, 300))
    assert not wide._materialise()
    assert narrow._materialise()


def test_group_size_must_divide_the_batch() -> None:
    case = CASES["quadratic"]
    problem = case.make()
    with pytest.raises(InputError, match="7 examples"):
        group_gradients(problem, case.batch(problem, 7), 4)


class RunningMean(nn.Module):
    """A layer the hooks do not know, with a parameter of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


def test_unsupported_layers_fall_back_to_one_group_at_a_time() -> None:
    problem, case = conv1d(norm=lambda: RunningMean(12)), CASES["conv1d"]
    problem.model.double()
    batch = case.batch(problem, 6)
    assert has_unknown_layers(problem.parameters)
    dense = oracles.dense_gradients(problem, batch, 2)
    assert oracles.relative_error(group_gradients(problem, batch, 2).rows.numpy(), dense) < 1e-12
    assert oracles.relative_error(gradient_gram(problem, batch, 2).numpy(), dense @ dense.T) < 1e-12


class Twice(nn.Module):
    """One layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.square(torch.tanh(self.square(x)))


def test_a_layer_that_is_used_twice_counts_both_uses() -> None:
    require_exact(conv1d(norm=Twice))


def test_a_norm_over_two_axes_is_left_to_autograd() -> None:
    """Its weight is a matrix, one entry per position and feature."""
    problem = conv1d(norm=lambda: nn.Sequential(nn.Unflatten(2, (3, 4)), nn.LayerNorm((3, 4)), nn.Flatten(2)))
    require_exact(problem)


def require_exact(problem: Problem, n: int = 6, group_size: int = 1) -> None:
    """Both ways equal one autograd call per group, in float64."""
    problem.model.double()
    batch = CASES["conv1d"].batch(problem, n)
    dense = oracles.dense_gradients(problem, batch, group_size)
    assert oracles.relative_error(group_gradients(problem, batch, group_size).rows.numpy(), dense) < 1e-12
    assert oracles.relative_error(gradient_gram(problem, batch, group_size).numpy(), dense @ dense.T) < 1e-12


def test_as_many_positions_as_examples_are_not_taken_for_examples() -> None:
    """The sum over positions is the sum over examples: only the layer's behaviour on another batch tells them apart."""
    problem = CASES["shared_positions"].make()
    batch = CASES["shared_positions"].batch(problem, 7)
    assert batch.input_ids.shape == (7, 7)
    require_exact(problem, 7)


def test_an_output_that_a_hook_changes_is_noticed() -> None:
    problem = CASES["conv1d"].make()
    problem.model.first.register_forward_hook(lambda module, inputs, output: 3 * output)
    require_exact(problem, group_size=2)


@pytest.mark.parametrize("reader", ["_linear", "_conv1d", "_embedding", "_layer_norm"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_layer_read_wrongly_by_a_thousandth_is_noticed(
    reader: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = getattr(layer_gradients, reader)

    def wrong(*args: object) -> dict[str, GroupGradient]:
        found = read(*args)
        if name in found:
            found[name] = GroupGradient(None, None, 1.001 * found[name].dense())
        return found

    monkeypatch.setattr(layer_gradients, reader, wrong)
    require_exact(conv1d(norm=lambda: nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12))), group_size=2)


def test_layers_called_by_keyword_or_outside_the_graph_are_differentiated_all_the_same() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.by_keyword = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                frozen = self.seen(x)
            return frozen + (self.by_keyword(input=x) if self.use_keyword else self.seen(x))

    for use_keyword in (False, True):
        Odd.use_keyword = use_keyword
        require_exact(conv1d(norm=Odd))


@one_pass_problems
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [6, 200])
def test_the_check_raises_no_false_alarm(
    case: Case, dtype: torch.dtype, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that is right but rejected would be repeated group by group, many times slower."""

    def refuse(*args: object) -> torch.Tensor:
        raise AssertionError("went on group by group")

    monkeypatch.setattr(gradients, "_one_group_at_a_time", refuse)
    problem = case.make()
    problem.model.to(dtype)
    batch = case.batch(problem, n)
    group_gradients(problem, batch, 2)
    gradient_gram(problem, batch, 2)


def test_padding_index_of_an_embedding_gets_no_gradient() -> None:
    problem, case = CASES["conv1d"].make(), CASES["conv1d"]
    problem.model.embed.padding_idx = 3
    problem.model.double()
    batch = case.batch(problem, 6)
    assert (batch.input_ids == 3).any()
    dense = oracles.dense_gradients(problem, batch)
    assert oracles.relative_error(group_gradients(problem, batch).rows.numpy(), dense) < 1e-12


@every_problem
def test_mean_gradient_weights_unequal_chunks_by_size(case: Case) -> None:
    """4 + 3 examples: the mean of chunk means would give the last three too much weight."""
    problem = case.make()
    problem.model.double()
    batch, problem.chunk = case.batch(problem, 7), 4
    dense = oracles.dense_gradients(problem, batch)
    found = mean_gradient(problem, batch)
    assert oracles.relative_error(found.numpy(), dense.mean(axis=0)) < 1e-12
    unweighted = (dense[:4].mean(axis=0) + dense[4:].mean(axis=0)) / 2
    assert oracles.relative_error(unweighted, dense.mean(axis=0)) > 1e-6
    assert all(p.grad is None for p in problem.model.parameters())


def test_a_released_operator_builds_its_graph_again() -> None:
    case = CASES["transformer_lora"]
    problem = case.make()
    operator = HessianOperator(problem, case.batch(problem, 5))
    vector = torch.ones(problem.parameters.n_params)
    before = operator @ vector
    operator.release()
    operator.release()
    assert torch.equal(operator @ vector, before)


@pytest.mark.parametrize("name", ["quadratic", "transformer_lora", "conv1d"])
def test_hessian_products_equal_the_dense_hessian(name: str) -> None:
    case = CASES[name]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 5)
    dense, operator = oracles.dense_hessian(problem, batch), HessianOperator(problem, batch)
    assert oracles.relative_error(operator.gradient.numpy(), oracles.dense_gradients(problem, batch, 5)[0]) < 1e-12
    probes = torch.randn(
        5, problem.parameters.n_params, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for probe in probes:
        product = operator @ probe
        assert product.dtype == torch.float64
        assert oracles.relative_error(product.numpy(), dense @ probe.numpy()) < 1e-10


def test_hessian_of_the_quadratic_is_its_matrix() -> None:
    case = CASES["quadratic"]
    problem = case.make()
    assert isinstance(problem, QuadraticProblem)
    batch = case.batch(problem, 5)
    operator = HessianOperator(problem, batch)
    columns = torch.stack([operator @ column for column in torch.eye(12, dtype=torch.float64)], dim=1)
    assert torch.allclose(columns, problem.hessian, atol=1e-12)
    assert torch.allclose(operator.gradient, problem.exact_gradient(batch), atol=1e-12)


def test_hessian_products_agree_with_differences_of_gradients() -> None:
    """(g(theta + h v) - g(theta - h v)) / 2h, whose error falls with h^2: four times smaller at half the step."""
    case = CASES["transformer_full"]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 4)
    theta = problem.parameters.read()
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = direction / direction.norm()
    product = HessianOperator(problem, batch) @ direction

    def error(step: float) -> float:
        ends = []
        for sign in (1, -1):
            with problem.parameters.temporarily(theta + sign * step * direction):
                ends.append(mean_gradient(problem, batch))
        return float(((ends[0] - ends[1]) / (2 * step) - product).norm() / product.norm())

    assert error(1e-3) < 1e-3
    assert error(1e-2) / error(5e-3) == pytest.approx(4, rel=0.2)


def test_hessian_refuses_moved_weights_and_survives_equal_ones() -> None:
    case = CASES["transformer_lora"]
    problem = case.make()
    batch = case.batch(problem, 4)
    theta = problem.parameters.read()
    operator = HessianOperator(problem, batch)
    probe = torch.ones(problem.parameters.n_params, dtype=torch.float64)
    first = operator @ probe
    problem.parameters.write(theta)
    assert torch.equal(operator @ probe, first)
    with problem.parameters.temporarily(theta + 1e-3), pytest.raises(InputError, match="moved"):
        operator @ probe
    assert torch.equal(operator @ probe, first)
