"""What a step in weight space does to activations: its shift, finite and as a Jacobian-vector product, and the inverse.

Theta moves by a small delta; the shift is the mean over prompts of h(theta + delta) - h(theta), at every wanted layer.
To first order it is J delta, J the Jacobian of the mean activation (protocol, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.sparse.linalg import LinearOperator, lsmr
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.activations.blocks import find_blocks
from lineament.activations.capture import GroupSums, Place, group_sums, length_sorted, problem_reader, summed
from lineament.errors import InputError, NonFiniteError
from lineament.problems.problem import IGNORED, Batch, Problem
from lineament.vectors.gradients import derivatives_required, mean_gradient

StepKind = Literal["raw", "adam"]
ADAM_EPS = 1e-8


def label_gradient(problem: Problem, batch: Batch, label: int) -> Float64[Tensor, " n_params"]:
    """Return the gradient of the mean of -log p(label) over the prompts, (n_params,) float64; ignores true labels.

    Args:
        label: token id, taken as the target at every target position of the batch.
    """
    return mean_gradient(problem, replace(batch, targets=torch.where(batch.targets == IGNORED, IGNORED, label)))


def step_direction(gradient: Float[Tensor, " n_params"], kind: StepKind = "raw") -> Float[Tensor, " n_params"]:
    """Return the direction in which theta moves, of norm 1: minus the gradient, or Adam's first step.

    Raises:
        InputError: the gradient is zero.
        NonFiniteError: the gradient is NaN or infinite, as the model's weights or activations then are.
    """
    if not torch.isfinite(gradient).all():
        raise NonFiniteError(
            "the gradient is NaN or infinite: the model's weights or activations are, before any step is made."
        )
    if not gradient.norm() > 0:
        raise InputError("the gradient is zero: no weight of the measured space changes the wanted probability here.")
    moved = gradient if kind == "raw" else gradient / (gradient.abs() + ADAM_EPS)
    unit: Tensor = -moved / moved.norm()
    return unit


def jacobian_shift(
    problem: Problem,
    direction: Float[Tensor, " n_params"],
    batch: Batch,
    place: Place,
    groups: Int[Tensor, " n_examples"],
    n_groups: int,
) -> GroupSums:
    """Compute J direction by group of prompts: exactly, by forward-mode differentiation at the present weights.

    Args:
        direction: (n_params,) in the problem's space.
        groups: (n_examples,) group of each prompt, 0 .. n_groups - 1.

    Returns:
        Sums over each group of dh/dt for theta + t * direction; `means()` are (n_groups, n_layers, width).
    """
    reader = problem_reader(problem, place)
    module, tangents = _Callable(problem.model, reader.read), problem.parameters.unflatten(direction)

    def tangent(part: Batch) -> Tensor:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            pairs = zip(problem.parameters.names, problem.parameters.tensors, tangents, strict=True)
            duals = {f"model.{n}": forward_ad.make_dual(p.detach(), t.to(p)) for n, p, t in pairs}  # type: ignore[no-untyped-call]
            hidden = torch.func.functional_call(module, duals, (part,))
            moved: Tensor | None = forward_ad.unpack_dual(hidden).tangent  # type: ignore[no-untyped-call]
            return torch.zeros_like(hidden) if moved is None else moved

    passes = ((index, tangent(batch.rows(index))) for index in length_sorted(batch))
    with torch.no_grad():
        return summed(passes, groups, n_groups)


def require_jacobian(problem: Problem, batch: Batch) -> None:
    """Try forward-mode differentiation on one example, before anything is trained or written.

    Raises:
        InputError: the model has an operation without it, or blocks that no activation can be read after.
    """
    first = batch.rows(torch.arange(1))
    place, direction = Place((len(find_blocks(problem.model)),)), torch.ones(problem.parameters.n_params)
    lacks = "cannot be differentiated forwards, which a weight step's shift needs"
    with derivatives_required(problem, lacks, "Leave steering out of --measure, or use --method caa."):
        jacobian_shift(problem, direction, first, place, torch.zeros(1, dtype=torch.long), 1)


def finite_shift(
    problem: Problem,
    delta: Float[Tensor, " n_params"],
    batch: Batch,
    place: Place,
    groups: Int[Tensor, " n_examples"],
    n_groups: int,
) -> Float64[Tensor, "n_groups n_layers width"]:
    """Average h(theta + delta) - h(theta) by group, (n_groups, n_layers, width) float64; restores the weights."""
    reader = problem_reader(problem, place)
    before = group_sums(reader, batch, groups, n_groups).means()
    theta = problem.parameters.read(torch.float64)
    with problem.parameters.temporarily(theta + delta.to(theta)):
        return group_sums(reader, batch, groups, n_groups).means() - before


@dataclass(frozen=True)
class WeightEdit:
    """A change of weights made to shift activations as wanted.

    Attributes:
        delta: (n_params,) float64, of least norm among those that come as close.
        shift: (width,) J delta, the shift to first order.
        cosine: of the shift with the wanted one.
        residual: |J delta - wanted| / |wanted|.
        iterations: Jacobian products, forward and backward.
    """

    delta: Float64[Tensor, " n_params"]
    shift: Float64[Tensor, " width"]
    cosine: float
    residual: float
    iterations: int


def weight_edit(
    problem: Problem,
    wanted: Float[Tensor, " ..."],
    layer: int,
    batch: Batch,
    *,
    iterations: int = 20,
    damping: float = 0.0,
) -> WeightEdit:
    """Find the weight edit that best produces a shift: least squares through the Jacobian, by LSMR.

    Minimises |J delta - wanted|^2 + damping^2 |delta|^2 over delta in the measured space, J at the present weights
    of the mean activation over the batch's prompts (Fong and Saunders 2011). Matrix-free: one product with J and one
    with its transpose per iteration.

    Args:
        wanted: (width,) shift at the layer, in activation units.

    Raises:
        InputError: `wanted` is zero or of another width.
    """
    place = Place((layer,))
    width = problem_reader(problem, place).read(batch.rows(torch.arange(1))).shape[-1]
    if wanted.shape != (width,) or not wanted.norm() > 0:
        raise InputError(
            f"the wanted shift has shape {tuple(wanted.shape)} or is zero; give {width} numbers that are not all zero."
        )
    jacobian = _jacobian(problem, width, batch, place)
    target = wanted.detach().double().cpu()
    delta, _, used, *_ = lsmr(jacobian, target.numpy(), damp=damping, maxiter=iterations)
    shift = torch.from_numpy(jacobian.matvec(delta))
    cosine = float(torch.nn.functional.cosine_similarity(shift, target, dim=0))
    residual = float((shift - target).norm() / target.norm())
    return WeightEdit(torch.from_numpy(delta), shift, cosine, residual, int(used))


def _jacobian(problem: Problem, width: int, batch: Batch, place: Place) -> LinearOperator:
    """Return J of the mean activation over the batch's prompts, (width, n_params), known by its products alone."""
    groups = torch.zeros(len(batch), dtype=torch.long)

    def forward(delta: np.ndarray) -> np.ndarray:
        sums = jacobian_shift(problem, torch.from_numpy(np.ravel(delta)), batch, place, groups, 1)
        return sums.means()[0, 0].numpy()

    def backward(weights: np.ndarray) -> np.ndarray:
        return _pulled_back(problem, torch.from_numpy(np.ravel(weights)), batch, place).numpy()

    shape = (width, problem.parameters.n_params)
    return LinearOperator(shape, matvec=forward, rmatvec=backward, dtype=np.float64)


def _pulled_back(
    problem: Problem, weights: Float[Tensor, " width"], batch: Batch, place: Place
) -> Float64[Tensor, " n_params"]:
    """Return J^T weights: the gradient of <mean activation, weights>, (n_params,) float64."""
    reader, total = problem_reader(problem, place), torch.zeros(problem.parameters.n_params, dtype=torch.float64)
    with problem.parameters.requiring_gradients(), torch.enable_grad():
        for index in length_sorted(batch):
            hidden = reader.read(batch.rows(index))[:, 0]
            total += problem.parameters.gradient((hidden @ weights.to(hidden)).sum()).double().cpu()
    return total / len(batch)


class _Callable(nn.Module):
    """A function of a batch beside the model whose parameters it uses, so that they can be swapped."""

    def __init__(self, model: nn.Module, function: object) -> None:
        super().__init__()
        self.model, self._function = model, function

    def forward(self, batch: Batch) -> Tensor:
        return self._function(batch)  # type: ignore[operator,no-any-return]
