"""Training the measured parameters: to the operating point, damage, and recovery (protocol, section 0).

The batch of step t comes from its own named stream, so a stage that is run again makes the same steps bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lineament.errors import InputError, NonFiniteError
from lineament.problems.problem import Batch, Corruption, Problem, corrupted
from lineament.settings.training import DamageSettings, OperatingSettings, RecoverySettings
from lineament.streams import Streams
from lineament.vectors.recording.writer import Recorder

BatchAt = Callable[[int], Batch]
LossOf = Callable[[Batch], Tensor]
# Called after each optimizer step with (step from 1, training loss); True stops the run.
OnStep = Callable[[int, float], bool]


def make_optimizer(parameters: Iterable[Tensor], recovery: RecoverySettings) -> torch.optim.Optimizer:
    """Make the recovery's optimizer over these tensors."""
    if recovery.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=recovery.lr,
            betas=(recovery.momentum, recovery.beta2),
            eps=recovery.eps,
            weight_decay=recovery.weight_decay,
        )
    momentum = recovery.momentum if recovery.optimizer == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=recovery.lr, momentum=momentum, weight_decay=recovery.weight_decay)


def train(
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    batch_at: BatchAt,
    steps: int,
    on_step: OnStep | None = None,
    loss_of: LossOf | None = None,
) -> None:
    """Take up to `steps` optimizer steps on the problem's parameters, in place; their `.grad` stays as it was.

    Raises:
        NonFiniteError: the loss became NaN or infinite; names the step and the value.
    """
    loss_of = loss_of or problem.loss
    parameters = problem.parameters.tensors
    with _own_gradients(parameters):
        for step in range(steps):
            loss = loss_of(batch_at(step))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"the loss became {value} at step {step + 1}. Lower the step size; what was finished stays on disk."
                )
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_step and on_step(step + 1, value):
                return


@contextmanager
def _own_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Put gradients that somebody else accumulated aside, and back on exit, also after an exception."""
    kept = [parameter.grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, kept, strict=True):
            parameter.grad = gradient


def task_batches(problem: Problem, task: str, size: int, streams: Streams) -> BatchAt:
    """Return the training batches of one task; step t is drawn from its own stream."""
    return lambda step: problem.sample(task, size, streams.generator(task, step))


def mixed_batches(problem: Problem, tasks: Iterable[str], size: int, streams: Streams) -> BatchAt:
    """Return training batches spread evenly over tasks."""
    names = list(tasks)
    parts = [task_batches(problem, task, max(1, size // len(names)), streams) for task in names]
    return lambda step: Batch.join([part(step) for part in parts])


def corrupted_batches(batches: BatchAt, how: Corruption, streams: Streams, shift: int = 1) -> BatchAt:
    """Return the same inputs with corrupted targets."""
    return lambda step: corrupted(batches(step), how, streams.generator("labels", step), shift)


def reach_operating_point(
    problem: Problem, settings: OperatingSettings, streams: Streams, on_step: OnStep | None = None
) -> None:
    """Train the measured parameters on all tasks: theta_start -> theta_star."""
    optimizer = torch.optim.AdamW(problem.parameters.tensors, lr=settings.lr, weight_decay=0.0)
    batches = mixed_batches(problem, problem.tasks, settings.batch, streams)
    train(problem, optimizer, batches, settings.steps, on_step)


def damage(
    problem: Problem,
    target: str,
    settings: DamageSettings,
    streams: Streams,
    theta_start: Tensor,
    on_step: OnStep | None = None,
) -> None:
    """Damage one task in one of the protocol's six kinds, in place: theta_star -> theta_broken."""
    if settings.kind == "gaussian":
        _add_gaussian(problem, settings, streams, theta_start)
        return
    optimizer = torch.optim.AdamW(problem.parameters.tensors, lr=settings.lr, weight_decay=0.0)
    batches = _damage_batches(problem, target, settings, streams)
    sign = -1.0 if settings.kind == "ascent" else 1.0
    train(problem, optimizer, batches, settings.steps, on_step, lambda batch: sign * problem.loss(batch))


