"""One study: a problem of one seed, one damaged target, and the points and recording that measurements look at.

Stages run in order (operating point, damage, recovery); each is saved whole when it ends, so that a run that was
killed goes on after the last finished stage and makes the same numbers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save
from torch import Tensor

from lineament.parameters import Vectors
from lineament.problems.problem import Batch, Corruption, Problem, corrupted
from lineament.records import read_json, write_bytes, write_json
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.training import OnStep, RecoveryCurve, damage, reach_operating_point, recover
from lineament.vectors.gradients import group_gradients
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.writer import Recorder
from lineament.vectors.trajectory_gram import TrajectoryGram

# A fresh LoRA adapter has B = 0, hence no gradient for A: the "start" basis is taken after this many steps, wherever
# there is training to the operating point.
EARLY_STEPS = 10
T = TypeVar("T")
# Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """A progress callback that shows nothing."""


@dataclass
class OperatingStudy:
    """The operating point of one target and seed: all that a measurement at theta_star needs.

    Attributes:
        points: `start`, `early` and `star` -> theta (n_params,); no `early` where the problem's start is not known.
        streams: random streams of this target and seed.
    """

    problem: Problem
    settings: Settings
    target: str
    seed: int
    streams: Streams
    points: dict[str, Tensor]
    progress: Progress = field(default=silent, kw_only=True)


@dataclass
class Study(OperatingStudy):
    """Points and recovery of one target and seed.

    Attributes:
        points: `start`, `early`, `star`, `broken`, `recovered` (at T; absent if not recovered) -> theta (n_params,).
        curve: the recovery, step by step.
        trajectory: its recorded updates.
        effects: point -> task -> {loss, accuracy} on the evaluation sets.
    """

    curve: RecoveryCurve
    trajectory: Trajectory
    effects: dict[str, dict[str, dict[str, float]]]
    _gradients: dict[tuple[str, str, str], Vectors] = field(default_factory=dict, repr=False)
    _gram: TrajectoryGram | None = field(default=None, repr=False)

    @property
    def gram(self) -> TrajectoryGram:
        """Geometry of the recovery, made once."""
        if self._gram is None:
            self._gram = self.trajectory.gram()
        return self._gram

    @property
    def recovered_at(self) -> int:
        """T; only for recovered studies."""
        assert self.curve.recovered_at is not None
        return self.curve.recovered_at

    def gradient_batch(self, task: str, n: int, size: int, stream: str, labels: Corruption | None = None) -> Batch:
        """n * size training examples of a task from a named stream, with true or corrupted labels."""
        streams = self.streams.child("gradients", stream)
        batch = self.problem.sample(task, n * size, streams.generator(task))
        return corrupted(batch, labels, streams.generator("labels", task)) if labels else batch

    def minibatch_gradients(
        self, point: str, task: str, stream: str = "static", labels: Corruption | None = None
    ) -> Vectors:
        """The protocol's static set: `measurement.gradients` minibatch gradients of a task at a point.

        The target's sets with true labels at theta_star and theta_broken are remembered: several measurements use them.
        """
        key = (point, task, stream)
        if key in self._gradients and labels is None:
            return self._gradients[key]
        m = self.settings.measurement
        batch = self.gradient_batch(task, m.gradients, m.minibatch, stream, labels)
        with self.problem.parameters.temporarily(self.points[point]):
            found = group_gradients(self.problem, batch, m.minibatch)
        if task == self.target and labels is None and point != "early":
            self._gradients[key] = found
        return found

    def forget_gradients(self) -> None:
        """Free the remembered sets, 64 rows of n_params each."""
        self._gradients.clear()


def prepare_study(
    problem: Problem, settings: Settings, target: str, seed: int, run: Path, progress: Progress = silent
) -> Study:
    """Make or load every stage of a study below the run folder.

    Args:
        problem: freshly made for this seed (its parameters are theta_start).
        run: the run folder; stages go to `stages/`, the recording to `recording/`.

    Raises:
        NonFiniteError: a training loss became NaN or infinite.
    """
    points = damaged_point(problem, settings, target, seed, run, progress)
    own, name = _streams(seed).child(target), f"{target}-seed{seed}"
    star_accuracy = _at(problem, points["star"], lambda: problem.evaluate(problem.fixed(target, "evaluation")))
    curve, trajectory = _recovery_stage(
        problem, settings, target, own, run, name, points["broken"], star_accuracy.accuracy, progress
    )
    if curve.recovered_at is not None:
        points["recovered"] = trajectory.position(curve.recovered_at)
    effects = _effects(problem, points, run / "stages" / f"effects-{name}.json")
    problem.parameters.write(points["broken"])
    return Study(problem, settings, target, seed, own, points, curve, trajectory, effects, progress=progress)


def operating_study(
    problem: Problem, settings: Settings, target: str, seed: int, run: Path, progress: Progress = silent
) -> OperatingStudy:
    """Make or load the operating point alone, for measurements that need no damage and no recovery.

    Args:
        problem: freshly made for this seed (its parameters are theta_start).
    """
    problem.require_task(target)
    points = make_operating_point(problem, settings, seed, operating_file(run, seed), progress)
    problem.parameters.write(points["star"])
    return OperatingStudy(problem, settings, target, seed, _streams(seed).child(target), points, progress=progress)


def damaged_point(
    problem: Problem, settings: Settings, target: str, seed: int, run: Path, progress: Progress = silent
) -> dict[str, Tensor]:
    """The stages before recovery, made or loaded: start, early, star and broken -> theta (n_params,)."""
    problem.require_task(target)
    points = make_operating_point(problem, settings, seed, operating_file(run, seed), progress)
    file = run / "stages" / f"damage-{target}-seed{seed}.safetensors"
    broken = _damage_stage(problem, settings, target, _streams(seed).child(target), file, points, progress)
    return {**points, "broken": broken}


def operating_file(run: Path, seed: int) -> Path:
    """Where a seed's operating point (start, early, star) is kept; its targets share it."""
    return run / "stages" / f"operating-seed{seed}.safetensors"


