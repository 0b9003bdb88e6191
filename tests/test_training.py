"""Training, damage and recovery: hand-written updates, labels as promised, and stages that repeat bit for bit."""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems_table import CASES, QuadraticProblem, quadratic, tiny_settings, trained_settings, transformer_full
from torch import Tensor

from lineament.errors import InputError, NonFiniteError
from lineament.problems.problem import Batch, Evaluation, Problem, corrupted
from lineament.problems.synthetic import SyntheticProblem
from lineament.problems.synthetic_tasks import N_DIGITS, TASKS
from lineament.settings.training import DamageKind, DamageSettings, OperatingSettings, OptimizerName, RecoverySettings
from lineament.streams import Streams
from lineament.study import training
from lineament.study.training import (
    damage,
    make_optimizer,
    mixed_batches,
    reach_operating_point,
    recover,
    task_batches,
    train,
    update_rule,
    without_momentum,
)
from lineament.vectors.blind import UpdateRule
from lineament.vectors.recording.writer import Recorder

KINDS = typing.get_args(DamageKind)
LENGTH = 4


def task_of(batch: Batch) -> list[str]:
    """Each example's task, from its task token."""
    return [list(TASKS)[int(token) - N_DIGITS] for token in batch.input_ids[:, 0]]


def right_answers(batch: Batch) -> np.ndarray:
    digits = batch.input_ids[:, 1 : 1 + LENGTH].numpy()
    rows = [TASKS[task].answer(row[None])[0] for task, row in zip(task_of(batch), digits, strict=True)]
    return np.stack(rows)


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("input_ids", "positions", "targets"))


def damage_plan(kind: str, monkeypatch: pytest.MonkeyPatch, problem: Problem, target: str = "copy") -> dict[str, Any]:
    """What `damage` would train on: batches, loss and steps."""
    seen: dict[str, Any] = {}

    def spy(problem: Problem, optimizer: Any, batch_at: Any, steps: int, on_step: Any, loss_of: Any) -> None:
        seen.update(batch_at=batch_at, loss_of=loss_of, steps=steps)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", spy)
        settings = DamageSettings(kind=kind, steps=5, batch=24)
        damage(problem, target, settings, Streams(0), problem.parameters.read())
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_each_damage_moves_the_weights_and_is_repeated_bit_for_bit(kind: str) -> None:
    results = []
    for _ in range(2):
        problem = SyntheticProblem(trained_settings(), 0)
        start = problem.parameters.read()
        before = problem.evaluate(problem.fixed("copy", "evaluation")).loss
        settings = DamageSettings(kind=kind, steps=12, lr=5e-3, batch=24)
        damage(problem, "copy", settings, Streams(7).child("damage"), start)
        results.append(problem.parameters.read())
        assert not torch.equal(results[-1], start)
        if kind not in ("other_tasks", "gaussian"):
            assert problem.evaluate(problem.fixed("copy", "evaluation")).loss > before
        assert all(p.grad is None for p in problem.model.parameters())
    assert torch.equal(*results)
    damage(problem, "copy", settings, Streams(8).child("damage"), start)
    assert not torch.equal(problem.parameters.read(), results[0])


