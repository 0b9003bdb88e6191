"""What moves in weight space do to activations and logits of prompts: shifts, and the sum of two moves in the weights.

With LoRA factors a sum can be taken in two ways: of the factors, (B + b1 + b2)(A + a1 + a2), which has cross terms, or
of the changes of the weights themselves, dW1 + dW2. The second is exact and merges nothing: hooks add dW x to what an
adapted layer returns, so that no weight of the base model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from lineament.activations.blocks import find_blocks, output_tensor
from lineament.activations.capture import Place, all_layers, problem_reader
from lineament.errors import InputError
from lineament.measurements.local_geometry.geometry import Geometry
from lineament.parameters import ParameterSpace
from lineament.problems.factor_pairs import FactorPair, factor_pairs
from lineament.problems.problem import Batch, Problem, Split, at_positions
from lineament.records import is_told
from lineament.vectors.local_geometry import displaced


@dataclass(frozen=True)
class Shift:
    """The mean shift over prompts of an activation, or of a logit (width 1).

    Attributes:
        halves: over each half of the prompts, every other one, (2, width).
        variance: squared standard error of the mean over all prompts, summed over the width.
    """

    halves: Float64[Tensor, "2 width"]
    variance: float

    @property
    def mean(self) -> Float64[Tensor, " width"]:
        """Over both halves, (width,)."""
        return self.halves.mean(dim=0)

    @property
    def size(self) -> float:
        """Norm of the mean shift."""
        return float(self.mean.norm())


@dataclass(frozen=True)
class Defect:
    """How far the shift of a sum is from the sum of the shifts.

    Attributes:
        value: |s(a + b) - s(a) - s(b)| / (|s(a)| + |s(b)|).
        halves: half the distance between the defect vectors of the two halves of the prompts, over the same: what the
            choice of prompts makes.
        known: whether the denominator is above 3 of its standard errors over prompts.
    """

    value: float
    halves: float
    known: bool


@dataclass(frozen=True)
class Rows:
    """What is read of every prompt at its last target position.

    Attributes:
        activation: output of the chosen block, (n_prompts, width).
        logit: of the right answer, (n_prompts, 1).
    """

    activation: Float64[Tensor, "n_prompts width"]
    logit: Float64[Tensor, "n_prompts 1"]


def shift_of(rows: Float64[Tensor, "n_prompts width"]) -> Shift:
    """Average the prompts' shifts (n_prompts, width)."""
    n = len(rows)
    halves = torch.stack([rows[::2].mean(dim=0), rows[1::2].mean(dim=0)])
    return Shift(halves, float((rows - rows.mean(dim=0)).square().sum()) / (n * (n - 1)) if n > 1 else torch.inf)


def joined(first: Shift, second: Shift) -> Shift:
    """Average the shifts of two sets of prompts, each with weight 1/2."""
    return Shift((first.halves + second.halves) / 2, (first.variance + second.variance) / 4)


def defect(together: Shift, first: Shift, second: Shift) -> Defect:
    """Compare the shift of a sum of two moves with the sum of their shifts."""
    residual = together.halves - first.halves - second.halves
    total = first.size + second.size
    error = (first.variance + second.variance) ** 0.5
    if total == 0:
        return Defect(torch.nan, torch.nan, False)
    apart = float((residual[0] - residual[1]).norm()) / 2
    return Defect(float(residual.mean(dim=0).norm()) / total, apart / total, is_told(total, error))


def prompts_of(geometry: Geometry, task: str, split: Split) -> Batch:
    """Return fixed prompts of a task with their last target position alone, on which shifts are measured."""
    n = geometry.study.settings.geometry.prompts
    return geometry.study.problem.fixed(task, split).rows(slice(0, n)).last_target()


def why_no_activations(problem: Problem) -> str | None:
    """Say why no activation of this model can be read, or return None; tried on one prompt."""
    prompt = problem.fixed(problem.tasks[0], "held_out").rows(slice(0, 1))
    try:
        with torch.no_grad():
            problem_reader(problem, Place(all_layers(problem.model))).read(prompt)
    except InputError as error:
        return str(error)
    return None


@torch.no_grad()
def read_prompts(problem: Problem, prompts: Batch, layer: int) -> Rows:
    """Read a block's output and the right answer's logit at the last target position, in one pass.

    Args:
        prompts: with one target each.
        layer: counted from 1.
    """
    held: list[Tensor] = []
    block = find_blocks(problem.model).at(layer)
    parts = [part.to(problem.device) for part in prompts.chunks(problem.chunk)]
    logits = []
    for part in parts:

        def keep(module: object, inputs: object, output: Any, positions: Tensor = part.positions) -> None:
            held.append(at_positions(output_tensor(output), positions)[:, 0].double().cpu())

        handle = block.register_forward_hook(keep)
        try:
            logits.append(problem.logits(part)[:, -1].gather(1, part.targets).double().cpu())
        finally:
            handle.remove()
    return Rows(torch.cat(held), torch.cat(logits))


@contextmanager
def moved(space: ParameterSpace, moves: Sequence[Float[Tensor, " n_params"]]) -> Iterator[None]:
    """Hold theta plus the sum of moves inside the block; the weights come back bit for bit."""
    with space.temporarily(displaced(space, torch.stack(list(moves)).sum(dim=0))):
        yield


@contextmanager
def summed_in_weights(space: ParameterSpace, moves: Sequence[Float[Tensor, " n_params"]]) -> Iterator[None]:
    """Hold the sum of the weight changes that moves of LoRA factors make, each taken alone from theta.

    dW = scale ((B + b)(A + a) - B A) of every move, exact to rounding. No weight changes: hooks on the adapted layers
    add dW x to their output.

    Args:
        moves: of the factors, each (n_params,).

    Raises:
        InputError: the space holds no LoRA factors.
    """
    theta, modules = space.read(torch.float64).cpu(), dict(space.module.named_modules())
    with ExitStack() as stack:
        for pair in factor_pairs(space):
            adding = _adding(*change_factors(pair, theta, moves))
            stack.callback(modules[pair.module].register_forward_hook(adding).remove)
        yield


def change_factors(
    pair: FactorPair, theta: Float64[Tensor, " n_params"], moves: Sequence[Float[Tensor, " n_params"]]
) -> tuple[Float64[Tensor, "d_out k"], Float64[Tensor, "k d_in"]]:
    """Return L (d_out, k) and R (k, d_in) with L R the sum of one weight's changes, nothing subtracted on the way."""
    left, right = [], []
    a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
    for move in moves:
        step = move.detach().double().cpu()
        a_step, b_step = step[pair.a].view(pair.a_shape), step[pair.b].view(pair.b_shape)
        left += [b_step, b]
        right += [a + a_step, a_step]
    return pair.scale * torch.cat(left, dim=1), torch.cat(right)


def _adding(left: Tensor, right: Tensor) -> Callable[..., Tensor]:
    def hook(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(output)
        added = functional.linear(functional.linear(x, right.to(output)), left.to(output))
        return output + added

    return hook
