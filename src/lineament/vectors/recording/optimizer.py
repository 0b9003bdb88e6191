"""What a recording knows of the optimizer that made its rows: the rule of each parameter group, and every step size.

From it alone the blind run of the recording follows: the same optimizer, step sizes and number of steps, fed gradients
that know nothing (`lineament.vectors.blind`; protocol, section 2, `null_blind`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lineament.errors import InputError
from lineament.parameters import Space
from lineament.vectors.blind import N_COORDINATES, UpdateRule, blind_gram
from lineament.vectors.recording.stated_optimizer import StatedOptimizer
from lineament.vectors.trajectory_gram import TrajectoryGram

# Coordinates times steps of a simulated run, some ten seconds; a longer run has fewer coordinates, but never too few.
COORDINATE_STEPS = 400_000_000
MIN_COORDINATES = 5_000
# Time constants of the slowest average after which what came before makes no difference.
MEMORIES = 10.0
NOT_GIVEN = "the recording does not say which optimizer made it; tell it with --optimizer and the flags beside it"


@dataclass(frozen=True)
class GroupRule:
    """One parameter group: how many of the recorded parameters it holds, and how it moves them."""

    n_params: int
    rule: UpdateRule


@dataclass(frozen=True)
class RecordedOptimizer:
    """The optimizer of a recording.

    Attributes:
        groups: those that hold recorded parameters; empty where no rule is known.
        skipped: steps, counted from 1 at the recording's start, at which the optimizer was not called at all, as
            mixed precision does where gradients overflow.
        reason: why no rule is known; empty where one is.
    """

    groups: tuple[GroupRule, ...] = ()
    skipped: tuple[int, ...] = ()
    reason: str = NOT_GIVEN

    @property
    def known(self) -> bool:
        """Whether a blind run can be made."""
        return bool(self.groups)

    @property
    def momentum(self) -> float | None:
        """The largest momentum, or beta1, of any group; None where no rule is known."""
        return max((group.rule.momentum for group in self.groups), default=None)

    @property
    def words(self) -> str:
        """The optimizer in a few words."""
        if not self.groups:
            return self.reason
        rule = self.groups[0].rule
        key = "beta1" if rule.name == "adamw" else "momentum"
        more = f", weight decay {rule.weight_decay:g}" if rule.weight_decay else ""
        sizes = f"{max(rule.step_sizes):.3g}"
        changing = ", step size up to " if len(set(rule.step_sizes)) > 1 else ", step size "
        groups = f", and {len(self.groups) - 1} more parameter groups" if len(self.groups) > 1 else ""
        return f"{rule.name}, {key} {rule.momentum:g}{more}{changing}{sizes}{groups}"

    @classmethod
    def stated(cls, stated: StatedOptimizer, n_params: int, first_step: int, n_steps: int) -> RecordedOptimizer:
        """Make the rule of a training that is told and not recorded.

        Args:
            first_step: optimizer steps of the training before the recording.
            n_steps: optimizer steps of the recording.
        """
        if stated.optimizer is None:
            return cls()
        sizes = stated.step_sizes(first_step + n_steps)
        sizes = sizes if len(sizes) == 1 else sizes[first_step:]
        momentum = 0.0 if stated.optimizer == "sgd" else stated.momentum
        if stated.optimizer == "adamw":
            rule = UpdateRule("adamw", sizes, momentum, stated.beta2, stated.eps, stated.weight_decay)
        else:
            rule = UpdateRule("sgd", sizes, momentum, weight_decay=stated.weight_decay)
        return cls((GroupRule(n_params, rule),), reason="")

    def body(self) -> dict[str, Any]:
        """Return it as the index of a recording holds it."""
        groups = [{"n_params": group.n_params, **asdict(group.rule)} for group in self.groups]
        return {"groups": groups, "skipped": list(self.skipped), "reason": self.reason}

    @classmethod
    def of_body(cls, body: Mapping[str, Any] | None) -> RecordedOptimizer:
        """Read what `body` wrote; None of a recording that is older than this."""
        if body is None:
            return cls()
        groups = []
        for stored in body["groups"]:
            settings = {key: value for key, value in stored.items() if key not in ("n_params", "step_sizes")}
            sizes = tuple(float(size) for size in stored["step_sizes"])
            groups.append(GroupRule(int(stored["n_params"]), UpdateRule(step_sizes=sizes, **settings)))
        return cls(tuple(groups), tuple(int(step) for step in body["skipped"]), str(body["reason"]))


def blind_rows(
    known: RecordedOptimizer,
    steps: Sequence[int],
    first_step: int = 0,
    *,
    gradient_rms: float = 1.0,
    start_rms: float = 0.0,
    seed: int = 0,
) -> TrajectoryGram:
    """Return the Gram matrix of a blind run at the rows of a recording, per coordinate: their mean over the groups.

    Args:
        steps: optimizer steps after which each row was taken, from the recording's start; rows of several steps are
            the sums of their updates.
        first_step: steps of the training before the recording, which fill the optimizer's memory.
        gradient_rms, start_rms: as in `blind_gram`, the same for all groups.
        seed: of the simulation.

    Returns:
        G, (n_rows, n_rows) float64, in squared weight units per coordinate.

    Raises:
        InputError: no rule is known.
    """
    if not known.groups:
        raise InputError(f"there is no blind run: {known.reason}.")
    skipped = np.array(sorted(known.skipped), dtype=int)
    made = [step - int(np.searchsorted(skipped, step, side="right")) for step in (0, *steps)]
    before = min(first_step, max(_memory(group.rule) for group in known.groups))
    bounds = [before + count for count in made]
    n_coordinates = int(np.clip(COORDINATE_STEPS // max(1, bounds[-1]), MIN_COORDINATES, N_COORDINATES))
    total, n_params = np.zeros((len(steps), len(steps))), sum(group.n_params for group in known.groups)
    for group in known.groups:
        # earlier step sizes move no recorded row; the weights start where the recording does
        rule = replace(group.rule, step_sizes=(0.0,) * before + group.rule.step_sizes)
        gram = blind_gram(
            rule,
            bounds[-1],
            gradient_rms=gradient_rms,
            start_rms=start_rms,
            n_coordinates=n_coordinates,
            seed=seed,
            bounds=bounds,
        )
        total += group.n_params / n_params * gram.gram
    return TrajectoryGram(total, Space("full", n_coordinates, "blind"))


def _memory(rule: UpdateRule) -> int:
    """Return the number of steps after which an optimizer's averages have forgotten their beginning."""
    slowest = max(rule.momentum, rule.beta2 if rule.name == "adamw" else 0.0)
    return math.ceil(MEMORIES / (1 - slowest))