def test_wrong_labels_are_never_right(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = transformer_full()
    for target in problem.tasks:
        plan = damage_plan("wrong_labels", monkeypatch, problem, target)
        for step in range(5):
            batch = plan["batch_at"](step)
            assert set(task_of(batch)) == {target}
            assert len(batch) == 24
            assert not (batch.targets.numpy() == right_answers(batch)).any()
            assert batch.targets.max() < TASKS[target].n_answers


def test_replay_spoils_the_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = transformer_full()
    batch = damage_plan("wrong_labels_replay", monkeypatch, problem)["batch_at"](0)
    of_target = np.array(task_of(batch)) == "copy"
    assert of_target.sum() == 12
    assert set(np.array(task_of(batch))[~of_target]) == {"increment", "parity"}
    right = batch.targets.numpy() == right_answers(batch)
    assert not right[of_target].any()
    assert right[~of_target].all()


def test_uniform_labels_are_uniform_whatever_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = transformer_full()
    plan = damage_plan("uniform_labels", monkeypatch, problem)
    batch = Batch.join([plan["batch_at"](step) for step in range(60)])
    assert set(task_of(batch)) == {"copy"}
    counts = np.bincount(batch.targets.flatten().numpy(), minlength=N_DIGITS)
    n = counts.sum()
    assert np.abs(counts - n / 10).max() < 4 * np.sqrt(n * 0.09)
    right = (batch.targets.numpy() == right_answers(batch)).mean()
    assert abs(right - 0.1) < 3 * np.sqrt(0.09 / n)


def test_ascent_climbs_on_true_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = transformer_full()
    plan = damage_plan("ascent", monkeypatch, problem)
    batch = plan["batch_at"](0)
    assert (batch.targets.numpy() == right_answers(batch)).all()
    assert torch.equal(plan["loss_of"](batch), -problem.loss(batch))
    other = damage_plan("wrong_labels", monkeypatch, problem)
    assert torch.equal(other["loss_of"](batch), problem.loss(batch))


def test_other_tasks_leaves_the_target_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = transformer_full()
    batch = damage_plan("other_tasks", monkeypatch, problem)["batch_at"](0)
    assert set(task_of(batch)) == {"increment", "parity"}
    assert (batch.targets.numpy() == right_answers(batch)).all()


def test_other_tasks_needs_another_task() -> None:
    problem = quadratic()
    with pytest.raises(InputError, match="other_tasks"):
        damage(problem, "bowl", DamageSettings(kind="other_tasks"), Streams(0), problem.parameters.read())


@pytest.mark.parametrize("name", ["transformer_full", "transformer_lora"])
def test_gaussian_noise_has_the_promised_norm(name: str) -> None:
    problem = CASES[name].make()
    star, start = problem.parameters.read(), problem.parameters.read() * 0.5
    damage(problem, "copy", DamageSettings(kind="gaussian", relative_sigma=0.7), Streams(0), start)
    noise = problem.parameters.read().double() - star.double()
    lora = problem.parameters.space.kind == "lora_factors"
    reference = (star - start).double().norm() if lora else star.double().norm() / 10
    assert float(noise.norm() / reference) == pytest.approx(0.7, rel=1e-4)
    assert abs(float(noise.mean() / noise.std())) < 3 / np.sqrt(len(noise))


def test_shuffled_labels_keep_inputs_and_the_multiset_of_targets() -> None:
    problem = transformer_full()
    batch = problem.sample("copy", 40, Streams(0).generator("x"))
    shuffled = corrupted(batch, "shuffled", Streams(0).generator("labels"))
    assert torch.equal(shuffled.input_ids, batch.input_ids)
    assert not torch.equal(shuffled.targets, batch.targets)
    assert sorted(map(tuple, shuffled.targets.tolist())) == sorted(map(tuple, batch.targets.tolist()))


def test_wrong_labels_shift_through_every_other_answer() -> None:
    problem = transformer_full()
    batch = problem.sample("copy", 20, Streams(0).generator("x"))
    generator = Streams(0).generator("labels")
    seen = [corrupted(batch, "wrong", generator, shift).targets for shift in range(1, 10)]
    assert (torch.stack([batch.targets, *seen]).sort(dim=0).values == torch.arange(10)[:, None, None]).all()
    for shift in (0, 10):
        with pytest.raises(InputError, match=f"shift {shift}"):
            corrupted(batch, "wrong", generator, shift)


def test_a_batch_does_not_depend_on_the_steps_before_it() -> None:
    problem = transformer_full()
    for make in (
        lambda: task_batches(problem, "copy", 6, Streams(1)),
        lambda: mixed_batches(problem, problem.tasks, 6, Streams(1)),
        lambda: training.corrupted_batches(task_batches(problem, "copy", 6, Streams(1)), "uniform", Streams(2)),
    ):
        used = make()
        earlier = [used(step) for step in range(7)]
        assert same(used(7), make()(7))
        assert not any(same(batch, used(7)) for batch in earlier)


def test_mixed_batches_spread_evenly_over_tasks() -> None:
    problem = transformer_full()
    tasks = task_of(mixed_batches(problem, problem.tasks, 24, Streams(0))(3))
    assert {task: tasks.count(task) for task in problem.tasks} == {"copy": 8, "increment": 8, "parity": 8}


def by_hand(settings: RecoverySettings, theta: Tensor, gradient_at: Any, steps: int) -> Tensor:
    """The textbook update of each optimizer."""
    theta, m, v = theta.clone(), torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(1, steps + 1):
        g = gradient_at(theta)
        if settings.optimizer == "adamw":
            theta = theta - settings.lr * settings.weight_decay * theta
            m = settings.momentum * m + (1 - settings.momentum) * g
            v = settings.beta2 * v + (1 - settings.beta2) * g**2
            corrected = m / (1 - settings.momentum**t), v / (1 - settings.beta2**t)
            theta = theta - settings.lr * corrected[0] / (corrected[1].sqrt() + settings.eps)
        else:
            g = g + settings.weight_decay * theta
            m = settings.momentum * m + g if settings.optimizer == "momentum" else g
            theta = theta - settings.lr * m
    return theta


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_optimizers_equal_updates_by_hand(optimizer: Any, weight_decay: float) -> None:
    problem = quadratic()
    assert isinstance(problem, QuadraticProblem)
    settings = RecoverySettings(
        optimizer=optimizer, lr=0.05, momentum=0.8, beta2=0.95, eps=1e-3, weight_decay=weight_decay
    )
    batch = problem.sample("bowl", 8, Streams(0).generator("x"))
    noise = problem.noise[batch.input_ids[:, 0]].mean(dim=0)
    expected = by_hand(
        settings, problem.parameters.read(), lambda theta: problem.hessian @ (theta - problem.centre) + noise, 3
    )
    losses: list[float] = []

    def after(step: int, loss: float) -> bool:
        losses.append(loss)
        assert step == len(losses)
        return False

    train(problem, make_optimizer(problem.parameters.tensors, settings), lambda step: batch, 3, after)
    assert torch.allclose(problem.parameters.read(), expected, rtol=0, atol=1e-12)
    assert len(losses) == 3
    assert problem.model.theta.grad is None


def test_training_stops_when_told_and_not_before() -> None:
    problem, steps = quadratic(), []
    optimizer = make_optimizer(problem.parameters.tensors, RecoverySettings(optimizer="sgd", lr=1e-3))

    def after(step: int, loss: float) -> bool:
        steps.append(step)
        return step == 4

    train(problem, optimizer, task_batches(problem, "bowl", 2, Streams(0)), 10, after)
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_value(value: float) -> None:
    problem = quadratic()
    optimizer = make_optimizer(problem.parameters.tensors, RecoverySettings(optimizer="sgd", lr=1e-3))
    calls: list[Tensor] = []

    def loss_of(batch: Batch) -> Tensor:
        calls.append(problem.parameters.read())
        return problem.loss(batch) * (value if len(calls) == 3 else 1.0)

    with pytest.raises(NonFiniteError, match=rf"became {value} at step 3"):
        train(problem, optimizer, task_batches(problem, "bowl", 2, Streams(0)), 9, loss_of=loss_of)
    assert len(calls) == 3
    assert torch.equal(problem.parameters.read(), calls[-1])


class Scripted(QuadraticProblem):
    """The quadratic with an accuracy that follows a script by step."""

    def script(self, recorder: Recorder, accuracy: Any) -> None:
        self.recorder, self.accuracy = recorder, accuracy

    def evaluate(self, batch: Batch) -> Evaluation:
        return Evaluation(1.0, self.accuracy(self.recorder.n_steps))


@pytest.mark.parametrize(
    ("first_good", "recovered", "first"), [(4, 20, 4), (20, 20, 20), (21, None, 21), (99, None, None), (1, 20, 1)]
)
def test_every_recovery_is_as_long_and_is_judged_at_its_end(
    first_good: int, recovered: int | None, first: int | None, tmp_path: Path
) -> None:
    problem = Scripted(np.ones(3))
    recorder = Recorder(problem.parameters, tmp_path / "recording", torch.float64)
    problem.script(recorder, lambda step: 0.96 if step >= first_good else 0.3)
    settings = RecoverySettings(optimizer="sgd", lr=0.01, steps=20, threshold=0.95)
    curve = recover(problem, "bowl", settings, Streams(0), Evaluation(0.5, 1.0), recorder)
    assert recorder.close().n_steps == 24 == len(curve.train_loss)
    assert curve.recovered_at == recovered
    assert curve.steps_to_recovery == first
    assert curve.steps == tuple(range(25))
    assert len(curve.accuracy) == len(curve.loss) == 25
    assert curve.accuracy[0] == 0.3
    assert (curve.why_not_recovered is None) == (recovered is not None)


@pytest.mark.parametrize(
    ("optimizer", "momentum", "plain"),
    [("adamw", 0.9, True), ("momentum", 0.5, True), ("sgd", 0.9, False), ("adamw", 0.0, False)],
)
def test_the_second_recovery_differs_by_momentum_alone(optimizer: OptimizerName, momentum: float, plain: bool) -> None:
    settings = RecoverySettings(optimizer=optimizer, momentum=momentum)
    assert without_momentum(settings) == (replace(settings, momentum=0.0) if plain else None)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_the_rule_of_a_blind_run_is_that_of_the_recovery(optimizer: OptimizerName) -> None:
    settings = RecoverySettings(optimizer=optimizer, lr=0.03, weight_decay=0.1, beta2=0.99)
    made = make_optimizer([torch.nn.Parameter(torch.zeros(1))], settings)
    assert UpdateRule.of(made) == update_rule(settings)


def test_the_operating_point_is_repeated_bit_for_bit_and_lowers_the_loss() -> None:
    found = []
    for _ in range(2):
        problem = SyntheticProblem(tiny_settings("lora"), 0)
        before = np.mean([e.loss for e in problem.evaluate_all("evaluation").values()])
        reach_operating_point(problem, OperatingSettings(steps=12, lr=5e-3, batch=24), Streams(3))
        found.append(problem.parameters.read())
        assert np.mean([e.loss for e in problem.evaluate_all("evaluation").values()]) < before
    assert torch.equal(*found)
