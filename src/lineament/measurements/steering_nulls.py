"""Directions in weight space that a step towards a label is compared with (protocol, section 5).

Three kinds, each for another explanation of a large cosine: weight noise with the step's norm in every tensor, since
any noise that passes through a trained model is pushed onto the axis that separates the classes; the step on shuffled
labels; and the step towards the same label on other tasks' prompts, which shares the label and not the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.problems.problem import Batch, corrupted
from lineament.steering.weight_step import label_gradient, step_direction
from lineament.study.study import OperatingStudy
from lineament.vectors.gradients import mean_gradient

RANDOM_WEIGHTS, SHUFFLED_LABELS, OTHER_TASKS = "random_weights", "shuffled_labels", "other_tasks"


def matched_noise(
    step: Float[Tensor, " n_params"], slices: Sequence[slice], generator: np.random.Generator
) -> Float64[Tensor, " n_params"]:
    """Draw Gaussian noise (n_params,) with the norm of `step` in every tensor, the tensors being `slices` of both."""
    noise = torch.from_numpy(generator.standard_normal(len(step)))
    for part in slices:
        noise[part] *= step[part].double().norm() / noise[part].norm()
    return noise


@dataclass(frozen=True)
class NullSteps:
    """What null directions are made from.

    Attributes:
        step: (n_params,) the measured step, whose norm in each tensor random directions get.
        prompts: those of the step, with their true labels.
        label: token id that the step leads to; None where every prompt has an answer of its own.
    """

    study: OperatingStudy
    step: Float[Tensor, " n_params"]
    prompts: Batch
    label: int | None

    def random(self, draw: int) -> Float[Tensor, " n_params"]:
        """Draw a direction of norm 1 with the step's norm in every tensor."""
        generator = self.study.streams.child("steering").generator("random", draw)
        noise = matched_noise(self.step, self.study.problem.parameters.slices, generator)
        return noise.div_(noise.norm())

    def shuffled(self, draw: int) -> Float[Tensor, " n_params"]:
        """Make a step like the measured one, on the same prompts, towards labels shuffled between them."""
        generator = self.study.streams.child("steering", "shuffled", draw).generator()
        return step_direction(mean_gradient(self.study.problem, corrupted(self.prompts, "shuffled", generator)))

    def other_task(self, task: str) -> Float[Tensor, " n_params"]:
        """Make a step towards the same label on prompts of another task.

        Raises:
            InputError: that task's prompts give no gradient.
        """
        assert self.label is not None
        generator = self.study.streams.child("steering", "other task").generator(task)
        prompts = self.study.problem.sample(task, len(self.prompts), generator).last_target()
        return step_direction(label_gradient(self.study.problem, prompts, self.label))

    @property
    def other_tasks(self) -> tuple[str, ...]:
        """Tasks whose prompts make a null: all but the target; none in an answer contrast."""
        return tuple(t for t in self.study.problem.tasks if t != self.study.target) if self.label is not None else ()

    @property
    def why_no_other_task(self) -> str | None:
        """Say why no other task's prompts make a null, or return None."""
        if self.label is None:
            return "every prompt has an answer of its own, so no label is that of other tasks too"
        return None if self.other_tasks else "the problem has one task alone"

    def all(self) -> Iterator[tuple[str, int | str, Float[Tensor, " n_params"]]]:
        """Yield kind of null, draw or task, and direction; a task without gradient is passed over."""
        s = self.study.settings.steering
        yield from ((RANDOM_WEIGHTS, draw, self.random(draw)) for draw in range(s.random_directions))
        yield from ((SHUFFLED_LABELS, draw, self.shuffled(draw)) for draw in range(s.shuffled_steps))
        for task in self.other_tasks:
            try:
                yield OTHER_TASKS, task, self.other_task(task)
            except InputError:
                continue

    @property
    def n_draws(self) -> int:
        """Directions that `all` yields at most."""
        s = self.study.settings.steering
        return s.random_directions + s.shuffled_steps + len(self.other_tasks)
