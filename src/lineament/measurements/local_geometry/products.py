"""Hessian-vector products of all pairs: m tasks cost m (m + 1) of them, each task's from one graph.

With them every order defect is predicted. Steps in the metric of AdamW need as many again, shuffled labels two a task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from lineament.files.naming import safe_name
from lineament.files.tensors import MADE_AGAIN, load_tensors
from lineament.files.writing import write_bytes
from lineament.measurements.local_geometry.geometry import Geometry, TaskGeometry
from lineament.problems.problem import Batch
from lineament.records import Quantity
from lineament.vectors.gradients import group_gradients
from lineament.vectors.hessian import HessianOperator
from lineament.vectors.local_geometry import unit_norm_kappa_of

STORED = ("own", "second", "of_second", "metric_own", "metric_second", "metric_of_second", "shuffled")


@dataclass(frozen=True)
class Products:
    """H_t applied to the gradients of all tasks, for every task t.

    Attributes:
        stored: task -> own (n_tasks, n_params): H_t g_u; second (n_params,): H_t g_t' with t' the task's second batch;
            of_second: H_t' g_t; metric_*: the same of P^-1 g; shuffled (2, n_params): of the shuffled gradients of the
            task before and the task after, by the task's shuffled Hessian.
        metric: diagonal of AdamW's metric at the operating point, (n_params,).
    """

    geometry: Geometry
    stored: dict[str, dict[str, Tensor]]
    metric: Tensor

    def of(self, task: str) -> dict[str, Tensor]:
        """Return what is stored of a task."""
        return self.stored[task]

    def product(self, hessian: str, gradient: str, kind: str = "own") -> Tensor:
        """Return H_hessian g_gradient, (n_params,)."""
        names = [task.name for task in self.geometry.tasks]
        return self.stored[hessian][kind][names.index(gradient)]

    def kappas(self) -> Iterator[Quantity]:
        """Yield the other kinds of kappa, which need no step."""
        tasks = self.geometry.tasks
        for i, first in enumerate(tasks):
            own = self.stored[first.name]
            yield from self._kappa_figures(
                (first, first),
                (first.gradient, first.second_gradient),
                (own["of_second"], own["second"]),
                (own["metric_of_second"], own["metric_second"]),
            )
            for second in tasks[i + 1 :]:
                names = (second.name, first.name), (first.name, second.name)
                crossed, in_metric = (
                    tuple(self.product(*pair, kind) for pair in names) for kind in ("own", "metric_own")
                )
                yield from self._kappa_figures((first, second), (first.gradient, second.gradient), crossed, in_metric)
        yield from self._shuffled()

    def _kappa_figures(
        self,
        tasks: tuple[TaskGeometry, TaskGeometry],
        gradients: tuple[Tensor, Tensor],
        crossed: Sequence[Tensor],
        in_metric: Sequence[Tensor],
    ) -> Iterator[Quantity]:
        kind = "within" if tasks[0] is tasks[1] else "between"
        labels = {"first": tasks[0].name, "second": tasks[1].name, "pair": kind}
        unit = unit_norm_kappa_of(crossed, gradients)
        yield Quantity("kappa_unit_norm", unit, "per step-size unit", labels=labels)
        moved = (gradients[0] + gradients[1]) / self.metric
        metric = float(((in_metric[0] - in_metric[1]) / self.metric).norm() / moved.norm())
        yield Quantity("kappa_metric", metric, "per step-size unit", labels=labels)

    def _shuffled(self) -> Iterator[Quantity]:
        """Yield kappa of neighbouring tasks with shuffled labels."""
        tasks = self.geometry.tasks
        for i, first in enumerate(tasks[: len(tasks) if len(tasks) > 2 else 1]):
            second = tasks[(i + 1) % len(tasks)]
            if first is second:
                continue
            crossed = self.stored[second.name]["shuffled"][0] - self.stored[first.name]["shuffled"][1]
            total = float((first.shuffled_gradient + second.shuffled_gradient).norm())
            labels = {"first": first.name, "second": second.name}
            value = float(crossed.norm()) / total if total > 0 else None
            yield Quantity("kappa_shuffled", value, "per step-size unit", labels=labels)


def make_products(geometry: Geometry) -> Products:
    """Make or load all products, task by task."""
    metric = metric_of(geometry)
    stored, n_tasks = {}, len(geometry.tasks)
    for number, task in enumerate(geometry.tasks):
        geometry.study.progress("Hessian-vector products", number, n_tasks)
        file = geometry.study.files.geometry / f"products-{safe_name(task.name)}.safetensors"
        if not file.exists():
            write_bytes(file, save(_products_of(geometry, number, metric)))
        stored[task.name] = load_tensors(file, "the stage", MADE_AGAIN, STORED)
    return Products(geometry, stored, metric)


def metric_of(geometry: Geometry) -> Tensor:
    """Compute the diagonal sqrt(v) + eps, (n_params,), v the mean squared minibatch gradient over all tasks."""
    study, size = geometry.study, geometry.study.settings.measurement.minibatch
    total = torch.zeros(geometry.space.n_params, dtype=torch.float64)
    for task in geometry.tasks:
        whole = len(task.batch) // size * size or len(task.batch)
        rows = group_gradients(study.problem, task.batch.rows(slice(0, whole)), min(size, whole)).rows.double()
        total += rows.square().mean(dim=0) / len(geometry.tasks)
    return total.sqrt() + study.settings.recovery.eps


def _products_of(geometry: Geometry, number: int, metric: Tensor) -> dict[str, Tensor]:
    tasks = geometry.tasks
    task, before, after = tasks[number], tasks[number - 1], tasks[(number + 1) % len(tasks)]
    gradients = [other.gradient for other in tasks]
    scaled = [gradient / metric for gradient in gradients]
    second = [task.second_gradient, task.second_gradient / metric]
    own = _applied(geometry, task.batch, [*gradients, *scaled, *second])
    of_second = _applied(geometry, task.second_batch, [task.gradient, task.gradient / metric])
    shuffled = _applied(geometry, task.shuffled, [before.shuffled_gradient, after.shuffled_gradient])
    n = len(tasks)
    return {
        "own": torch.stack(own[:n]),
        "metric_own": torch.stack(own[n : 2 * n]),
        "second": own[-2],
        "metric_second": own[-1],
        "of_second": of_second[0],
        "metric_of_second": of_second[1],
        "shuffled": torch.stack(shuffled),
    }


def _applied(geometry: Geometry, batch: Batch, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return the Hessian of a batch's loss times each vector, from one graph."""
    operator = HessianOperator(geometry.study.problem, batch)
    images = [operator @ vector for vector in vectors]
    operator.release()
    return images
