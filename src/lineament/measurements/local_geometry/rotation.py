"""How fast the plane of a task's gradients turns along further training on that task (protocol, sections 3 and 7).

From theta_star each task trains on alone, with the recovery's optimizer and step size. At fixed lags fresh minibatch
gradients make new planes. Overlap: |U_0^T U_t|_F^2 / k, rescaled so that 1 is what two halves of one time's gradients
share and 0 what two random planes do. Retention: the share of the energy of fresh gradients at t that the plane of
theta_star still holds. Unit: fraction. Null: the other tasks' planes at theta_star, in place of the task's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lineament.bases import Basis, top_directions
from lineament.measurements.basis_drift import NO_CEILING
from lineament.measurements.crossings import crossing
from lineament.measurements.gradient_planes import PARTS, Compared, FreshPlanes, compare, overlap_table, retained
from lineament.measurements.local_geometry.geometry import Geometry
from lineament.parameters import Vectors
from lineament.records import Label, Quantity
from lineament.settings.settings import Settings
from lineament.study.training import make_optimizer, minibatches, task_batches, train
from lineament.vectors.gradients import group_gradients

ROTATION_DEFINITIONS = {
    "plane_overlap": "(overlap - k / n_params) / (ceiling - k / n_params); overlap |U_0^T U_lag|_F^2 / k of planes of "
    "fresh minibatch gradients at theta_star and after `lag` steps of training on the task alone, ceiling the "
    "geometric mean of the two times' split-half overlaps; null: the other tasks' planes at theta_star with the same "
    "planes of the lag",
    "plane_retention": "share of the energy of fresh gradients after `lag` steps inside the plane of theta_star; "
    "ceiling: a fresh plane of the lag, judged on other gradients; null: the other tasks' planes at theta_star",
    "plane_half_life": "lag at which the isotonic fit of the rescaled overlap first falls to 1/2, interpolated",
    "plane_half_life_distance": "the same against |theta_lag - theta_star| instead of the lag",
    "median_plane_half_life": "median of plane_half_life over tasks, at the recovery's optimizer and step size; a task "
    "that does not cross counts as the largest lag",
}


@dataclass(frozen=True)
class _Later:
    """The planes of one lag beside those of theta_star.

    Attributes:
        distance: |theta_lag - theta_star|.
        other_overlap, other_retention: the same with the other tasks' planes at theta_star; None if there are none.
    """

    lag: int
    distance: float
    compared: Compared
    other_overlap: float | None
    other_retention: float | None


def plane_rotation(geometry: Geometry) -> Iterator[Quantity]:
    """Measure the rotation of every task's gradient plane; call it at the operating point, which it comes back to.

    Yields:
        plane_overlap and plane_retention of each task and lag, half-lives of each task, and their median.
    """
    starts, figures = _Starts(geometry), []
    for number, task in enumerate(geometry.tasks):
        geometry.study.progress("rotation of gradient planes", number, len(geometry.tasks))
        figures += geometry.stage(f"rotation {task.name}", partial(_task_figures, geometry, starts, task.name))
    yield from figures
    longest = max(geometry.study.settings.geometry.rotation_lags)
    yield median_life([figure for figure in figures if figure.name == "plane_half_life"], longest)


class _Starts:
    """One plane of every task at theta_star, made when it is first wanted: a run that goes on may want none."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry, self._planes = geometry, dict[str, Basis]()

    def others(self, task: str) -> list[Basis]:
        """Return the planes of all tasks but this one."""
        names = [other.name for other in self._geometry.tasks if other.name != task]
        for name in set(names) - set(self._planes):
            self._planes[name] = _plane(self._geometry, _gradients(self._geometry, name, 0, 0))
        return [self._planes[name] for name in names]


def _task_figures(geometry: Geometry, starts: _Starts, task: str) -> list[Quantity]:
    others = starts.others(task)  # before the training moves theta
    floor = geometry.study.settings.measurement.drift_rank / geometry.space.n_params
    later = _along_training(geometry, task, others)
    return [*_lag_figures(later, task, floor), *_lives(later, task, floor)]


def _along_training(geometry: Geometry, task: str, others: Sequence[Basis]) -> list[_Later]:
    """Train on one task and compare the planes of every lag with those of theta_star; theta comes back."""
    problem, recovery = geometry.study.problem, geometry.study.settings.recovery
    lags = sorted(set(geometry.study.settings.geometry.rotation_lags))
    start, later = _fresh(geometry, task, 0)[0], list[_Later]()
    theta = geometry.space.read()

    def after(step: int, loss: float) -> bool:
        if step in lags:
            fresh, gradients = _fresh(geometry, task, step)
            distance = float((geometry.space.read() - theta).double().norm())
            compared = compare(start, fresh, retained(start.planes, gradients))
            overlap = float(overlap_table(others, fresh.planes).mean()) if others else None
            retention = float(np.mean(retained(others, gradients))) if others else None
            later.append(_Later(step, distance, compared, overlap, retention))
        return False

    with geometry.space.restored():
        optimizer = make_optimizer(geometry.space.tensors, recovery)
        batches = task_batches(problem, task, recovery.batch, geometry.streams.child("rotation"))
        train(problem, optimizer, batches, lags[-1], after)
    return later


