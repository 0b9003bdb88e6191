"""Whether adding a task vector's mean activation shift does what the vector itself does in the weights (protocol, 7).

The mean shift h(theta_star + v_t) - h(theta_star) over validation prompts, at the last target, is added there at one
layer. E = change of the mean logit difference (right answer minus the best other one) by adding it, over the change by
the weight step theta_star + v_t itself, both on held-out prompts; unit: ratio. The layer is the one at which adding
does most on the validation prompts, each null having its own. Nulls: shifts that other tasks' vectors and noise with
v_t's norm in every tensor make on the same prompts, with the norm of t's shift at every layer. Noise floor: half the
difference of E between two halves of the held-out prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from lineament.activations.blocks import find_blocks
from lineament.activations.capture import Place, problem_reader, read_rows
from lineament.measurements.local_geometry.geometry import Geometry, TaskGeometry
from lineament.measurements.local_geometry.shifts import moved, prompts_of, why_no_activations
from lineament.measurements.steering_effects import ratio_error
from lineament.measurements.steering_nulls import matched_noise
from lineament.problems.problem import Batch, Problem, Split
from lineament.records import MIN_STDERRS, Label, Quantity, is_told
from lineament.settings.settings import Settings
from lineament.steering.effects import answers
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector
from lineament.study.passes import FORWARD_PASSES

# Layers that are tried, spread evenly over the depth; null draws of each kind.
LAYERS_TRIED, RANDOM_STEPS, OTHER_TASKS = 6, 3, 3
OTHER_TASK, RANDOM_STEP, HALVES = "other_task", "random_step", "halves"
NULLS = (OTHER_TASK, RANDOM_STEP, HALVES)
NO_EFFECT = f"the weight step changes the logit difference by less than {MIN_STDERRS:g} standard errors over prompts"
CORRESPONDENCE_DEFINITIONS = {
    "steering_share": "change of the mean logit difference (right answer minus the best other one, held-out prompts) "
    "when the task vector's mean activation shift over validation prompts is added at the last target at one layer, "
    "over its change by theta_star + v_t itself; the layer does most on the validation prompts; null: the larger of "
    "other_task and random_step",
    "steering_share_null": "the same for other vectors of the shift's norm, each at its own best layer, over the same "
    "change by v_t, mean over draws: shifts by other tasks' vectors (other_task) or by noise with v_t's norm in every "
    "tensor (random_step) on the same prompts; halves: half the difference of steering_share between two halves of "
    "the prompts",
    "mean_vector_share": "(n |s_mean|^2 - m) / ((n - 1) m), s_i the shift of held-out prompt i by v_t at that layer "
    "and m the mean of |s_i|^2: the share of the shifts' energy that one vector can hold; 0 expected for unrelated "
    "shifts",
    "median_steering_share": "median of steering_share over tasks; null: the larger of the two nulls' medians",
    "median_steering_share_null": "median of steering_share_null over tasks",
    "median_mean_vector_share": "median of mean_vector_share over tasks",
}


@dataclass(frozen=True)
class _Added:
    """A vector added at its best layer: the change of every held-out prompt's logit difference."""

    layer: int
    changes: Float64[Tensor, " n_prompts"]


class _Prompts:
    """Prompts of one split with their activations and logit differences at the operating point."""

    def __init__(self, problem: Problem, batch: Batch, layers: tuple[int, ...]) -> None:
        self.problem, self.batch, self.layers = problem, batch, layers
        self._rows, self._differences = self._read(), self._answers(batch)

    def shifts_by(self, geometry: Geometry, vector: Tensor) -> Float32[Tensor, "n_prompts n_layers width"]:
        """Return each prompt's activation shift by a move of the weights."""
        with moved(geometry.space, [vector]):
            return self._read() - self._rows

    def changes_by(self, geometry: Geometry, vector: Tensor) -> Float64[Tensor, " n_prompts"]:
        """Return the change of each prompt's logit difference by a move of the weights."""
        with moved(geometry.space, [vector]):
            return self._answers(self.batch) - self._differences

    def added(self, direction: Tensor, layer: int) -> Float64[Tensor, " n_prompts"]:
        """Return the change of each logit difference when a vector (width,) is added at the last target of a layer."""
        vector, changed = SteeringVector({layer: direction}), []
        for part in self.batch.chunks(self.problem.chunk):
            with steered(self.problem.model, vector, 1.0, part.positions[:, -1]):
                changed.append(self._answers(part))
        return torch.cat(changed) - self._differences

    def _read(self) -> Tensor:
        return read_rows(problem_reader(self.problem, Place(self.layers)), self.batch)

    def _answers(self, batch: Batch) -> Tensor:
        return answers(self.problem, batch, batch.targets[:, -1]).differences


