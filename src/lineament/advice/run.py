"""One recorded run with the training that can make it again: what every test of advice is done on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.advice.loss_drop import LossDrop, Losses
from lineament.advice.options import CheckOptions
from lineament.advice.training import Training
from lineament.parameters import ParameterSpace
from lineament.streams import Streams
from lineament.vectors.blind import UpdateRule
from lineament.vectors.recording.reader import Trajectory

# Without a validation set, so many batches from so many times the run's length on stand for one.
VALIDATION_BATCHES, LATE = 8, 10**6
# Told (what is done, steps of training done, steps of training in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CheckedRun:
    """A recorded run and its training.

    Attributes:
        space: the recorded parameters in the training's model.
        start, end: theta at both ends of the recording, (n_params,), float64.
        drop: held-out losses there.
        rule: how its optimizer turns gradients into updates; of several parameter groups, the first one's.
        seed: of everything random in the tests.
        repeats: trainings on other batches in each comparison.
        made: trainings that several lines of advice share, by what they were made of.
    """

    trajectory: Trajectory
    training: Training
    space: ParameterSpace
    start: Tensor
    end: Tensor
    drop: LossDrop
    rule: UpdateRule
    seed: int = 0
    repeats: int = 3
    streams: Streams = field(init=False)
    made: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", Streams(self.seed).child("advice"))

    @classmethod
    def of(
        cls,
        trajectory: Trajectory,
        training: Training,
        rule: UpdateRule,
        check: CheckOptions | None = None,
        drop: LossDrop | None = None,
    ) -> CheckedRun:
        """Take both ends of the recording, and evaluate them unless their losses are known.

        Args:
            drop: held-out losses of this training at both ends, where they were evaluated before.

        Raises:
            InputError: a sketched recording, or a training of other parameters.
        """
        check = check or CheckOptions()
        space = training.space_of(trajectory)
        start, end = trajectory.start().double(), trajectory.position(trajectory.n_steps)
        if drop is None:
            drop = LossDrop(_losses_at(training, space, start), _losses_at(training, space, end), check.seed)
        return cls(trajectory, training, space, start, end, drop, rule, check.seed, check.repeats)

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the recorded run."""
        return self.trajectory.steps[-1]

    @cached_property
    def moved(self) -> tuple[bool, ...]:
        """For each recorded row whether it moved the weights."""
        blocks = (self.trajectory.block(number) for number in range(self.trajectory.n_blocks))
        return tuple(bool(row.any()) for block in blocks for row in block)

    def validation(self) -> float:
        """Return the mean loss that chooses step sizes, at the model's present weights."""
        if self.training.validation is not None:
            return self.training.validation()
        late = range(LATE * self.n_steps, LATE * self.n_steps + VALIDATION_BATCHES)
        with torch.no_grad():
            return sum(float(self.training.loss_of(step)) for step in late) / VALIDATION_BATCHES

    def held_out(self) -> Float64[np.ndarray, " n_examples"]:
        """Return the held-out losses at the model's present weights."""
        return self.training.held_out_losses().numpy()


def _losses_at(training: Training, space: ParameterSpace, theta: Tensor) -> Losses:
    with space.temporarily(theta):
        return training.held_out_losses().numpy()
