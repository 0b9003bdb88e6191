"""Shifts by weight steps: Jacobian against finite differences, its adjoint, the inverse, and steps towards a label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from problems_table import SyntheticProblem, llama_lora, moved, tiny_settings
from torch import Tensor

from lineament.activations.capture import Place, all_layers
from lineament.errors import InputError
from lineament.problems.problem import Problem
from lineament.steering.contrast import make_contrast
from lineament.steering.weight_step import (
    _pulled_back,
    finite_shift,
    jacobian_shift,
    label_gradient,
    step_direction,
    weight_edit,
)
from lineament.streams import Streams


def double_problem(space: str = "full") -> Problem:
    """The synthetic transformer in float64, where differences of activations are exact to 1e-12."""
    problem = SyntheticProblem(tiny_settings(space, layers=2), 0)
    problem.model.double()
    return moved(problem, 0.02)


def direction(problem: Problem, name: str = "direction") -> Tensor:
    found = torch.from_numpy(Streams(3).generator(name).standard_normal(problem.parameters.n_params))
    return found / found.norm()


def one_group(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


@pytest.mark.parametrize("space", ["full", "lora"])
def test_jacobian_is_the_limit_of_finite_shifts_with_the_predicted_error(space: str) -> None:
    """A central difference errs by t^2: half the step, a quarter of the error."""
    problem, place = double_problem(space), Place((1, 2))
    batch, d = problem.fixed("parity", "held_out"), direction(problem)
    exact = jacobian_shift(problem, d, batch, place, one_group(len(batch)), 1).means()[0]
    errors = []
    for t in (4e-2, 2e-2, 1e-2):
        forth, back = (finite_shift(problem, s * t * d, batch, place, one_group(len(batch)), 1)[0] for s in (1, -1))
        errors.append(float(((forth - back) / (2 * t) - exact).norm() / exact.norm()))
    assert errors[-1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_one_sided_shift_parts_from_the_jacobian_in_proportion_to_the_step() -> None:
    problem, place = double_problem(), Place((2,))
    batch, d = problem.fixed("parity", "held_out"), direction(problem)
    exact = jacobian_shift(problem, d, batch, place, one_group(len(batch)), 1).means()[0]
    gaps = [
        float((finite_shift(problem, t * d, batch, place, one_group(len(batch)), 1)[0] / t - exact).norm())
        for t in (2e-3, 1e-3)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)


def test_jacobian_and_its_transpose_are_adjoint() -> None:
    problem, place = double_problem("lora"), Place((2,))
    batch, d = problem.fixed("copy", "held_out"), direction(problem)
    shift = jacobian_shift(problem, d, batch, place, one_group(len(batch)), 1).means()[0, 0]
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(len(shift)))
    assert float(shift @ weights) == pytest.approx(float(_pulled_back(problem, weights, batch, place) @ d), rel=1e-10)


def test_jacobian_of_a_language_model_with_an_adapter() -> None:
    problem = llama_lora()
    batch, d, place = problem.sample("words", 12, Streams(0).generator("b")), direction(problem), Place((1, 2))
    groups = torch.arange(12) % 3
    exact = jacobian_shift(problem, d, batch, place, groups, 3).means()
    forth, back = (finite_shift(problem, s * 1e-2 * d, batch, place, groups, 3) for s in (1, -1))
    assert torch.allclose((forth - back) / 2e-2, exact, atol=1e-3 * float(exact.abs().max()))


def test_weights_come_back_bit_for_bit_also_after_an_exception() -> None:
    problem = llama_lora()
    theta, batch = problem.parameters.read(), problem.sample("words", 4, Streams(0).generator("b"))
    finite_shift(problem, 0.1 * direction(problem), batch, Place((1,)), one_group(4), 1)
    jacobian_shift(problem, direction(problem), batch, Place((1,)), one_group(4), 1)
    weight_edit(problem, torch.ones(16), 2, batch, iterations=2)
    with pytest.raises(InputError):
        finite_shift(problem, 0.1 * direction(problem), batch, Place((7,)), one_group(4), 1)
    assert torch.equal(problem.parameters.read(), theta)
    assert all(p.grad is None for p in problem.parameters.tensors)


def test_label_gradient_ignores_true_labels() -> None:
    problem = double_problem()
    batch = problem.fixed("parity", "held_out")
    shuffled = replace(batch, targets=batch.targets.flip(0))
    found = label_gradient(problem, batch, 1)
    assert torch.equal(found, label_gradient(problem, shuffled, 1))
    lower = problem.parameters.read() - 1e-4 * found
    towards = replace(batch, targets=torch.ones_like(batch.targets))
    before = float(problem.loss(towards))
    with problem.parameters.temporarily(lower):
        gain = before - float(problem.loss(towards))
    assert gain == pytest.approx(1e-4 * float(found @ found), rel=1e-2)


def test_step_directions() -> None:
    gradient = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)
    assert torch.allclose(step_direction(gradient), torch.tensor([-0.6, 0.8, 0.0], dtype=torch.float64))
    adam = step_direction(gradient, "adam")
    assert torch.allclose(adam, torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64) / 2**0.5)
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    parameter.grad = gradient
    torch.optim.Adam([parameter], lr=1.0).step()
    assert torch.allclose(parameter.detach() / parameter.detach().norm(), adam, atol=1e-7)
    with pytest.raises(InputError, match="gradient is zero"):
        step_direction(torch.zeros(3))


def test_weight_edit_solves_the_least_squares_problem() -> None:
    """Against the dense Jacobian's own least-norm solution."""
    problem, layer = double_problem("lora"), 2
    batch = problem.fixed("increment", "held_out").rows(slice(0, 4))
    width = 16
    rows = []
    for i in range(width):
        unit = torch.zeros(width, dtype=torch.float64)
        unit[i] = 1
        rows.append(_pulled_back(problem, unit, batch, Place((layer,))))
    jacobian = torch.stack(rows)
    wanted = torch.from_numpy(np.random.default_rng(1).standard_normal(width))
    exact = torch.linalg.pinv(jacobian) @ wanted
    found = weight_edit(problem, wanted, layer, batch, iterations=200)
    assert torch.allclose(found.delta, exact, atol=1e-4 * float(exact.norm()))
    assert found.cosine > 0.9999
    assert found.residual < 1e-4
    few = weight_edit(problem, wanted, layer, batch, iterations=2)
    assert few.residual > found.residual
    with pytest.raises(InputError, match="16 numbers"):
        weight_edit(problem, torch.ones(3), layer, batch)
    with pytest.raises(InputError, match="not all zero"):
        weight_edit(problem, torch.zeros(width), layer, batch)