def steering_correspondence(geometry: Geometry) -> Iterator[Quantity]:
    """Compare every task vector with its mean activation shift, added; call it at the operating point.

    Yields:
        steering_share, its nulls and mean_vector_share of each task, and their medians.
    """
    figures, reason = list[Quantity](), why_no_activations(geometry.study.problem)
    for number, task in enumerate(() if reason else geometry.tasks):
        geometry.study.progress("weight steps and steering", number, len(geometry.tasks))
        figures += geometry.stage(f"correspondence {task.name}", partial(_task_figures, geometry, task))
    yield from figures
    yield from medians(figures, reason)


def tried_layers(n_layers: int) -> tuple[int, ...]:
    """Return up to six layers spread evenly over the depth, the last among them."""
    n = min(LAYERS_TRIED, n_layers)
    return tuple(round(n_layers * (i + 1) / n) for i in range(n))


def _task_figures(geometry: Geometry, task: TaskGeometry) -> list[Quantity]:
    problem = geometry.study.problem
    layers = tried_layers(len(find_blocks(problem.model)))
    splits: tuple[Split, Split] = ("validation", "held_out")
    stage = _Stage(*(_Prompts(problem, prompts_of(geometry, task.name, split), layers) for split in splits))
    mean = stage.chosen_on.shifts_by(geometry, task.task_vector).mean(dim=0)
    sign = 1.0 if float(stage.chosen_on.changes_by(geometry, task.task_vector).mean()) >= 0 else -1.0
    own, step = stage.best(mean, sign), stage.judged_on.changes_by(geometry, task.task_vector)
    share = mean_vector_share(stage.judged_on.shifts_by(geometry, task.task_vector)[:, layers.index(own.layer)])
    figures = [Quantity("mean_vector_share", share, "fraction", labels={"task": task.name})]
    labels: dict[str, Label] = {"task": task.name, "layer": own.layer}
    if not is_told(abs(float(step.mean())), _standard_error(step)):
        figures.append(Quantity("steering_share", None, "ratio", labels=labels, reason=NO_EFFECT))
        return figures + [_null(task.name, name, None, NO_EFFECT) for name in NULLS]
    nulls: dict[str, float] = {}
    for name, vectors in _null_vectors(geometry, task).items():
        others = [stage.chosen_on.shifts_by(geometry, vector).mean(dim=0) for vector in vectors]
        found = [stage.best(matched(other, mean), sign).changes for other in others]
        if found:
            nulls[name] = float(np.mean([_ratio(changes, step) for changes in found]))
    value, error = _ratio(own.changes, step), ratio_error(own.changes, step)
    null = max(nulls.values(), default=None)
    figures.append(Quantity("steering_share", value, "ratio", stderr=error, null=null, labels=labels))
    first, second = (_ratio(own.changes[half::2], step[half::2]) for half in (0, 1))
    nulls[HALVES] = abs(first - second) / 2
    return figures + [_null(task.name, name, nulls.get(name), "there is no other task") for name in NULLS]


@dataclass(frozen=True)
class _Stage:
    """Prompts that layers are chosen on, and those that effects are judged on."""

    chosen_on: _Prompts
    judged_on: _Prompts

    def best(self, directions: Float[Tensor, "n_layers width"], sign: float) -> _Added:
        """Add each layer's vector, and judge the one that moves the logit differences most in this direction."""
        layers = self.chosen_on.layers
        gains = [
            sign * float(self.chosen_on.added(direction, layer).mean())
            for layer, direction in zip(layers, directions, strict=True)
        ]
        best = int(np.argmax(gains))
        return _Added(layers[best], self.judged_on.added(directions[best], layers[best]))


