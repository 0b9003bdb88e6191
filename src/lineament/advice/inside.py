"""Training again inside a plane: the recorded optimizer and batches, on a few coefficients, from the run's start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.advice.run import CheckedRun
from lineament.bases import Basis
from lineament.errors import NonFiniteError
from lineament.records import Label, Quantity
from lineament.subspace.optimizer import SubspaceOptimizer

# Adam moves each of k coefficients by about its step size, so that sqrt(n_params / k) times the run's own makes steps
# as long as the run's; a third and three times that are tried too. Gradient descent needs no such factor.
FACTORS = {"adamw": (1 / 3, 1.0, 3.0), "sgd": (1.0, 3.0, 10.0)}
# Where the longest is best on validation, longer ones are tried: so much longer, and so many of them at most.
LONGER, MOST_LONGER = 3.0, 2
Fresh = Callable[[], Basis]
Tell = Callable[[], None]


@dataclass(frozen=True)
class Plane:
    """A plane to train in.

    Attributes:
        basis: at the start. every: steps after which it is made anew; None for never. fresh: makes the next one at the
            model's present weights.
    """

    basis: Basis
    every: int | None = None
    fresh: Fresh | None = None


@dataclass(frozen=True)
class Inside:
    """What a training inside a plane came to.

    Attributes:
        losses: held-out losses at its end, (n_examples,). validation: mean loss that chose its step size; infinite for
            one that diverged. factor: the step size, over the run's own.
    """

    losses: Float64[np.ndarray, " n_examples"]
    validation: float
    factor: float


def best_inside(run: CheckedRun, plane: Plane, tell: Tell) -> Inside:
    """Train as long as the run with several step sizes; return the training with the lowest validation loss."""
    return best_of(lambda factor: trained_inside(run, plane, factor, tell), step_factors(run, plane.basis.rank))


def best_of(train: Callable[[float], Inside], factors: tuple[float, ...]) -> Inside:
    """Train with each step size, and with longer ones as long as the longest is best; return the best on validation.

    Args:
        train: factor of the step size -> what came of it. factors: ascending.
    """
    tried = [train(factor) for factor in factors]
    for _ in range(MOST_LONGER):
        best = min(tried, key=lambda one: one.validation)
        if best is not tried[-1] or not math.isfinite(best.validation):
            break
        tried.append(train(LONGER * best.factor))
    return min(tried, key=lambda one: one.validation)


def trained_inside(run: CheckedRun, plane: Plane, factor: float, tell: Tell, repeat: int = 0) -> Inside:
    """Train as long as the run, at its step sizes times `factor`.

    Args:
        repeat: 0 for the run's own batches, 1 and on for later ones.
    """
    n_steps, lowest = run.n_steps, math.inf
    with run.space.temporarily(run.start):
        optimizer = SubspaceOptimizer(
            run.rule.optimizer(run.space.tensors, weight_decay=False),
            plane.basis,
            run.space,
            refresh=plane.every,
            fresh=plane.fresh,
        )
        for step in range(n_steps):
            for group in optimizer.param_groups:
                group["lr"] = run.rule.at(step) * factor
            if not _step(run, optimizer, repeat * n_steps + step):
                return Inside(run.drop.start, math.inf, factor)
            tell()
        lowest = run.validation()
        return Inside(run.held_out(), lowest if math.isfinite(lowest) else math.inf, factor)


def first_update_cosine(run: CheckedRun) -> Quantity:
    """Compare the first step of the training with the recorded one: 1 where batches and optimizer are the same."""
    labels: dict[str, Label] = {"step": 1}
    if run.trajectory.steps[0] != 1 or not run.moved[0]:
        reason = "the first recorded update is of several steps, or zero"
        return Quantity("first_update_cosine", None, "cosine", labels=labels, reason=reason)
    recorded = run.trajectory.updates(1, 1).rows[0].double()
    with run.space.temporarily(run.start):
        optimizer = run.rule.optimizer(run.space.tensors)
        taken = _step(run, optimizer, 0)
        made = run.space.read(torch.float64).cpu() - run.start
    value = float(torch.nn.functional.cosine_similarity(made, recorded, dim=0)) if taken else math.nan
    return Quantity("first_update_cosine", value, "cosine", labels=labels)


def step_factors(run: CheckedRun, rank: int) -> tuple[float, ...]:
    """Return the step sizes that are tried in a plane of some rank, over the run's own."""
    longer = math.sqrt(run.space.n_params / rank) if run.rule.name == "adamw" else 1.0
    return tuple(factor * longer for factor in FACTORS[run.rule.name])


def gradient_at(run: CheckedRun, step: int) -> Tensor | None:
    """Return the gradient of a step's batch at the model's present weights, (n_params,); None if it is not finite."""
    with torch.enable_grad():
        gradient = run.space.gradient(run.training.loss_of(step))
    return gradient if bool(torch.isfinite(gradient).all()) else None


def _step(run: CheckedRun, optimizer: torch.optim.Optimizer, step: int) -> bool:
    """Take one step on the batch of a step; return whether it could be taken."""
    gradient = gradient_at(run, step)
    if gradient is None:
        return False
    for parameter, part in zip(run.space.tensors, run.space.unflatten(gradient), strict=True):
        parameter.grad = part
    try:
        optimizer.step()
    except NonFiniteError:  # of a plane that was to be made anew
        return False
    optimizer.zero_grad(set_to_none=True)
    return all(bool(torch.isfinite(parameter).all()) for parameter in run.space.tensors)
