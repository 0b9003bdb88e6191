"""A training as tests of advice need it: the model, the batches that it was trained on, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.problem import Batch, Problem
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.training import task_batches
from lineament.vectors.recording.reader import Trajectory


@dataclass(frozen=True)
class Training:
    """A training that can be made again.

    Attributes:
        model: the module whose parameters were recorded, by the same names; where its weights stand does not matter,
            and they come back.
        loss: step, counted from 0 -> scalar loss of that step's batch at the model's present weights, differentiable.
            The first steps are those of the recorded run; later ones give other batches of the same data, which
            repeated trainings and fresh gradients use. It must give the same batch whenever it is asked for a step.
        held_out: () -> loss of every held-out example at the present weights, (n_examples,).
        validation: () -> mean loss on validation examples, which chooses step sizes; default: batches of late steps.
    """

    model: nn.Module
    loss: Callable[[int], Tensor]
    held_out: Callable[[], Tensor]
    validation: Callable[[], float] | None = None

    def space_of(self, trajectory: Trajectory) -> ParameterSpace:
        """Return the recorded parameters in this model, in the recording's order.

        Raises:
            InputError: the recording names no parameters, or the model lacks one.
            SpaceMismatchError: they have other shapes.
        """
        names = [name for name, _ in trajectory.tensors]
        if not names:
            raise InputError(f"{trajectory.folder} names no parameters, so no training can be made again from it.")
        space = ParameterSpace(self.model, names, trajectory.space.kind)
        space.space.require(trajectory.space, f"the model and the recording {trajectory.folder}")
        return space

    def loss_of(self, step: int) -> Tensor:
        """Return the loss of a step's batch at the present weights, a scalar.

        Raises:
            InputError: `loss` gave something else, or nothing that can be differentiated.
        """
        loss = self.loss(step)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise InputError(f"loss gave {_described(loss)}; give one number as a tensor, the batch's mean loss.")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise InputError(
                "loss gave a tensor without a gradient; compute it from the model's parameters, without .item(), "
                ".detach() or torch.no_grad()."
            )
        return loss.reshape(())

    @torch.no_grad()
    def held_out_losses(self) -> Float[Tensor, " n_examples"]:
        """Return the held-out losses at the present weights, in float64 on the CPU.

        Raises:
            InputError: no tensor of losses, or fewer than two examples.
        """
        losses = self.held_out()
        if not isinstance(losses, Tensor) or losses.ndim != 1 or len(losses) < 2:
            raise InputError(f"held_out gave {_described(losses)}; give the loss of each example, of at least 2.")
        return losses.detach().double().cpu()


def _described(given: object) -> str:
    return f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"


def recovery_training(case: Case) -> Training:
    """Return the recovery of a study as a training: its own batches, held-out and validation sets.

    Args:
        case: of the study; where its problem's parameters stand does not matter.
    """
    settings = case.settings.recovery
    return task_training(case.problem, case.target, settings.batch, case.streams.child("recovery"))


def task_training(problem: Problem, task: str, batch: int, streams: Streams, held_out: Batch | None = None) -> Training:
    """Return training on one task of a problem.

    Args:
        batch: examples per step. streams: of the batches, one for each step.
        held_out: examples that it is judged on; default the task's own.
    """
    batches = task_batches(problem, task, batch, streams)
    held_out = problem.fixed(task, "held_out") if held_out is None else held_out
    return Training(
        problem.model,
        lambda step: problem.loss(batches(step)),
        lambda: _example_losses(problem, held_out),
        lambda: problem.evaluate(problem.fixed(task, "validation")).loss,
    )


def _example_losses(problem: Problem, batch: Batch) -> Tensor:
    return torch.cat([problem.example_losses(part) for part in batch.chunks(problem.chunk)])
