"""The bases, controls and nulls of the capture measurement (protocol, section 2), all of them on one recovery.

A candidate gives, at each rank, its coefficients on the recorded updates (U^T u_t) and which of those updates it was
built from. To add a basis, write one function `(Workbench) -> Basis` and one line in `BASES`; one that may have no
direction in this study returns None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.bases import (
    Basis,
    from_vectors,
    krylov,
    random_basis,
    top_directions,
    top_eigenvectors,
)
from lineament.errors import InputError
from lineament.measurements.capture_ranks import usable_ranks, why_unusable
from lineament.parameters import Vectors
from lineament.problems.problem import Corruption
from lineament.study.points import DAMAGED, EARLY, TRAINED
from lineament.study.study import Study
from lineament.study.training import (
    BatchAt,
    corrupted_batches,
    make_optimizer,
    task_batches,
    task_vector,
    train,
)
from lineament.vectors.gradients import group_gradients, mean_gradient
from lineament.vectors.hessian import HessianOperator

METRIC_BATCHES = 16
# The mean gradient that `null_mean_free_prefix` takes away comes from so many batches' examples.
MEAN_BATCHES = 4
# A Ritz vector whose residual is a larger share of its value is no eigenvector yet.
MOST_RESIDUAL = 0.1
NOT_CONVERGED = (
    f"after measurement.lanczos_steps no Hessian direction has a residual below {MOST_RESIDUAL:g} of its eigenvalue"
)
SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class OtherTask:
    """What bases need of another task's gradients at theta_broken; all of the gradients would fill the memory.

    Attributes:
        rows: the first of them, (n, n_params), for the plane of all tasks.
        plane: their top directions; None for a task without gradient.
    """

    rows: Tensor
    plane: Basis | None


@dataclass(frozen=True)
class Workbench:
    """A study with what several bases need; expensive parts are made once, on first use.

    Attributes:
        hessian_residuals: |H v - value v| / |value| of every Hessian direction that `static_hessian_top` has tried.
        tasks_without_gradient: other tasks that `null_other_task` leaves out.
    """

    study: Study
    hessian_residuals: list[float] = field(default_factory=list, init=False)
    tasks_without_gradient: set[str] = field(default_factory=set, init=False)
    _others: dict[str, OtherTask] = field(default_factory=dict, init=False, repr=False)

    @property
    def rank(self) -> int:
        """The largest rank that is asked for and that the recovery's length allows; `InputError` if none is."""
        ranks = usable_ranks(self.study)
        if not ranks:
            raise InputError(f"{why_unusable(self.study, 0)}; lower measurement.ranks.")
        return max(ranks)

    @property
    def rows_per_task(self) -> int:
        """Gradients of each task in the plane of all tasks."""
        return max(1, self.study.settings.measurement.gradients // len(self.study.problem.tasks))

    def other_task(self, task: str) -> OtherTask:
        """Return what is kept of another task's gradients at theta_broken, computed once for all bases."""
        if task not in self._others:
            gradients = self.study.minibatch_gradients(DAMAGED, task)
            plane = top_directions(gradients, self.rank, "null_other_task") if gradients.rows.any() else None
            self._others[task] = OtherTask(gradients.rows[: self.rows_per_task].clone(), plane)
        return self._others[task]

    @cached_property
    def hessian(self) -> HessianOperator:
        """H and g of the target at theta_broken on one fixed batch; the model must be there while it is used."""
        size = self.study.settings.measurement.curvature_batch
        batch = self.study.gradient_batch(self.study.target, size, 1, "curvature")
        return HessianOperator(self.study.problem, batch)

    def release_graph(self) -> None:
        """Free the Hessian's graph, about a gigabyte for a small language model; a later product builds it again."""
        if "hessian" in self.__dict__:
            self.hessian.release()

    @cached_property
    def metric(self) -> Tensor:
        """Diagonal of the optimizer's metric P, (n_params,): sqrt(v) + eps for AdamW, ones otherwise.

        v = mean squared gradient of 16 fresh batches at frozen theta_broken, none of them from the recovery.
        """
        return self.metric_of("metric", None)

    def metric_of(self, stream: str, labels: Corruption | None) -> Tensor:
        """Compute the metric's diagonal, (n_params,), from batches of a named stream with true or corrupted labels."""
        recovery = self.study.settings.recovery
        if recovery.optimizer != "adamw":
            return torch.ones(self.study.problem.parameters.n_params, dtype=torch.float64)
        batch = self.study.gradient_batch(self.study.target, METRIC_BATCHES, recovery.batch, stream, labels)
        with self.study.problem.parameters.temporarily(self.study.points[DAMAGED]):
            rows = group_gradients(self.study.problem, batch, recovery.batch).rows.double()
        return rows.square().mean(dim=0).sqrt() + recovery.eps


def static_start(bench: Workbench) -> Basis:
    """Task plane near theta_start (LoRA: after 10 steps, since a fresh adapter has no gradient for A)."""
    return _static(bench, EARLY, "static_start")


def static_star(bench: Workbench) -> Basis:
    """Task plane at theta_star."""
    return _static(bench, TRAINED, "static_star")


def static_broken(bench: Workbench) -> Basis:
    """Task plane at theta_broken."""
    return _static(bench, DAMAGED, "static_broken")


def static_all_tasks(bench: Workbench) -> Basis:
    """Plane of all tasks' unit-norm gradients at theta_broken, equally many of each."""
    study = bench.study
    own = study.minibatch_gradients(DAMAGED, study.target).rows[: bench.rows_per_task]
    sets = [own if task == study.target else bench.other_task(task).rows for task in study.problem.tasks]
    unit = functional.normalize(torch.cat(sets).double(), dim=1)  # a task without gradient stays zero
    return top_directions(Vectors(unit, study.problem.parameters.space), bench.rank, "static_all_tasks")


def static_hessian_top(bench: Workbench) -> Basis | None:
    """Hessian eigenvectors with the largest eigenvalues at theta_broken, as far as Lanczos has found them."""
    study = bench.study
    steps = max(study.settings.measurement.lanczos_steps, bench.rank)
    generator = study.streams.generator("lanczos")
    found = top_eigenvectors(
        bench.hessian.__matmul__,
        study.problem.parameters.space,
        bench.rank,
        steps,
        generator,
        "static_hessian_top",
    )
    sizes = [
        residual / max(abs(value), SMALLEST) for residual, value in zip(found.residuals, found.values, strict=True)
    ]
    bench.hessian_residuals[:] = sizes
    kept = [i for i, size in enumerate(sizes) if size <= MOST_RESIDUAL]
    return replace(found.basis, columns=found.basis.columns[:, kept]) if kept else None


def task_vectors(bench: Workbench) -> Basis:
    """Span of theta_task - theta_star, each from a short AdamW training on one task, the target first."""
    study, space = bench.study, bench.study.problem.parameters
    names = [study.target, *(task for task in study.problem.tasks if task != study.target)]
    streams = study.streams.child("task vector")
    with space.temporarily(study.points[TRAINED]):
        rows = [task_vector(study.problem, task, study.settings, streams) for task in names[: bench.rank]]
    return from_vectors(Vectors(torch.stack(rows), space.space), "task_vectors")


def krylov_raw(bench: Workbench) -> Basis:
    """K_k(H, g) at theta_broken."""
    operator, space = bench.hessian, bench.study.problem.parameters.space
    return krylov(operator.__matmul__, operator.gradient, bench.rank, space, "krylov")


def krylov_preconditioned(bench: Workbench) -> Basis:
    """K_k(P^-1 H, P^-1 g) at theta_broken, in the optimizer's metric P."""
    operator, metric, space = bench.hessian, bench.metric, bench.study.problem.parameters.space
    return krylov(
        lambda v: (operator @ v) / metric,
        operator.gradient / metric,
        bench.rank,
        space,
        "krylov_preconditioned",
    )


def control_preconditioned(bench: Workbench) -> Basis:
    """The static plane at theta_broken after the optimizer's metric: top directions of P^-1 g_i."""
    vectors = bench.study.minibatch_gradients(DAMAGED, bench.study.target)
    rows = vectors.rows.double() / bench.metric
    return top_directions(Vectors(rows, vectors.space), bench.rank, "control_preconditioned")


def control_frozen_run(bench: Workbench) -> Basis:
    """Updates of the same optimizer fed gradients at frozen theta_broken on fresh batches."""
    batches = _recovery_batches(bench.study, "frozen run")
    return _fed_prefix(
        bench, lambda step, theta: mean_gradient(bench.study.problem, batches(step)), "control_frozen_run"
    )


def control_other_data(bench: Workbench) -> Basis:
    """Prefix of a second recovery from theta_broken with another data order."""
    return _second_prefix(bench, _recovery_batches(bench.study, "other data"), "control_other_data")


def control_other_data_2(bench: Workbench) -> Basis:
    """Prefix of a third data order: its overlap with `control_other_data` is the most that a prefix's can be."""
    return _second_prefix(bench, _recovery_batches(bench.study, "other data 2"), "control_other_data_2")


def null_noise_prefix(bench: Workbench) -> Basis:
    """Prefix of the same optimizer fed shuffled-label gradients from theta_broken."""
    study = bench.study
    how: Corruption = "shuffled"
    batches = corrupted_batches(_recovery_batches(study, "noise"), how, study.streams.child("noise labels"))
    return _second_prefix(bench, batches, "null_noise_prefix")


def null_mean_free_prefix(bench: Workbench) -> Basis:
    """Prefix of the same optimizer fed what sampling adds: batch gradient minus the mean gradient where it stands.

    Shuffled labels still say "unlearn" at a point that wrong labels have damaged; these gradients say nothing on
    average. The mean comes from a fresh batch of 4 times as many examples at every step.
    """
    study, problem = bench.study, bench.study.problem
    batches, size = _recovery_batches(study, "mean-free run"), MEAN_BATCHES * study.settings.recovery.batch
    fresh = task_batches(problem, study.target, size, study.streams.child("mean-free run", "mean"))

    def gradient_at(step: int, theta: Tensor) -> Tensor:
        problem.parameters.write(theta)
        return mean_gradient(problem, batches(step)) - mean_gradient(problem, fresh(step))

    with problem.parameters.restored():
        return _fed_prefix(bench, gradient_at, "null_mean_free_prefix")


def null_preconditioned_shuffled(bench: Workbench) -> Basis:
    """Plane of shuffled-label gradients in their own optimizer's metric: the null of `control_preconditioned`."""
    shuffled = bench.study.minibatch_gradients(DAMAGED, bench.study.target, "preconditioned shuffled", "shuffled")
    rows = shuffled.rows.double() / bench.metric_of("metric shuffled", "shuffled")
    return top_directions(Vectors(rows, shuffled.space), bench.rank, "null_preconditioned_shuffled")


def null_other_task(bench: Workbench) -> Basis | None:
    """The plane of the first other task with a gradient at theta_broken; captures are the mean over all such tasks."""
    return next(_other_task_planes(bench), None)


def further_task_planes(bench: Workbench) -> Iterator[Basis]:
    """Yield the planes of all other tasks with a gradient but the first of them, one at a time."""
    planes = _other_task_planes(bench)
    next(planes, None)
    return planes


def random(bench: Workbench) -> Basis:
    """A uniformly random subspace, which anything passes; it decides nothing."""
    return random_basis(bench.study.problem.parameters.space, bench.rank, bench.study.streams.generator("random basis"))


BASES: dict[str, Callable[[Workbench], Basis | None]] = {
    "static_start": static_start,
    "static_star": static_star,
    "static_broken": static_broken,
    "static_all_tasks": static_all_tasks,
    "static_hessian_top": static_hessian_top,
    "task_vectors": task_vectors,
    "krylov": krylov_raw,
    "krylov_preconditioned": krylov_preconditioned,
    "control_preconditioned": control_preconditioned,
    "control_frozen_run": control_frozen_run,
    "control_other_data": control_other_data,
    "control_other_data_2": control_other_data_2,
    "null_noise_prefix": null_noise_prefix,
    "null_mean_free_prefix": null_mean_free_prefix,
    "null_preconditioned_shuffled": null_preconditioned_shuffled,
    "null_other_task": null_other_task,
    "random": random,
}


def why_left_out(study: Study, name: str) -> str | None:
    """Say why a basis cannot be made in this study; None if it can."""
    if name == "static_start" and EARLY not in study.points:
        return "theta_start of the adapter is not known (model.adapter_start)"
    if name == "null_other_task" and not _other_tasks(study):
        return "the problem has one task alone"
    return None


def make_bases(study: Study, names: Iterable[str] | None = None, bench: Workbench | None = None) -> dict[str, Basis]:
    """Make bases that are not built from the recovery itself, in the order of `BASES`; default all that exist."""
    chosen = [name for name in BASES if (names is None or name in set(names)) and not why_left_out(study, name)]
    bench, bases = bench or Workbench(study), {}
    with study.problem.parameters.temporarily(study.points[DAMAGED]):
        for number, name in enumerate(chosen):
            study.progress(f"basis {name}", number, len(chosen))
            if (made := BASES[name](bench)) is not None:
                bases[name] = made
            bench.release_graph()
    study.forget_gradients()
    return bases


def _other_tasks(study: Study) -> list[str]:
    return [task for task in study.problem.tasks if task != study.target]


def _other_task_planes(bench: Workbench) -> Iterator[Basis]:
    """Yield the plane of every other task at theta_broken; one without gradient has none, and the next one counts."""
    for task in _other_tasks(bench.study):
        if (plane := bench.other_task(task).plane) is not None:
            yield plane
        else:
            bench.tasks_without_gradient.add(task)


def _static(bench: Workbench, point: str, label: str) -> Basis:
    return top_directions(bench.study.minibatch_gradients(point, bench.study.target), bench.rank, label)


def _recovery_batches(study: Study, stream: str) -> BatchAt:
    size = study.settings.recovery.batch
    return task_batches(study.problem, study.target, size, study.streams.child(stream))


def _fed_prefix(bench: Workbench, gradient_at: Callable[[int, Tensor], Tensor], label: str) -> Basis:
    """Prefix basis of the recovery's optimizer fed gradient_at(step, theta) from theta_broken.

    Only `theta` moves, not the model.
    """
    study = bench.study
    theta = nn.Parameter(study.points[DAMAGED].clone())
    optimizer = make_optimizer([theta], study.settings.recovery)
    rows = []
    for step in range(bench.rank):
        before = theta.detach().double().clone()
        theta.grad = gradient_at(step, theta.detach()).to(theta)
        optimizer.step()
        rows.append(theta.detach().double() - before)
    return from_vectors(Vectors(torch.stack(rows), study.problem.parameters.space), label)


def _second_prefix(bench: Workbench, batches: BatchAt, label: str) -> Basis:
    """Prefix basis of another run of the recovery's optimizer from theta_broken."""
    study, space = bench.study, bench.study.problem.parameters
    rows: list[Tensor] = []
    with space.temporarily(study.points[DAMAGED]):
        theta = space.read(torch.float64).cpu()

        def after(step: int, loss: float) -> bool:
            nonlocal theta
            now = space.read(torch.float64).cpu()
            rows.append(now - theta)
            theta = now
            return False

        optimizer = make_optimizer(space.tensors, study.settings.recovery)
        train(study.problem, optimizer, batches, bench.rank, after)
    return from_vectors(Vectors(torch.stack(rows), space.space), label)
