"""Training the measured parameters: to the operating point, damage, and recovery (protocol, section 0).

The batch of step t comes from its own named stream, so a stage that is run again makes the same steps bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from lineament.errors import InputError, NonFiniteError
from lineament.problems.problem import Batch, Corruption, Evaluation, Problem, corrupted
from lineament.settings.settings import Settings
from lineament.settings.training import DamageSettings, OperatingSettings, RecoverySettings
from lineament.streams import Streams
from lineament.study.horizon import RecoveryCurve, evaluation_steps, recorded_steps
from lineament.vectors.blind import UpdateRule
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
    with own_gradients(parameters):
        for step in range(steps):
            loss = loss_of(batch_at(step))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(_why_not_finite(value, step))
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if on_step and on_step(step + 1, value):
                return


@contextmanager
def own_random_state() -> Iterator[None]:
    """Give back torch's random state, of the CPU and of every GPU in use, also after an exception."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if in_use else ()):
        yield


@contextmanager
def own_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
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


def task_vector(problem: Problem, task: str, settings: Settings, streams: Streams) -> Tensor:
    """Return theta_task - theta, (n_params,) float64, from a short AdamW training on one task; weights come back."""
    space = problem.parameters
    with space.restored():
        before = space.read(torch.float64).cpu()
        optimizer = torch.optim.AdamW(space.tensors, lr=settings.operating.lr, weight_decay=0.0)
        batches = task_batches(problem, task, settings.recovery.batch, streams)
        train(problem, optimizer, batches, settings.measurement.task_vector_steps)
        return space.read(torch.float64).cpu() - before


def mixed_batches(problem: Problem, tasks: Iterable[str], size: int, streams: Streams) -> BatchAt:
    """Return training batches spread evenly over tasks."""
    names = list(tasks)
    parts = [task_batches(problem, task, max(1, size // len(names)), streams) for task in names]
    return lambda step: Batch.join([part(step) for part in parts])


def _why_not_finite(value: float, step: int) -> str:
    """Say what a loss that is no number comes from: before the first update it is the model, later the step size."""
    if step == 0:
        return (
            f"the loss is {value} before the first update: the model's own weights or activations are NaN or infinite "
            "on these examples. No step size helps; take another model."
        )
    return f"the loss became {value} at step {step + 1}. Lower the step size; what was finished stays on disk."


def minibatches(
    problem: Problem, task: str, shape: tuple[int, int], streams: Streams, labels: Corruption | None = None
) -> Batch:
    """Draw minibatches as training draws its batches, each balanced by itself, and join them.

    One large sample cut into pieces leaves each piece with a chance majority of one label, which training batches do
    not have: its direction then leads every plane, and cannot appear in a recovery.

    Args:
        shape: number of minibatches and examples in each; minibatches of one example are one sample of so many.
        labels: how labels are corrupted; `shuffled` keeps every minibatch balanced.
    """
    n, size = shape if shape[1] > 1 else (1, shape[0])
    generator = streams.generator(task)
    batch = Batch.join([problem.sample(task, size, generator) for _ in range(n)])
    return corrupted(batch, labels, streams.generator("labels", task), group=size) if labels else batch


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


def recover(
    problem: Problem,
    target: str,
    settings: RecoverySettings,
    streams: Streams,
    trained: Evaluation,
    recorder: Recorder,
    on_step: OnStep | None = None,
) -> RecoveryCurve:
    """Train the target back for T = `recovery.steps` steps and on to 1.2 T, recorded update by update.

    Args:
        trained: the trained model on the target's evaluation set.
    """
    evaluation, wanted = problem.fixed(target, "evaluation"), set(evaluation_steps(settings.steps))
    evaluated = {0: problem.evaluate(evaluation)}
    train_losses: list[float] = []

    def after(step: int, train_loss: float) -> bool:
        recorder.append()
        train_losses.append(train_loss)
        if step in wanted:
            evaluated[step] = problem.evaluate(evaluation)
        return bool(on_step and on_step(step, train_loss))

    optimizer = make_optimizer(problem.parameters.tensors, settings)
    batches = task_batches(problem, target, settings.batch, streams)
    train(problem, optimizer, batches, recorded_steps(settings.steps), after)
    return RecoveryCurve(
        n_steps=settings.steps,
        steps=tuple(evaluated),
        loss=tuple(e.loss for e in evaluated.values()),
        accuracy=tuple(e.accuracy for e in evaluated.values()),
        train_loss=tuple(train_losses),
        trained_loss=trained.loss,
        trained_accuracy=trained.accuracy,
        threshold=settings.threshold,
    )


def without_momentum(settings: RecoverySettings) -> RecoverySettings | None:
    """Return the same recovery with momentum (beta1 of AdamW) 0, or None where it is 0 already."""
    has_momentum = settings.optimizer != "sgd" and settings.momentum > 0
    return replace(settings, momentum=0.0) if has_momentum else None


def update_rule(settings: RecoverySettings) -> UpdateRule:
    """Return how the recovery's optimizer turns gradients into updates, for its blind run."""
    if settings.optimizer == "adamw":
        return UpdateRule(
            "adamw", (settings.lr,), settings.momentum, settings.beta2, settings.eps, settings.weight_decay
        )
    momentum = settings.momentum if settings.optimizer == "momentum" else 0.0
    return UpdateRule("sgd", (settings.lr,), momentum, weight_decay=settings.weight_decay)
