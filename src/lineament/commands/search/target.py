"""What is searched: a model at a point, its task, and the regions that draws may come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lineament.bases import Basis, from_vectors, krylov, random_basis, top_directions
from lineament.errors import InputError, unknown_name
from lineament.files.tensors import MADE_AGAIN, load_tensors
from lineament.parameters import Space, Vectors
from lineament.population.region import Region
from lineament.problems.problem import Batch, Problem
from lineament.runs.folder import RunFolder
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.points import DAMAGED, START, TRAINED
from lineament.subspace.basis_files import read_basis
from lineament.vectors.gradients import group_gradients
from lineament.vectors.hessian import HessianOperator
from lineament.vectors.recording.index import finished
from lineament.vectors.recording.reader import Trajectory

BASES = ("full", "gradient", "prefix", "krylov", "random")
NEED_GRADIENTS = ("gradient", "krylov")
POINTS = (DAMAGED, TRAINED, START)


@dataclass(frozen=True)
class Target:
    """A problem whose model stands at the point to be searched around.

    Attributes:
        recording: the run's recorded recovery, for the prefix basis; None without a run.
    """

    problem: Problem
    task: str
    settings: Settings
    seed: int
    point: str
    recording: Path | None = None

    @property
    def streams(self) -> Streams:
        """Streams of searches around this target."""
        return Streams(self.seed).child("search tool", self.task, self.point)

    def batch(self, n: int, stream: str) -> Batch:
        """Draw n training examples of the task from a named stream."""
        return self.problem.sample(self.task, n, self.streams.generator(stream))


def run_settings(run: Path, task: str | None, seed: int | None) -> tuple[Settings, str, int]:
    """Return settings, task and seed that a run folder stands for; `InputError` for what the run does not hold."""
    settings = RunFolder(run).settings()
    task, seed = task or settings.task.targets[0], settings.seed if seed is None else seed
    if task not in settings.task.targets:
        raise unknown_name(f"task of {run}", task, settings.task.targets)
    if not RunFolder(run).study_files(task, seed).damage.exists():
        raise InputError(
            f"{run} holds no damaged point of task {task!r}, seed {seed}; its seeds start at {settings.seed}."
        )
    return settings, task, seed


def from_run(run: Path, settings: Settings, problem: Problem, task: str, seed: int, point: str) -> Target:
    """Return a target at a point of a run: `broken`, `star` or `start`."""
    if point not in POINTS:
        raise unknown_name("point", point, POINTS)
    files = RunFolder(run).study_files(task, seed)
    file = files.damage if point == DAMAGED else files.operating_point
    problem.parameters.write(load_tensors(file, "the stage", MADE_AGAIN, (point,))[point])
    recording = files.recovery.recording
    return Target(problem, task, settings, seed, point, recording if finished(recording) else None)


def from_adapter(settings: Settings, problem: Problem, task: str, adapter: Path) -> Target:
    """Return a target at the point of a PEFT adapter folder."""
    problem.require_task(task)
    assert problem.operating_point is not None
    problem.parameters.write(problem.operating_point)
    return Target(problem, task, settings, settings.seed, adapter.name)


def make_regions(target: Target, names: Sequence[str], rank: int, *, gradients: bool) -> list[Region]:
    """Make regions by name, or from a basis file; those that need gradients are refused without them."""
    regions = []
    for name in names:
        if name not in BASES and not Path(name).suffix == ".safetensors":
            raise unknown_name("basis", name, (*BASES, "FILE.safetensors"))
        if name in NEED_GRADIENTS and not gradients:
            raise InputError(f"basis {name!r} needs gradients; choose full, random, prefix or a basis file.")
        basis = None if name == "full" else _basis(target, name, rank)
        regions.append(Region(Path(name).stem, target.problem.parameters, basis))
    return regions


def default_bases(target: Target, *, gradients: bool) -> tuple[str, ...]:
    """Name every basis that the target allows, except krylov, which costs a Hessian product per direction."""
    names = ["full", "random"]
    if gradients:
        names.append("gradient")
    if target.recording:
        names.append("prefix")
    return tuple(names)


def _basis(target: Target, name: str, rank: int) -> Basis:
    problem, space = target.problem, target.problem.parameters.space
    if name == "random":
        return random_basis(space, rank, target.streams.generator("random basis"))
    if name == "gradient":
        m = target.settings.measurement
        rows = group_gradients(problem, target.batch(4 * rank * m.minibatch, "gradient basis"), m.minibatch)
        return top_directions(rows, rank, "gradient")
    if name == "krylov":
        operator = HessianOperator(problem, target.batch(target.settings.measurement.curvature_batch, "krylov basis"))
        basis = krylov(operator.__matmul__, operator.gradient, rank, space)
        operator.release()
        return basis
    if name == "prefix":
        if target.recording is None:
            raise InputError("basis 'prefix' needs a run with a recorded recovery; give a run folder.")
        trajectory = Trajectory(target.recording)
        return from_vectors(trajectory.updates(1, min(rank, trajectory.n_steps)), "prefix")
    return load_basis(Path(name), space, target)


def load_basis(path: Path, space: Space, target: Target) -> Basis:
    """Read a basis file of this space; `InputError` names both spaces if they differ."""
    basis, model = read_basis(path)
    space.require(basis.space, f"the model and the basis file {path.name}")
    here = _start_hash(target)
    if model and here and model != here:
        raise InputError(f"{path} was made on another model (hash {model}) than this one (hash {here}).")
    return from_vectors(Vectors(basis.columns.T, space), path.stem)


def _start_hash(target: Target) -> str | None:
    """Return the model's hash at theta_start, as basis files carry it; None where theta_start is not known."""
    file = target.recording and RunFolder(target.recording.parents[1]).operating_point(target.seed)
    if not file or not file.exists():
        return None
    with target.problem.parameters.temporarily(load_tensors(file, "the stage", MADE_AGAIN, (START,))[START]):
        return target.problem.model_hash()