def make_operating_point(
    problem: Problem, settings: Settings, seed: int, file: Path, progress: Progress = silent
) -> dict[str, Tensor]:
    """The operating point, loaded from `file` or made and written there: start, early, star -> theta (n_params,).

    Args:
        problem: freshly made for this seed (its parameters are theta_start).
    """
    if file.exists():
        return load_file(file)
    streams, points = _streams(seed), {"start": problem.parameters.read().cpu()}
    if problem.operating_point is not None:
        points["star"] = problem.operating_point
        if problem.start_known:
            points["early"] = _early(problem, settings, streams, progress)
    elif problem.parameters.space.kind == "lora_factors" or not problem.starts_trained:
        total = settings.operating.steps

        def on_step(step: int, loss: float) -> bool:
            progress("training to the operating point", step, total)
            if step == min(EARLY_STEPS, total):
                points["early"] = problem.parameters.read().cpu()
            return False

        reach_operating_point(problem, settings.operating, streams.child("operating"), on_step)
        points["star"] = problem.parameters.read().cpu()
    else:
        # All weights of a trained model: it is both where measuring starts and the operating point.
        points.update(early=points["start"].clone(), star=points["start"].clone())
    write_bytes(file, save(points))
    return points


def _streams(seed: int) -> Streams:
    return Streams(seed).child("study")


def _early(problem: Problem, settings: Settings, streams: Streams, progress: Progress) -> Tensor:
    """A few steps of training from theta_start, where theta_star was trained elsewhere."""
    short = replace(settings.operating, steps=min(EARLY_STEPS, settings.operating.steps))
    reach_operating_point(
        problem, short, streams.child("operating"), _reporting(progress, "first steps from the start", short.steps)
    )
    return problem.parameters.read().cpu()


def _damage_stage(
    problem: Problem,
    settings: Settings,
    target: str,
    streams: Streams,
    file: Path,
    points: dict[str, Tensor],
    progress: Progress,
) -> Tensor:
    if not file.exists():
        problem.parameters.write(points["star"])
        on_step = _reporting(progress, f"damaging {target}", settings.damage.steps)
        damage(problem, target, settings.damage, streams.child("damage"), points["start"], on_step)
        write_bytes(file, save({"broken": problem.parameters.read().cpu()}))
    return load_file(file)["broken"]


def _recovery_stage(
    problem: Problem,
    settings: Settings,
    target: str,
    streams: Streams,
    run: Path,
    name: str,
    broken: Tensor,
    star_accuracy: float,
    progress: Progress,
) -> tuple[RecoveryCurve, Trajectory]:
    folder, curve_file = run / "recording" / name, run / "stages" / f"recovery-{name}.json"
    if not curve_file.exists():
        if folder.exists():
            shutil.rmtree(folder)  # rows of a run that was cut short; its steps are made again, bit for bit
        problem.parameters.write(broken)
        recorder = Recorder(problem.parameters, folder)
        on_step = _reporting(progress, f"recovering {target}", settings.recovery.steps)
        curve = recover(problem, target, settings.recovery, streams.child("recovery"), star_accuracy, recorder, on_step)
        recorder.close()
        write_json(curve_file, asdict(curve))
    body = read_json(curve_file)
    curve = RecoveryCurve(
        **{k: tuple(body[k]) for k in ("loss", "accuracy", "train_loss")}, recovered_at=body["recovered_at"]
    )
    trajectory = Trajectory(folder)
    assert trajectory.closed
    return curve, trajectory


def _effects(problem: Problem, points: dict[str, Tensor], file: Path) -> dict[str, dict[str, dict[str, float]]]:
    if not file.exists():
        body = {}
        for point in ("start", "star", "broken", "recovered"):
            if point in points:
                found = _at(problem, points[point], lambda: problem.evaluate_all("evaluation"))
                body[point] = {task: asdict(evaluation) for task, evaluation in found.items()}
        write_json(file, body)
    effects: dict[str, dict[str, dict[str, float]]] = read_json(file)
    return effects


def _reporting(progress: Progress, what: str, total: int) -> OnStep:
    def on_step(step: int, loss: float) -> bool:
        progress(what, step, max(total, step))
        return False

    return on_step


def _at(problem: Problem, theta: Tensor, compute: Callable[[], T]) -> T:
    with problem.parameters.temporarily(theta):
        return compute()
