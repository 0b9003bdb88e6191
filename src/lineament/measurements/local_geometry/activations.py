"""Whether the activation shifts of two tasks' moves add up (protocol, section 7).

With s(v) the mean shift that theta_star + v makes over held-out prompts of both tasks, at the block at two thirds of
the depth or of the right answer's logit, B = |s(lambda (v_a + v_b)) - s(lambda v_a) - s(lambda v_b)| over
|s(lambda v_a)| + |s(lambda v_b)|; unit: fraction. The sum of two moves of LoRA factors is taken in the factors and,
exactly, in the weights dW; other spaces have weights alone. Null: Gaussian noise with the norm of v_b in every tensor
in place of v_b. Noise floor: halves of the prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations, product

import numpy as np
from torch import Tensor

from lineament.activations.blocks import find_blocks
from lineament.activations.capture import layers_up_to
from lineament.measurements.local_geometry.geometry import Geometry, TaskGeometry
from lineament.measurements.local_geometry.shifts import (
    Defect,
    Rows,
    Shift,
    defect,
    joined,
    moved,
    prompts_of,
    read_prompts,
    shift_of,
    summed_in_weights,
    why_no_activations,
)
from lineament.measurements.steering_nulls import matched_noise
from lineament.records import MIN_STDERRS, Label, Quantity
from lineament.settings.settings import Settings
from lineament.study.passes import FORWARD_PASSES

SCALES = (0.1, 0.5, 1.0)
# Where in the depth activations are read.
DEPTH = 2 / 3
WEIGHTS, FACTORS = "weights", "factors"
KINDS = ("activation", "logit")
UNKNOWN = f"the shifts of the two moves are within {MIN_STDERRS:g} standard errors of none over the prompts"
ACTIVATION_DEFINITIONS = {
    "activation_defect": "|s(l (v_a + v_b)) - s(l v_a) - s(l v_b)| / (|s(l v_a)| + |s(l v_b)|), l the scale, v the "
    "task vectors, s the mean shift over held-out prompts of both tasks at the last target: of the output of the block "
    "at 2/3 of the depth (activation) or of the right answer's logit (logit); the sum of two moves taken in the LoRA "
    "factors or exactly in the weights they make; null: v_b replaced by noise with its norm in every tensor",
    "activation_defect_halves": "half the distance between the defects of two halves of the prompts, over the same "
    "denominator: what the choice of prompts makes",
    "median_activation_defect": "median of activation_defect over pairs of tasks; null: median of the nulls",
}
Move = tuple[str, float]


def activation_additivity(geometry: Geometry) -> Iterator[Quantity]:
    """Measure the additivity of activation shifts of every pair of tasks; call it at the operating point.

    Yields:
        activation_defect and activation_defect_halves of each pair, and their medians.
    """
    pairs, figures = list(combinations(geometry.tasks, 2)), list[Quantity]()
    reason = why_no_activations(geometry.study.problem) if pairs else "there is no pair of tasks"
    if reason is None:
        bench = _Bench(geometry)
        for number, (first, second) in enumerate(pairs):
            geometry.study.progress("additivity of activation shifts", number, len(pairs))
            name = f"activations {first.name} and {second.name}"
            figures += geometry.stage(name, partial(_pair_figures, bench, first, second))
    yield from figures
    yield from medians(figures, sums_of(geometry), reason)


def sums_of(geometry: Geometry) -> tuple[str, ...]:
    """Return how a sum of two moves can be taken in the measured space."""
    return (FACTORS, WEIGHTS) if geometry.space.space.kind == "lora_factors" else (WEIGHTS,)


class _Bench:
    """The prompts with their unmoved activations, and the shifts of single moves, each made once when it is wanted."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry, self.problem = geometry, geometry.study.problem
        self.layer = layers_up_to(len(find_blocks(self.problem.model)), DEPTH)[-1]
        self._prompts = {task.name: prompts_of(geometry, task.name, "held_out") for task in geometry.tasks}
        self._unmoved: dict[str, Rows] = {}
        self._noise: dict[str, Tensor] = {}
        self._single: dict[tuple[Move, str], dict[str, Shift]] = {}

    def read_unmoved(self, tasks: Sequence[str]) -> None:
        """Read the prompts of these tasks at the operating point, before anything is moved."""
        for task in tasks:
            if task not in self._unmoved:
                self._unmoved[task] = read_prompts(self.problem, self._prompts[task], self.layer)

    def noise(self, task: TaskGeometry) -> Tensor:
        """Return noise with the norm of the task's vector in every tensor, (n_params,)."""
        if task.name not in self._noise:
            generator = self.geometry.streams.generator("activations", "noise", task.name)
            self._noise[task.name] = matched_noise(task.task_vector, self.geometry.space.slices, generator)
        return self._noise[task.name]

    def alone(self, name: str, vector: Tensor, scale: float, tasks: Sequence[str]) -> dict[str, Shift]:
        """Return what one move does to the prompts of two tasks, kept under `name`: kind -> shift."""
        found = []
        for task in tasks:
            key = (name, scale), task
            if key not in self._single:
                with moved(self.geometry.space, [scale * vector]):
                    self._single[key] = self._shifts(task)
            found.append(self._single[key])
        return {kind: joined(*(shifts[kind] for shifts in found)) for kind in KINDS}

    def together(self, moves: Sequence[Tensor], how: str, tasks: Sequence[str]) -> dict[str, Shift]:
        """Return what two moves do together: kind -> shift."""
        with self._summed(moves, how):
            found = [self._shifts(task) for task in tasks]
        return {kind: joined(*(shifts[kind] for shifts in found)) for kind in KINDS}

    def _summed(self, moves: Sequence[Tensor], how: str) -> AbstractContextManager[None]:
        space = self.geometry.space
        in_weights = how == WEIGHTS and space.space.kind == "lora_factors"
        return summed_in_weights(space, moves) if in_weights else moved(space, moves)

    def _shifts(self, task: str) -> dict[str, Shift]:
        now, before = read_prompts(self.problem, self._prompts[task], self.layer), self._unmoved[task]
        return {kind: shift_of(getattr(now, kind) - getattr(before, kind)) for kind in KINDS}