def test_every_layer_is_reached_only_from_below() -> None:
    """A change of the last block's weights moves no layer below it."""
    problem = double_problem()
    d = torch.zeros(problem.parameters.n_params)
    for name, part in zip(problem.parameters.names, problem.parameters.slices, strict=True):
        if name.startswith("blocks.1."):
            d[part] = 1.0
    batch = problem.fixed("copy", "held_out")
    found = jacobian_shift(problem, d, batch, Place(all_layers(problem.model)), one_group(len(batch)), 1).means()[0]
    assert not found[0].any()
    assert found[1].any()


def test_contrasts() -> None:
    problem = double_problem()
    batch = problem.fixed("parity", "evaluation")
    contrast = make_contrast(batch, "statement")
    assert (contrast.labels == 1).all()
    assert torch.equal(contrast.rows.targets[:, 0] == 1, contrast.positive)
    pairs = make_contrast(batch, "answer")
    n, ends = len(batch), pairs.rows.positions[:, 0]
    answers = pairs.rows.input_ids.gather(1, ends[:, None])[:, 0]
    assert torch.equal(answers[:n], batch.targets[:, -1])
    assert torch.equal(answers[n:], 1 - batch.targets[:, -1])
    assert torch.equal(pairs.towards().targets[:, 0], batch.targets[:, -1])
    with pytest.raises(InputError, match="needs both"):
        make_contrast(batch.rows(batch.targets[:, -1] == 1), "statement")
    with pytest.raises(InputError, match="10"):
        make_contrast(problem.fixed("copy", "evaluation"), "answer")
    with pytest.raises(InputError, match="choices"):
        make_contrast(replace(batch, choices=()), "statement")
