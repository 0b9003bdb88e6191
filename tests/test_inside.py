"""Training inside a subspace: step sizes that share a pass train as each alone, and one that diverges never wins."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_measurements import make_study
from torch import nn

from lineament.bases import Basis, random_basis
from lineament.measurements import inside
from lineament.study.points import DAMAGED
from lineament.study.study import Study
from lineament.study.training import make_optimizer, task_batches


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def basis(study: Study) -> Basis:
    return random_basis(study.problem.parameters.space, 3, study.streams.generator("test"))


def alone(study: Study, basis: Basis, lr: float) -> torch.Tensor:
    """Plain training of the coordinates with one step size, the model's own weights written at every step."""
    space, m = study.problem.parameters, study.settings.measurement
    columns, damaged = basis.columns.float(), study.points[DAMAGED].float()
    own = nn.Parameter(torch.zeros(basis.rank))
    optimizer = make_optimizer([own], replace(study.settings.recovery, lr=lr, weight_decay=0.0))
    batches = task_batches(study.problem, study.target, m.inside_batch, study.streams.child("inside"))
    for step in range(m.inside_steps):
        with space.temporarily(damaged + columns @ own.detach()):
            own.grad = space.gradient(study.problem.loss(batches(step))) @ columns
        optimizer.step()
    return own.detach()


def test_all_step_sizes_in_one_pass_train_as_each_alone(study: Study, basis: Basis) -> None:
    before = study.problem.parameters.read()
    together = inside._train_coordinates(study, basis)
    sizes = inside._step_sizes(study, basis)
    assert len(together) == len(sizes) == 3
    for own, lr in zip(together, sizes, strict=True):
        assert torch.allclose(own, alone(study, basis, lr), rtol=1e-3, atol=1e-3 * lr)
    assert torch.equal(study.problem.parameters.read(), before)


def test_the_step_size_with_the_lowest_validation_loss_is_reported_on_held_out_data(study: Study, basis: Basis) -> None:
    space, columns = study.problem.parameters, basis.columns.float()
    found = {}
    for own in inside._train_coordinates(study, basis):
        with space.temporarily(study.points[DAMAGED].float() + columns @ own):
            validation, held_out = (
                study.problem.evaluate(study.problem.fixed(study.target, split)) for split in ("validation", "held_out")
            )
        found[validation.loss] = held_out
    assert inside._trained_inside(study, basis) == found[min(found)]


def test_a_diverged_step_size_stays_where_it_was_and_never_wins(
    study: Study, basis: Basis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = inside._train_coordinates(study, basis)
    real = inside.losses_at

    def diverging(problem: Any, batch: Any, thetas: torch.Tensor) -> torch.Tensor:
        losses = real(problem, batch, thetas)
        return torch.stack([losses[0], losses[1], losses[2] * math.nan])

    monkeypatch.setattr(inside, "losses_at", diverging)
    found = inside._train_coordinates(study, basis)
    assert torch.equal(found[2], torch.zeros(3))
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