def _damage_batches(problem: Problem, target: str, settings: DamageSettings, streams: Streams) -> BatchAt:
    others = [task for task in problem.tasks if task != target]
    clean = task_batches(problem, target, settings.batch, streams)
    if settings.kind == "other_tasks":
        if not others:
            raise InputError(
                f"damage.kind other_tasks needs another task than {target!r}; the problem has only that one."
            )
        return mixed_batches(problem, others, settings.batch, streams)
    if settings.kind == "ascent":
        return clean
    if settings.kind == "uniform_labels":
        return corrupted_batches(clean, "uniform", streams)
    n_answers = len(problem.fixed(target, "validation").choices)
    shift = 1 + streams.integer("shift") % (n_answers - 1)
    if settings.kind == "wrong_labels" or not others:
        return corrupted_batches(clean, "wrong", streams, shift)
    half = settings.batch // 2
    wrong = corrupted_batches(task_batches(problem, target, half, streams), "wrong", streams, shift)
    replay = mixed_batches(problem, others, half, streams.child("replay"))
    return lambda step: Batch.join([wrong(step), replay(step)])


def _add_gaussian(problem: Problem, settings: DamageSettings, streams: Streams, theta_start: Tensor) -> None:
    theta = problem.parameters.read(torch.float64).cpu()
    lora = problem.parameters.space.kind == "lora_factors"
    reference = float((theta - theta_start.double()).norm() if lora else theta.norm() / 10)
    noise = torch.from_numpy(streams.generator("gaussian").standard_normal(len(theta)))
    problem.parameters.write(theta + noise * (settings.relative_sigma * reference / float(noise.norm())))


@dataclass(frozen=True)
class RecoveryCurve:
    """What a recovery did, step by step (index 0 is theta_broken).

    Attributes:
        loss, accuracy: on the target's evaluation set, (n_steps + 1,).
        train_loss: on each step's batch before the step, (n_steps,).
        recovered_at: T, or None if the threshold was not reached and held.
    """

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]
    recovered_at: int | None


def recover(
    problem: Problem,
    target: str,
    settings: RecoverySettings,
    streams: Streams,
    star_accuracy: float,
    recorder: Recorder,
    on_step: OnStep | None = None,
) -> RecoveryCurve:
    """Recover, and go on to twice as many steps, recorded update by update: theta_broken -> theta_recovered.

    T is the first step at which evaluation accuracy is at least `threshold` of theta_star's and stays there for `stay`
    steps; the run goes on to max(2 T, T + stay).
    """
    evaluation = problem.fixed(target, "evaluation")
    first = problem.evaluate(evaluation)
    losses, accuracies, train_losses = [first.loss], [first.accuracy], []
    wanted = settings.threshold * star_accuracy

    def after(step: int, train_loss: float) -> bool:
        recorder.append()
        now = problem.evaluate(evaluation)
        losses.append(now.loss)
        accuracies.append(now.accuracy)
        train_losses.append(train_loss)
        stop = bool(on_step and on_step(step, train_loss))
        recovered = recovery_step(accuracies, wanted, settings.stay)
        if recovered is None:
            return stop or step >= settings.steps + settings.stay
        return stop or step >= 2 * recovered

    optimizer = make_optimizer(problem.parameters.tensors, settings)
    batches = task_batches(problem, target, settings.batch, streams)
    train(problem, optimizer, batches, 2 * (settings.steps + settings.stay), after)
    recovered = recovery_step(accuracies, wanted, settings.stay)
    return RecoveryCurve(tuple(losses), tuple(accuracies), tuple(train_losses), recovered)


def recovery_step(accuracies: list[float], wanted: float, stay: int) -> int | None:
    """Return the first step t >= 1 with accuracy >= wanted at t .. t + stay, all of them already seen."""
    run = 0
    for step, accuracy in enumerate(accuracies):
        run = run + 1 if accuracy >= wanted and step >= 1 else 0
        if run == stay + 1:
            return step - stay
    return None
