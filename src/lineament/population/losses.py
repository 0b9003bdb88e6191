"""Losses of several parameter vectors of one model on one batch, with gradients, in one pass where the space allows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lineament.population.population import Way, functional_logits
from lineament.population.shared_pass import can_share, shared_logits
from lineament.problems.problem import Batch, Problem, mean_losses


def losses_at(
    problem: Problem, batch: Batch, thetas: Float[Tensor, "n_members n_params"], way: Way | None = None
) -> Float[Tensor, " n_members"]:
    """Compute the mean loss over the batch at each parameter vector, differentiable with respect to `thetas`.

    The model's own weights are neither read nor changed. A loss that is not finite leaves the others' gradients alone.

    Args:
        thetas: whole parameter vectors, on the problem's device, in its parameters' precision.
        way: default `shared` for an adapter that can share its pass, `functional` where the model can be mapped over
            stacked parameters, otherwise `one_by_one`.

    Raises:
        InputError: `shared` asked for where it cannot be had.
    """
    batch = batch.to(problem.device)
    way = way or _fastest(problem)
    if way == "shared":
        logits = shared_logits(problem, batch, thetas)
    else:
        logits = functional_logits(problem, batch, thetas, mapped=way == "functional")
    return torch.stack([mean_losses(member, batch.targets).mean() for member in logits])


def _fastest(problem: Problem) -> Way:
    if can_share(problem):
        return "shared"
    return "functional" if problem.vmaps else "one_by_one"
