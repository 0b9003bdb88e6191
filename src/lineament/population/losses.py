"""Losses of several parameter vectors of one model on one batch, with gradients, in one pass where the space allows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.population.population import LogitsModule, Way, stacked_parameters
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
        logits = _functional_logits(problem, batch, thetas, mapped=way == "functional")
    return torch.stack([mean_losses(member, batch.targets).mean() for member in logits])


def _fastest(problem: Problem) -> Way:
    if can_share(problem):
        return "shared"
    return "functional" if problem.vmaps else "one_by_one"


def _functional_logits(problem: Problem, batch: Batch, thetas: Tensor, *, mapped: bool) -> Tensor:
    module, stacked = LogitsModule(problem, batch), stacked_parameters(problem, thetas)

    def one(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, parameters, ())  # type: ignore[no-any-return]

    if mapped:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
            logits: Tensor = torch.func.vmap(one)(stacked)
        return logits
    return torch.stack([one({name: part[i] for name, part in stacked.items()}) for i in range(len(thetas))])
