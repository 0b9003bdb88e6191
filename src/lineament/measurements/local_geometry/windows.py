"""How far one step from the operating point is predicted by its gradient: on its own task, and on every other.

Window: the largest length, in task-vector lengths, up to which the loss of the task changes as its gradient says,
within 10 %, along the task's own descent direction, its task vector and a random direction. Null: the same with the
slope that shuffled labels give. Probes: held-out losses of all tasks after a step on one of them, against their
gradients. Null: probes permuted; the ceiling predicts one half of the held-out examples from the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lineament.measurements.local_geometry.geometry import LEAST_AGREEMENT, Geometry, TaskGeometry, halves_of
from lineament.records import Label, Quantity
from lineament.vectors.hessian import HessianOperator
from lineament.vectors.local_geometry import (
    SIZES,
    ValidityRadius,
    judged_radius,
    rounding_of,
    value_at,
)

LENGTHS = "task-vector lengths"
# Probes are read at this many of the largest sizes inside the source's window.
PROBE_SIZES = 3
HALVES_DISAGREE = "below 0.9: figures of this task are of its batch more than of the task"
TOO_SMALL = "rounding of the loss is more than a quarter of the tolerance here"
WINDOW_DEFINITIONS = {
    "gradient_agreement": "cosine between the gradients of the two halves of the task's fixed batch",
    "gradient_norm": "norm of the task's gradient on its fixed batch",
    "window": "largest eps = |delta| / |theta_star - theta_start| up to which |dL - eps g.d| <= 0.1 |eps g.d|, "
    "interpolated on logarithmic axes; null: with the slope of the gradient for shuffled labels (protocol 7)",
    "window_predicted": "0.2 |g.d| / |d'Hd|: where the second-order term alone reaches 10 % of the first",
    "window_ratio": "window over the predicted one",
    "first_order_error": "|dL - eps g.d| / |eps g.d|",
    "loss_change": "L(theta_star + eps d) - L(theta_star) on the task's fixed batch",
    "first_order_change": "eps g.d",
    "second_order_change": "eps g.d + eps^2 d'Hd / 2",
    "probe_change": "change of the probe's held-out loss after a step of eps down the source's gradient",
    "first_order_probe_change": "eps g_p.d_s, g_p the gradient of the probe's held-out loss",
    "probe_slope": "slope of probe_change / eps on first_order_probe_change / eps, all sources and probes; null: "
    "probes permuted; ceiling: one half of the held-out examples predicted from the other",
    "probe_r2": "squared correlation of the same; null and ceiling alike",
}


def windows(geometry: Geometry) -> Iterator[Quantity]:
    """Yield the windows of every task along the three directions."""
    for number, task in enumerate(geometry.tasks):
        geometry.study.progress("windows of single steps", number, len(geometry.tasks))
        yield from geometry.stage(f"window {task.name}", partial(_windows_of, geometry, task))


def probes(geometry: Geometry, found: Sequence[Quantity]) -> Iterator[Quantity]:
    """Yield what steps on one task do to the held-out losses of all.

    Args:
        found: the figures of `windows`.
    """
    sizes = {str(q.labels["task"]): q.value for q in found if q.matches("window", direction="gradient")}
    for number, source in enumerate(geometry.tasks):
        geometry.study.progress("probes after single steps", number, len(geometry.tasks))
        inside = [size for size in SIZES if size <= (sizes[source.name] or 0)][-PROBE_SIZES:]
        yield from geometry.stage(f"probes {source.name}", partial(_probes_of, geometry, source, inside))


def probe_fit(found: Sequence[Quantity]) -> Iterator[Quantity]:
    """Yield slope and R2 over all sources and probes, beside both references."""
    measured = {_key(q): q for q in found if q.name == "probe_change"}
    predicted = {_key(q): q for q in found if q.name == "first_order_probe_change"}
    tasks = list(dict.fromkeys(key[1] for key in measured))
    following = dict(zip(tasks, [*tasks[1:], *tasks[:1]], strict=True))
    pairs, permuted, halves = [], [], []
    for (source, probe, eps), change in measured.items():
        other = predicted[source, following[probe], eps]
        pairs.append((predicted[source, probe, eps].value, change.value, eps))
        permuted.append((other.value, change.value, eps))
        # the ceiling of a change is the other half's change, that of a prediction this half's gradient
        halves.append((predicted[source, probe, eps].ceiling, change.ceiling, eps))
    (slope, r2), null, ceiling = _fit(pairs), _fit(permuted), _fit(halves)
    reason = None if slope is not None else "fewer than three different predictions, or none inside a window"
    for name, value, i in (("probe_slope", slope, 0), ("probe_r2", r2, 1)):
        yield Quantity(name, value, "fraction", null=null[i], ceiling=ceiling[i], reason=reason)


def descent(geometry: Geometry, gradient: Tensor) -> Tensor:
    """Return a step of one task-vector length down a gradient (n_params,)."""
    return -gradient * (geometry.unit / float(gradient.norm()))


def _windows_of(geometry: Geometry, task: TaskGeometry) -> Iterator[Quantity]:
    loss, space = geometry.loss(task.batch), geometry.space
    operator = HessianOperator(geometry.study.problem, task.batch)
    start = value_at(space, loss, torch.zeros_like(task.gradient))
    rounding = rounding_of(start, space.tensors[0].dtype)
    labels: dict[str, Label] = {"task": task.name}
    reason = None if task.agreement >= LEAST_AGREEMENT else HALVES_DISAGREE
    yield Quantity("gradient_agreement", task.agreement, "cosine", labels=labels, reason=reason)
    yield Quantity("gradient_norm", float(task.gradient.norm()), "nats per unit", labels=labels)
    directions = _directions(geometry, task)
    curvatures = {name: float(d @ (operator @ d)) for name, d in directions.items()}
    operator.release()
    for name, direction in directions.items():
        changes = tuple(value_at(space, loss, size * direction) - start for size in SIZES)
        slopes = [float(gradient @ direction) for gradient in (task.gradient, task.shuffled_gradient)]
        own, null = (judged_radius(SIZES, changes, slope, curvatures[name], rounding) for slope in slopes)
        yield from _window_figures(own, null.radius, {**labels, "direction": name})


def _directions(geometry: Geometry, task: TaskGeometry) -> dict[str, Tensor]:
    """Return the three directions, each one task-vector length long; a task vector that is zero is left out."""
    noise = torch.from_numpy(geometry.streams.generator("direction", task.name).standard_normal(len(task.gradient)))
    raw = {"gradient": -task.gradient, "task_vector": task.task_vector, "random": noise}
    return {name: d * (geometry.unit / float(d.norm())) for name, d in raw.items() if d.any()}


def _window_figures(own: ValidityRadius, null: float, labels: Mapping[str, Label]) -> Iterator[Quantity]:
    reason = f"within the tolerance up to {own.radius:g}, the largest length that was tried" if own.censored else None
    if math.isnan(own.radius):
        reason = "rounding of the loss hides every change up to the largest length"
    yield Quantity("window", own.radius, LENGTHS, null=null, labels=labels, reason=reason)
    yield Quantity("window_predicted", own.predicted, LENGTHS, labels=labels)
    ratio = own.radius / own.predicted if own.predicted > 0 and not own.censored else None
    yield Quantity("window_ratio", ratio, "ratio", labels=labels, reason=reason if ratio is None else None)
    for size, change, error in zip(own.sizes, own.changes, own.errors, strict=True):
        at = {**labels, "eps": size}
        first = size * own.slope
        why = TOO_SMALL if math.isnan(error) else None
        yield Quantity("first_order_error", error, "fraction", labels=at, reason=why)
        yield Quantity("loss_change", change, "nats", labels=at)
        yield Quantity("first_order_change", first, "nats", labels=at)
        yield Quantity("second_order_change", first + size**2 * own.curvature / 2, "nats", labels=at)


def _probes_of(geometry: Geometry, source: TaskGeometry, sizes: Sequence[float]) -> Iterator[Quantity]:
    space, step = geometry.space, descent(geometry, source.gradient)
    for probe in geometry.tasks:
        losses = [geometry.loss(half) for half in halves_of(probe.held_out)]
        slopes = [float(half @ step) for half in probe.held_out_halves]
        starts = [value_at(space, loss, torch.zeros_like(step)) for loss in losses]
        for size in sizes:
            changes = [value_at(space, loss, size * step) - at for loss, at in zip(losses, starts, strict=True)]
            labels: dict[str, Label] = {"source": source.name, "probe": probe.name, "eps": size}
            yield Quantity("probe_change", float(np.mean(changes)), "nats", ceiling=changes[1], labels=labels)
            first = size * float(np.mean(slopes))
            yield Quantity("first_order_probe_change", first, "nats", ceiling=size * slopes[0], labels=labels)


def _key(figure: Quantity) -> tuple[str, str, float]:
    return str(figure.labels["source"]), str(figure.labels["probe"]), float(figure.labels["eps"])


def _fit(points: Sequence[tuple[float | None, float | None, float]]) -> tuple[float | None, float | None]:
    """Return slope and squared correlation of change / eps on prediction / eps."""
    known = np.array([(x / eps, y / eps) for x, y, eps in points if x is not None and y is not None])
    if len(known) < 3 or np.ptp(known[:, 0]) == 0 or np.ptp(known[:, 1]) == 0:
        return None, None
    covariance = np.cov(known.T)
    return float(covariance[0, 1] / covariance[0, 0]), float(np.corrcoef(known.T)[0, 1] ** 2)
