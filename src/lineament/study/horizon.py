"""When a recovery is judged: a fixed number of steps T, and T_loss, where most of the loss gap is closed (protocol, 0).

T is set beforehand and is the same for every seed. A T read off the accuracy curve would follow the noise of the
evaluation set: on 64 examples the same learning curve gives a T of 26 to 67 steps, and captures follow T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lineament.errors import InputError
from lineament.files.schemas import read_ours
from lineament.files.tensors import MADE_AGAIN

# Share of the loss gap between the damaged and the trained model that is closed at T_loss.
CLOSED_SHARE = 0.95
# Recording goes on to this multiple of T, so that there are updates after the point that is judged.
RECORDED_MULTIPLE = 1.2
N_EVALUATIONS = 20
# A task must have been learned and lost: 95 % of a lower accuracy is reached by chance.
MIN_TRAINED_ACCURACY, MIN_LOST_ACCURACY = 0.85, 0.3


def recorded_steps(n_steps: int) -> int:
    """Return how many updates are recorded of a recovery that is judged after `n_steps`."""
    return math.ceil(RECORDED_MULTIPLE * n_steps)


def evaluation_steps(n_steps: int) -> list[int]:
    """Return the steps at which a recovery is evaluated: every max(1, T / 20), with 0, T and the last one."""
    last = recorded_steps(n_steps)
    return sorted({*range(0, last + 1, max(1, n_steps // N_EVALUATIONS)), n_steps, last})


def steps_to_recovery(steps: Sequence[int], accuracies: Sequence[float], wanted: float) -> int | None:
    """Return the first evaluated step from which accuracy stays at what is wanted or above; None if there is none.

    Args:
        steps: evaluated steps in their order, the first of them 0.
        accuracies: evaluation accuracy at each.
        wanted: `recovery.threshold` times the trained model's accuracy.
    """
    first = None
    for step, accuracy in zip(steps, accuracies, strict=True):
        if accuracy < wanted:
            first = None
        elif first is None:
            first = step
    return first


def loss_step(steps: Sequence[int], losses: Sequence[float], trained_loss: float) -> int | None:
    """Return T_loss: the first step with 95 % of the loss gap to the trained model closed, linear between evaluations.

    None where the gap was not closed so far, or where there is none because damage did not raise the loss.
    """
    gap = losses[0] - trained_loss
    if not gap > 0:
        return None
    wanted = losses[0] - CLOSED_SHARE * gap
    for (before, above), (after, below) in zip(
        zip(steps, losses, strict=True), zip(steps[1:], losses[1:], strict=True), strict=False
    ):
        if below <= wanted:
            return math.ceil(before + (above - wanted) / (above - below) * (after - before))
    return None


def why_not_a_task(trained_accuracy: float, damaged_accuracy: float) -> str | None:
    """Return why a study of this task decides nothing, or None: it must have been learned and then lost."""
    if trained_accuracy < MIN_TRAINED_ACCURACY:
        return f"the task was not learned: accuracy {trained_accuracy:.2f} of the trained model is below 0.85"
    if damaged_accuracy > trained_accuracy - MIN_LOST_ACCURACY:
        return (
            f"the task was not lost: damage took accuracy from {trained_accuracy:.2f} to {damaged_accuracy:.2f}, less "
            "than 0.3"
        )
    return None


@dataclass(frozen=True)
class RecoveryCurve:
    """What a recovery did (step 0 is theta_broken).

    Attributes:
        n_steps: T, after which the recovery is judged.
        steps: where it was evaluated, (n_evaluations,).
        loss, accuracy: on the target's evaluation set at those steps, (n_evaluations,).
        train_loss: on each step's batch before the step, (n_recorded,).
        trained_loss, trained_accuracy: of the trained model on the same set.
        threshold: share of the trained accuracy at which the target counts as recovered.
    """

    n_steps: int
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]
    trained_loss: float
    trained_accuracy: float
    threshold: float

    @property
    def recovered_at(self) -> int | None:
        """T if the target is recovered there, else None."""
        return None if self.why_not_recovered else self.n_steps

    @property
    def why_not_recovered(self) -> str | None:
        """Why there are no captures, or None: accuracy at T must reach the threshold."""
        accuracy, wanted = self._at(self.accuracy, self.n_steps), self.threshold * self.trained_accuracy
        if accuracy >= wanted:
            return None
        return f"not recovered at T = {self.n_steps}: accuracy {accuracy:.2f} is below {wanted:.2f}"

    @property
    def steps_to_recovery(self) -> int | None:
        """First evaluated step from which accuracy stays at the threshold or above."""
        return steps_to_recovery(self.steps, self.accuracy, self.threshold * self.trained_accuracy)

    @property
    def loss_step(self) -> int | None:
        """T_loss, at most T; None where 95 % of the loss gap was not closed by then."""
        step = loss_step(self.steps, self.loss, self.trained_loss)
        return step if step is not None and step <= self.n_steps else None

    def loss_at(self, step: int) -> float:
        """Return the evaluation loss at any recorded step, linear between evaluations."""
        return self._at(self.loss, step)

    def _at(self, values: Sequence[float], step: int) -> float:
        return float(np.interp(step, self.steps, values))


def read_curve(file: Path) -> RecoveryCurve:
    """Read how a recovery went; `InputError` for a damaged file."""
    body = read_ours(file, "curve", MADE_AGAIN)
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
    curve = RecoveryCurve(**fields)
    for name in ("loss", "accuracy"):
        if not curve.steps or len(getattr(curve, name)) != len(curve.steps):
            raise InputError(
                f"{file} is damaged: {name} has {len(getattr(curve, name))} entries for {len(curve.steps)} steps. "
                f"{MADE_AGAIN}"
            )
    return curve