def _null_vectors(geometry: Geometry, task: TaskGeometry) -> dict[str, list[Tensor]]:
    """Return other tasks' vectors, those that follow this one in the order of tasks, and noise like this one's."""
    at, tasks = geometry.tasks.index(task), geometry.tasks
    following = (tasks[at + 1 :] + tasks[:at])[:OTHER_TASKS]
    generators = (
        geometry.streams.generator("correspondence", "noise", task.name, draw) for draw in range(RANDOM_STEPS)
    )
    noise = [matched_noise(task.task_vector, geometry.space.slices, generator) for generator in generators]
    return {OTHER_TASK: [other.task_vector for other in following], RANDOM_STEP: noise}


def matched(
    directions: Float[Tensor, "n_layers width"], like: Float[Tensor, "n_layers width"]
) -> Float[Tensor, "n_layers width"]:
    """Scale each layer's direction to the norm that `like` has there; a zero one stays zero."""
    norms = directions.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, directions / norms * like.norm(dim=-1, keepdim=True), directions)


def mean_vector_share(shifts: Float[Tensor, "n_prompts width"]) -> float:
    """Return (n |s_mean|^2 - m) / ((n - 1) m), m the mean of |s_i|^2: 1 for equal shifts, 0 expected for unrelated.

    Args:
        shifts: s_i, one for each of n >= 2 prompts.

    Returns:
        nan where there is one prompt alone or nothing moved.
    """
    rows, n = shifts.double(), len(shifts)
    energy = float(rows.square().sum(dim=1).mean())
    if n < 2 or energy == 0:
        return math.nan
    return (n * float(rows.mean(dim=0).square().sum()) - energy) / ((n - 1) * energy)


def _ratio(above: Tensor, below: Tensor) -> float:
    return float(above.mean() / below.mean())


def _standard_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.inf


def _null(task: str, name: str, value: float | None, why_none: str) -> Quantity:
    labels: dict[str, Label] = {"task": task, "null": name}
    return Quantity("steering_share_null", value, "ratio", labels=labels, reason=why_none if value is None else None)


def medians(figures: Sequence[Quantity], why_none: str | None = None) -> Iterator[Quantity]:
    """Yield the medians over tasks.

    Args:
        figures: those of the tasks.
        why_none: why there are none, if there are none.
    """
    nulls = [_median("median_steering_share_null", figures, "ratio", why_none, {"null": name}) for name in NULLS]
    judged = [null.value for null in nulls[:2] if null.value is not None]
    yield replace(_median("median_steering_share", figures, "ratio", why_none, {}), null=max(judged, default=None))
    yield from nulls
    yield _median("median_mean_vector_share", figures, "fraction", why_none, {})


def _median(
    name: str, figures: Sequence[Quantity], unit: str, why_none: str | None, labels: dict[str, Label]
) -> Quantity:
    found = [figure for figure in figures if figure.matches(name.removeprefix("median_"), **labels)]
    values = [figure.value for figure in found if figure.value is not None]
    reasons = sorted({figure.reason or "" for figure in found if figure.value is None})
    told = (
        f"{len(found) - len(values)} of {len(found)} tasks are left out: {'; '.join(reasons)}" if reasons else why_none
    )
    return Quantity(name, float(np.median(values)) if values else None, unit, labels=labels, reason=told)


def correspondence_cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the forward passes of moves in the weights and of vectors added at the layers that are tried."""
    n_nulls = min(OTHER_TASKS, n_tasks - 1) + RANDOM_STEPS
    sets = 4 + 4 + n_nulls + (1 + n_nulls) * (LAYERS_TRIED + 1)
    return {"weight steps and steering": FORWARD_PASSES * n_tasks * sets * settings.geometry.prompts}
