"""What an optimizer does when its gradients know nothing: the blind null of every figure made of updates.

Momentum makes neighbouring updates alike and bias correction makes the first ones long, so the updates of AdamW on pure
noise lie in few directions too. A capture, an overlap of windows or a span says something about the task only as far as
it differs from the same figure of a blind run: the same optimizer, step sizes and number of steps, fed independent
Gaussian gradients (protocol, section 2, `null_blind`). No model is needed. Null: this is the null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import Space
from lineament.streams import Streams
from lineament.vectors.trajectory_gram import TrajectoryGram

# Captures of one simulated run vary by about 1 / sqrt(N_COORDINATES), half a percentage point.
N_COORDINATES = 50_000
# Coordinates that pass through Adam at a time: bounds memory at 2 000 float64 numbers per step.
CHUNK = 2_000
RuleName = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class UpdateRule:
    """How gradients become updates: the settings of an optimizer, with its step size at every step.

    Attributes:
        name: `sgd` (with or without momentum) or `adamw`.
        step_sizes: learning rate of every step, in its order; one number means that it never changes.
        momentum: of SGD, or beta1 of AdamW.
        beta2: second-moment decay of AdamW.
        eps: offset of AdamW's denominator, in units of the gradient.
        weight_decay: decoupled for AdamW, L2 for SGD, as in torch.
        dampening, nesterov: of SGD with momentum, as in torch.
    """

    name: RuleName
    step_sizes: tuple[float, ...] = (1.0,)
    momentum: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adamw"):
            raise InputError(
                f"the optimizer is {self.name!r}; a blind run is known of sgd and adamw. Name one of them."
            )
        for key, value in (("momentum", self.momentum), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise InputError(f"{key} is {value:g}; it must be at least 0 and below 1.")
        if not self.step_sizes or not np.all(np.isfinite(self.step_sizes)):
            raise InputError(f"step sizes are {self.step_sizes}; give at least one, all of them finite.")

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, step_sizes: Sequence[float] | None = None) -> UpdateRule:
        """Read the rule from a torch optimizer: SGD, Adam without weight decay, or AdamW.

        Args:
            step_sizes: learning rate of every step, where a schedule changes it; default the optimizer's own.

        Raises:
            InputError: the optimizer is of another kind, or its parameter groups differ in what is read.
        """
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        sizes = tuple(float(size) for size in (step_sizes if step_sizes is not None else [groups[0]["lr"]]))
        rules = {rule_of_group(type(optimizer).__name__, group, sizes) for group in groups}
        if len(rules) != 1:
            raise InputError(
                f"the optimizer's {len(groups)} parameter groups have different settings; a blind run is made for one. "
                "Give an UpdateRule for the group that matters."
            )
        return rules.pop()

    def at(self, step: int) -> float:
        """Return the step size of a step, counted from 0; the last one given holds on."""
        return self.step_sizes[min(step, len(self.step_sizes) - 1)]

    def optimizer(self, tensors: Iterable[Tensor], *, weight_decay: bool = True) -> torch.optim.Optimizer:
        """Make the torch optimizer of this rule over some tensors, at the first step's step size.

        Args:
            weight_decay: leave it out with False.
        """
        decay = self.weight_decay if weight_decay else 0.0
        if self.name == "adamw":
            betas = (self.momentum, self.beta2)
            return torch.optim.AdamW(tensors, lr=self.at(0), betas=betas, eps=self.eps, weight_decay=decay)
        return torch.optim.SGD(
            tensors,
            lr=self.at(0),
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=decay,
            nesterov=self.nesterov,
        )


def blind_gram(
    rule: UpdateRule,
    n_steps: int,
    *,
    gradient_rms: float = 1.0,
    start_rms: float = 0.0,
    n_coordinates: int = N_COORDINATES,
    seed: int = 0,
    space: Space | None = None,
    bounds: Sequence[int] | None = None,
) -> TrajectoryGram:
    """Return the Gram matrix of a blind run's updates, per coordinate: a recording that knows nothing of any task.

    Gradients are independent N(0, gradient_rms^2) at every step and coordinate. For SGD, updates are linear in them, so
    the matrix is the exact expectation, for any momentum, dampening, schedule and weight decay. For AdamW it is that
    of one run of `n_coordinates` coordinates, whose captures vary by about 1 / sqrt(n_coordinates) from run to run.
    Scales cancel in every capture and overlap unless eps or weight decay ties them to the gradient.

    Args:
        n_steps: number of updates.
        gradient_rms: root mean square of a gradient's coordinate; matters beside AdamW's eps and for weight decay.
        start_rms: root mean square of a weight at the start; matters for weight decay only.
        n_coordinates: coordinates that are simulated for AdamW.
        seed: of those simulations.
        space: the space that the matrix is to be asked in; default one of its own.
        bounds: steps between which updates are summed, as in a recording of every m-th point: row i is the sum of the
            updates after step bounds[i], up to step bounds[i + 1] <= n_steps. Default 0, 1, .., n_steps.

    Returns:
        G, (n_rows, n_rows) float64, in squared weight units per coordinate; n_rows is n_steps unless `bounds` says
        otherwise.

    Raises:
        InputError: a number of steps or coordinates, a root mean square, or bounds that cannot be.
    """
    for key, value, least in (("n_steps", n_steps, 1), ("n_coordinates", n_coordinates, 1)):
        if value < least:
            raise InputError(f"{key} is {value}; it must be at least {least}.")
    if not (gradient_rms > 0 and start_rms >= 0):
        raise InputError(
            f"gradient_rms is {gradient_rms:g} and start_rms is {start_rms:g}; the first must be above 0, the second "
            "at least 0."
        )
    row_ends = tuple(range(n_steps + 1)) if bounds is None else tuple(int(bound) for bound in bounds)
    if len(row_ends) < 2 or row_ends[0] < 0 or row_ends[-1] > n_steps or np.any(np.diff(row_ends) < 0):
        shown = f"{row_ends[:5]}.."
        raise InputError(f"bounds are {shown}; give at least two that do not fall, from 0 to n_steps, {n_steps}.")
    whole = replace(rule, step_sizes=tuple(rule.at(step) for step in range(row_ends[-1])))
    if rule.name == "sgd":
        matrix = _linear_gram(whole, row_ends, gradient_rms, start_rms)
    else:
        matrix = _simulated_gram(whole, row_ends, (gradient_rms, start_rms), n_coordinates, seed)
    return TrajectoryGram(matrix.copy(), space or Space("full", n_coordinates, "blind"))


@lru_cache(maxsize=64)
def _linear_gram(rule: UpdateRule, bounds: tuple[int, ...], gradient_rms: float, start_rms: float) -> np.ndarray:
    """Return the expected Gram matrix of SGD, whose updates are linear in theta_0 and the gradients.

    Row i of `rows` holds the coefficients of the summed updates over theta_0, g_1 .. g_T.
    """
    n_steps, row_of = len(rule.step_sizes), _row_of_step(bounds)
    theta, buffer = np.zeros(n_steps + 1), np.zeros(n_steps + 1)
    theta[0] = 1.0
    rows = np.zeros((len(bounds) - 1, n_steps + 1))
    for step, size in enumerate(rule.step_sizes):
        gradient = rule.weight_decay * theta
        gradient[step + 1] += 1.0
        # torch sets the buffer to the first gradient without dampening
        buffer = gradient.copy() if step == 0 else rule.momentum * buffer + (1 - rule.dampening) * gradient
        direction = gradient + rule.momentum * buffer if rule.nesterov else buffer
        update = -size * (direction if rule.momentum else gradient)
        theta = theta + update
        if row_of[step] >= 0:
            rows[row_of[step]] += update
    scales = np.full(n_steps + 1, gradient_rms)
    scales[0] = start_rms
    return np.asarray((rows * scales) @ (rows * scales).T)


@lru_cache(maxsize=64)
def _simulated_gram(
    rule: UpdateRule, bounds: tuple[int, ...], scales: tuple[float, float], n_coordinates: int, seed: int
) -> np.ndarray:
    """Return the Gram matrix of AdamW on noise, chunk by chunk, each with a random stream of its own.

    Args:
        scales: root mean squares of a gradient's coordinate and of a weight at the start.
    """
    gradient_rms, start_rms = scales
    n_rows, row_of = len(bounds) - 1, _row_of_step(bounds)
    gram = np.zeros((n_rows, n_rows))
    streams = Streams(seed).child("blind")
    for number, first in enumerate(range(0, n_coordinates, CHUNK)):
        width = min(CHUNK, n_coordinates - first)
        generator = streams.generator(number)
        theta = start_rms * generator.standard_normal(width)
        gradients = (gradient_rms * generator.standard_normal(width) for _ in rule.step_sizes)
        rows = np.zeros((n_rows, width))
        for step, update in enumerate(_adamw_updates(rule, theta, gradients)):
            if row_of[step] >= 0:
                rows[row_of[step]] += update
        gram += rows @ rows.T
    return gram / n_coordinates


def _row_of_step(bounds: tuple[int, ...]) -> np.ndarray:
    """Return the row that each step, counted from 0, is summed into; -1 before the first row."""
    return np.searchsorted(bounds, np.arange(bounds[-1]), side="right") - 1


def _adamw_updates(rule: UpdateRule, theta: np.ndarray, gradients: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the updates of AdamW (Loshchilov and Hutter, 2019; as in torch) on given gradients, (width,) each."""
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step, (size, gradient) in enumerate(zip(rule.step_sizes, gradients, strict=True), start=1):
        first = rule.momentum * first + (1 - rule.momentum) * gradient
        second = rule.beta2 * second + (1 - rule.beta2) * gradient**2
        # both corrections matter: they make the first updates three to six times as long as the later ones
        scaled = first / (1 - rule.momentum**step)
        root = np.sqrt(second / (1 - rule.beta2**step))
        update = -size * (scaled / (root + rule.eps) + rule.weight_decay * theta)
        theta = theta + update
        yield update


def rule_of_group(kind: str, group: Mapping[str, object], step_sizes: tuple[float, ...]) -> UpdateRule:
    """Return one parameter group of a torch optimizer as a rule.

    Args:
        kind: name of the optimizer's class. group: its settings, as in `param_groups`.

    Raises:
        InputError: the optimizer is none of SGD, AdamW, and Adam without weight decay.
    """

    def number(key: str) -> float:
        return float(group[key])  # type: ignore[arg-type]

    if kind == "SGD":
        return UpdateRule(
            "sgd",
            step_sizes,
            momentum=number("momentum"),
            weight_decay=number("weight_decay"),
            dampening=number("dampening"),
            nesterov=bool(group["nesterov"]),
        )
    adam = kind == "AdamW" or (kind == "Adam" and not group["weight_decay"])
    if not adam or group.get("amsgrad"):
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        raise InputError(
            f"the optimizer is {kind} with {settings}; blind runs are made for SGD, AdamW and Adam without weight "
            "decay, none of them with amsgrad. Give an UpdateRule that comes near."
        )
    beta1, beta2 = (float(beta) for beta in group["betas"])  # type: ignore[attr-defined]
    return UpdateRule("adamw", step_sizes, beta1, beta2, number("eps"), number("weight_decay"))