def _fresh(geometry: Geometry, task: str, lag: int) -> tuple[FreshPlanes, list[Vectors]]:
    """Return the planes at the weights the model holds, and the gradient sets that they are of."""
    gradients = [_gradients(geometry, task, lag, part) for part in range(PARTS)]
    planes = tuple(_plane(geometry, vectors) for vectors in gradients)
    return FreshPlanes(planes, retained(planes, gradients)), gradients


def _gradients(geometry: Geometry, task: str, lag: int, part: int) -> Vectors:
    m, problem = geometry.study.settings.measurement, geometry.study.problem
    streams = geometry.streams.child("planes", lag, part)
    batch = minibatches(problem, task, (m.drift_gradients, m.minibatch), streams)
    return group_gradients(problem, batch, m.minibatch)


def _plane(geometry: Geometry, gradients: Vectors) -> Basis:
    return top_directions(gradients, geometry.study.settings.measurement.drift_rank, "fresh gradients")


def _lag_figures(later: Sequence[_Later], task: str, floor: float) -> Iterator[Quantity]:
    for found in later:
        labels: dict[str, Label] = {"task": task, "lag": found.lag}
        pair, overlap = found.compared, found.compared.rescaled(floor)
        room, error = pair.ceiling[0] - floor, pair.overlap[1]
        known = overlap is not None
        yield Quantity(
            "plane_overlap",
            overlap,
            "fraction",
            stderr=error / room if known else None,
            null=(found.other_overlap - floor) / room if known and found.other_overlap is not None else None,
            labels=labels,
            reason=None if known else NO_CEILING,
        )
        kept, kept_error = pair.retained
        yield Quantity(
            "plane_retention",
            kept,
            "fraction",
            stderr=kept_error,
            null=found.other_retention,
            ceiling=pair.fresh_retained[0],
            labels=labels,
        )


def _lives(later: Sequence[_Later], task: str, floor: float) -> Iterator[Quantity]:
    known = [(found, value) for found in later if (value := found.compared.rescaled(floor)) is not None]
    overlaps = [value for _, value in known]
    yield half_life("plane_half_life", "steps", task, [float(found.lag) for found, _ in known], overlaps)
    yield half_life("plane_half_life_distance", "weight units", task, [found.distance for found, _ in known], overlaps)


def half_life(name: str, unit: str, task: str, x: Sequence[float], overlaps: Sequence[float]) -> Quantity:
    """Return where the rescaled overlap falls to 1/2, censored with "> largest x" where it does not.

    Args:
        x: lags or distances, in any order. overlaps: the rescaled overlap at each.
    """
    labels: dict[str, Label] = {"task": task}
    if not x:
        return Quantity(name, None, unit, labels=labels, reason=f"undefined: {NO_CEILING}")
    order = np.argsort(x, kind="stable")
    life = crossing(np.array(x)[order], np.array(overlaps)[order])
    reason = None if life is not None else f"> {max(x):.4g} (the largest that was measured; it does not cross)"
    return Quantity(name, life, unit, labels=labels, reason=reason)


def median_life(lives: Sequence[Quantity], longest: int) -> Quantity:
    """Return the median half-life over tasks; one that does not cross counts as the largest lag."""
    censored = [life for life in lives if life.value is None and (life.reason or "").startswith(">")]
    undefined = sum(life.value is None for life in lives) - len(censored)
    values = [life.value for life in lives if life.value is not None] + [float(longest)] * len(censored)
    told = []
    if censored:
        told.append(f"{len(censored)} of {len(lives)} tasks do not cross and count as {longest} steps")
    if undefined:
        told.append(f"{undefined} of {len(lives)} tasks are left out: {NO_CEILING}")
    if not lives:
        told.append("no task has a gradient")
    median = float(np.median(values)) if values else None
    return Quantity("median_plane_half_life", median, "steps", reason="; ".join(told) or None)


def rotation_cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of further training and of the gradients along it."""
    g, m = settings.geometry, settings.measurement
    lags = set(g.rotation_lags)
    n_sets = PARTS * (len(lags) + 1) + (1 if n_tasks > 1 else 0)
    one = max(lags) * settings.recovery.batch + n_sets * m.drift_gradients * m.minibatch
    return {"rotation of gradient planes": float(n_tasks * one)}
