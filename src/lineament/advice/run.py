"""One recorded run with the training that can make it again: what every test of advice is done on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from lineament.advice.loss_drop import LossDrop
from lineament.advice.training import Training
from lineament.parameters import ParameterSpace
from lineament.streams import Streams
from lineament.vectors.recording.reader import Trajectory

# Told (what is done, steps of training done, steps of training in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CheckedRun:
    """A recorded run and its training.

    Attributes:
        space: the recorded parameters in the training's model.
        start, end: theta at both ends of the recording, (n_params,), float64.
        drop: held-out losses there.
        seed: of everything random in the tests.
    """

    trajectory: Trajectory
    training: Training
    space: ParameterSpace
    start: Tensor
    end: Tensor
    drop: LossDrop
    seed: int = 0
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", Streams(self.seed).child("advice"))

    @classmethod
    def of(cls, trajectory: Trajectory, training: Training, seed: int = 0) -> CheckedRun:
        """Take both ends of the recording and evaluate them.

        Raises:
            InputError: a sketched recording, or a training of other parameters.
        """
        space = training.space_of(trajectory)
        start, end = trajectory.start().double(), trajectory.position(trajectory.n_steps)
        losses = []
        for theta in (start, end):
            with space.temporarily(theta):
                losses.append(training.held_out_losses().numpy())
        return cls(trajectory, training, space, start, end, LossDrop(losses[0], losses[1], seed), seed)

    def held_out(self) -> Float64[np.ndarray, " n_examples"]:
        """Return the held-out losses at the model's present weights."""
        return self.training.held_out_losses().numpy()

    def held_out_at(self, theta: Tensor) -> Float64[np.ndarray, " n_examples"]:
        """Return the held-out losses at theta, (n_params,)."""
        with self.space.temporarily(theta):
            return self.held_out()