def _pair_figures(bench: _Bench, first: TaskGeometry, second: TaskGeometry) -> list[Quantity]:
    bench.read_unmoved([first.name, second.name])
    return [
        figure
        for scale, how in product(SCALES, sums_of(bench.geometry))
        for figure in _figures_at(bench, (first, second), scale, how)
    ]


def _figures_at(bench: _Bench, pair: tuple[TaskGeometry, TaskGeometry], scale: float, how: str) -> Iterator[Quantity]:
    first, second = pair
    noise = f"noise {second.name}", bench.noise(second)
    found = _defects(bench, pair, (f"vector {second.name}", second.task_vector), scale, how)
    nulls = _defects(bench, pair, noise, scale, how)
    for kind in KINDS:
        labels: dict[str, Label] = {
            "first": first.name,
            "second": second.name,
            "sum": how,
            "of": kind,
            "scale": scale,
        }
        value, null = found[kind], nulls[kind].value if nulls[kind].known else None
        reason = None if value.known else UNKNOWN
        kept = value.value if value.known else None
        yield Quantity("activation_defect", kept, "fraction", null=null, labels=labels, reason=reason)
        halves = value.halves if value.known else None
        yield Quantity("activation_defect_halves", halves, "fraction", labels=labels, reason=reason)


def _defects(
    bench: _Bench, pair: tuple[TaskGeometry, TaskGeometry], other: tuple[str, Tensor], scale: float, how: str
) -> dict[str, Defect]:
    """Return kind -> defect of the first task's vector with another move, on the prompts of both tasks."""
    tasks, own = [task.name for task in pair], pair[0]
    a = bench.alone(f"vector {own.name}", own.task_vector, scale, tasks)
    b = bench.alone(*other, scale, tasks)
    both = bench.together([scale * own.task_vector, scale * other[1]], how, tasks)
    return {kind: defect(both[kind], a[kind], b[kind]) for kind in KINDS}


def medians(figures: Sequence[Quantity], sums: Sequence[str], why_none: str | None = None) -> Iterator[Quantity]:
    """Yield the median defect over pairs for every sum, kind and scale.

    Args:
        figures: those of the pairs.
        why_none: why there are none, if there are none.
    """
    for how, kind, scale in product(sums, KINDS, SCALES):
        labels: dict[str, Label] = {"sum": how, "of": kind, "scale": scale}
        found = [figure for figure in figures if figure.matches("activation_defect", **labels)]
        values = [figure.value for figure in found if figure.value is not None]
        nulls = [figure.null for figure in found if figure.null is not None]
        left_out = len(found) - len(values)
        reason = f"{left_out} of {len(found)} pairs are left out: {UNKNOWN}" if left_out else why_none
        yield Quantity(
            "median_activation_defect",
            float(np.median(values)) if values else None,
            "fraction",
            null=float(np.median(nulls)) if nulls else None,
            labels=labels,
            reason=reason,
        )


def activation_cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the forward passes of vectors on all tasks' prompts, and of noise and pairs on those of both."""
    n_pairs, n_sums = n_tasks * (n_tasks - 1) // 2, 2 if settings.recovery.space == "lora" else 1
    noise = n_tasks - 1 + n_pairs
    sets = n_tasks + len(SCALES) * (n_tasks**2 + noise + 2 * 2 * n_sums * n_pairs) if n_pairs else 0
    return {"additivity of activation shifts": FORWARD_PASSES * sets * settings.geometry.prompts}
