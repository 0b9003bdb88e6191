"""The optimizer of a training as somebody states it, where no recorder saw it. Flags are made of it: no torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from lineament.errors import InputError
from lineament.settings.fields import DecayRate, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lineament.settings.flag_values import flag_ranges
from lineament.settings.ranges import is_finite

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class StatedOptimizer:
    """The optimizer of a training that is told on the command line."""

    HEADING: ClassVar[str] = "The optimizer that made the updates, for blind values"

    optimizer: Literal["sgd", "momentum", "adamw"] | None = None
    """optimizer that made the updates, where the recording does not say; needed for blind values"""
    lr: PositiveFloat = 1e-3
    """peak step size of that optimizer; matters for dW, and beside weight decay"""
    momentum: DecayRate = 0.9
    """momentum of the optimizer momentum, beta1 of adamw"""
    beta2: DecayRate = 0.999
    """decay of adamw's second moment"""
    eps: NonNegativeFloat = 1e-8
    """offset of adamw's denominator"""
    weight_decay: NonNegativeFloat = 0.0
    """decoupled weight decay of adamw, L2 penalty of sgd and momentum"""
    schedule: Schedule = "constant"
    """how the step size goes after the warm-up: constant, or down to 0 linearly or as half a cosine"""
    warmup_steps: NonNegativeInt = 0
    """optimizer steps over which the step size rises linearly from 0, which it is at the first step"""
    schedule_steps: PositiveInt | None = None
    """optimizer steps of the whole schedule; default: up to the last recorded step"""

    def check_optimizer(self) -> None:
        """Refuse numbers that no optimizer has.

        Raises:
            InputError: one that is out of its range, with the range.
        """
        for name, allowed in flag_ranges(StatedOptimizer).items():
            value = getattr(self, name)
            if value is not None and not (is_finite(value) and allowed.holds(value)):
                raise InputError(f"{name} is {value:g}; it must be finite and {allowed.words}.")
        if self.schedule_steps is not None and not self.warmup_steps < self.schedule_steps:
            raise InputError(
                f"schedule_steps is {self.schedule_steps}; it must be above warmup_steps, {self.warmup_steps}."
            )

    def step_sizes(self, n_steps: int) -> tuple[float, ...]:
        """Return the step size of every step of a training, as transformers' schedules have it.

        Args:
            n_steps: optimizer steps from the training's own start.

        Returns:
            One number that holds for all steps, or one for each of them.
        """
        if self.schedule == "constant" and not self.warmup_steps:
            return (self.lr,)
        return tuple(self.lr * self._share(step, self.schedule_steps or n_steps) for step in range(n_steps))

    def _share(self, step: int, n_steps: int) -> float:
        """Return the share of the peak step size at a step, counted from 0."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, n_steps - self.warmup_steps))
        if self.schedule == "linear":
            return 1.0 - done
        return 1.0 if self.schedule == "constant" else 0.5 * (1.0 + math.cos(math.pi * done))
