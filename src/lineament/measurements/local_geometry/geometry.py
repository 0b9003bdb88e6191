"""What all parts of the local geometry look at: each task's fixed batches, gradients and task vector, and the unit.

A part is a stage: its figures are written as a record when it is whole, so that a run that was killed goes on after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from lineament.files.naming import safe_name
from lineament.files.tensors import MADE_AGAIN, load_tensors
from lineament.files.writing import write_bytes
from lineament.measurements.measurement import make_record
from lineament.parameters import ParameterSpace
from lineament.problems.problem import Batch, corrupted
from lineament.records import Quantity, Record
from lineament.streams import Streams
from lineament.study.points import START, TRAINED
from lineament.study.study import OperatingStudy
from lineament.study.training import task_vector
from lineament.vectors.gradients import mean_gradient
from lineament.vectors.local_geometry import Loss

# Two halves of a batch whose gradients agree by less say little about the task beyond these examples.
LEAST_AGREEMENT = 0.9
STORED = ("gradient", "second_gradient", "shuffled_gradient", "halves", "held_out_halves", "task_vector")


@dataclass(frozen=True)
class TaskGeometry:
    """One task at the operating point.

    Attributes:
        batch, second_batch: independent fixed training batches of equal size.
        held_out: examples that nothing was trained on.
        gradient, second_gradient: of the two batches, (n_params,) float64.
        shuffled_gradient: of `shuffled`, which is `batch` with labels shuffled between examples.
        halves, held_out_halves: gradients of the two halves of `batch` and of `held_out`, (2, n_params).
        task_vector: theta_task - theta_star from a short training on the task alone, (n_params,).
    """

    name: str
    batch: Batch
    second_batch: Batch
    shuffled: Batch
    held_out: Batch
    gradient: Float64[Tensor, " n_params"]
    second_gradient: Float64[Tensor, " n_params"]
    shuffled_gradient: Float64[Tensor, " n_params"]
    halves: Float64[Tensor, "2 n_params"]
    held_out_halves: Float64[Tensor, "2 n_params"]
    task_vector: Float64[Tensor, " n_params"]

    @property
    def agreement(self) -> float:
        """Cosine between the gradients of the two halves of the batch; 0 where one is zero."""
        first, second = self.halves
        return float(functional.cosine_similarity(first, second, dim=0))


@dataclass(frozen=True)
class Geometry:
    """All tasks at the operating point of one seed; the model stands there.

    Attributes:
        tasks: those that have a gradient.
        left_out: task -> why it is not among them.
        unit: |theta_star - theta_start|, what lengths are counted in; the mean length of the task vectors where the
            operating point is where measuring starts.
    """

    study: OperatingStudy
    tasks: tuple[TaskGeometry, ...]
    left_out: dict[str, str]
    unit: float

    @property
    def space(self) -> ParameterSpace:
        """The measured parameters."""
        return self.study.problem.parameters

    @property
    def streams(self) -> Streams:
        """Random streams of this measurement."""
        return geometry_streams(self.study)

    def loss(self, batch: Batch) -> Loss:
        """Return the mean loss over a batch as a function of nothing."""
        return lambda: self.study.problem.loss(batch)

    def stage(self, name: str, compute: Callable[[], Iterable[Quantity]]) -> list[Quantity]:
        """Return the figures of a part, made once and kept as a record whose target is `name`."""
        part = replace(make_record(self.study, "part", (), {}), target=name)
        file = self.study.files.geometry / f"{part.name}.json"
        if not file.exists():
            replace(part, quantities=tuple(compute())).save(self.study.files.geometry)
        return list(Record.load(file).quantities)


def geometry_streams(study: OperatingStudy) -> Streams:
    """Return the random streams of this measurement."""
    return study.streams.child("geometry")


@contextmanager
def at_operating_point(study: OperatingStudy, float64: bool = True) -> Iterator[None]:
    """Hold the operating point inside the block; weights and their types are as before on exit, bit for bit.

    Args:
        float64: whether what is done there needs float64, which the settings may refuse.
    """
    model = study.problem.model
    kept = [(tensor, tensor.dtype) for tensor in _floating(model)]
    with study.problem.parameters.temporarily(study.points[TRAINED]):
        try:
            if float64 and study.settings.geometry.float64:
                model.double()
            yield
        finally:
            for tensor, dtype in kept:
                tensor.data = tensor.data.to(dtype)


def make_geometry(study: OperatingStudy) -> Geometry:
    """Make or load what all parts look at; call it at the operating point."""
    every = []
    for number, task in enumerate(study.problem.tasks):
        study.progress("gradients and task vectors", number, len(study.problem.tasks))
        every.append(_task_geometry(study, task))
    left_out = {task.name: "its gradient is zero at the operating point" for task in every if not task.gradient.any()}
    length = float((study.points[TRAINED].double() - study.points[START].double()).norm())
    vectors = torch.stack([task.task_vector for task in every])
    unit = length or float(vectors.norm(dim=1).mean())
    return Geometry(study, tuple(task for task in every if task.name not in left_out), left_out, unit)


def fixed_batch(study: OperatingStudy, task: str, name: str) -> Batch:
    """Draw a fixed training batch of a task from a named stream."""
    generator = geometry_streams(study).generator(name, task)
    return study.problem.sample(task, study.settings.geometry.examples, generator)


def _task_geometry(study: OperatingStudy, task: str) -> TaskGeometry:
    batch, second = fixed_batch(study, task, "batch"), fixed_batch(study, task, "second batch")
    shuffled = corrupted(batch, "shuffled", geometry_streams(study).generator("labels", task))
    held_out = study.problem.fixed(task, "held_out").rows(slice(0, study.settings.geometry.held_out_examples))
    file = study.files.geometry / f"{safe_name(task)}.safetensors"
    if not file.exists():
        made = {
            "gradient": mean_gradient(study.problem, batch),
            "second_gradient": mean_gradient(study.problem, second),
            "shuffled_gradient": mean_gradient(study.problem, shuffled),
            "halves": torch.stack([mean_gradient(study.problem, half) for half in halves_of(batch)]),
            "held_out_halves": torch.stack([mean_gradient(study.problem, half) for half in halves_of(held_out)]),
            "task_vector": task_vector(study.problem, task, study.settings, geometry_streams(study).child("vector")),
        }
        write_bytes(file, save(made))
    stored = load_tensors(file, "the stage", MADE_AGAIN, STORED)
    return TaskGeometry(task, batch, second, shuffled, held_out, **stored)


def halves_of(batch: Batch) -> tuple[Batch, Batch]:
    """Return the two halves of a batch, of equal size."""
    half = len(batch) // 2
    return batch.rows(slice(0, half)), batch.rows(slice(half, 2 * half))


def _floating(model: nn.Module) -> list[Tensor]:
    """List every parameter and buffer of a model that is a floating-point number."""
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
