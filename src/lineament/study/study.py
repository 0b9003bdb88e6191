"""One study: a problem of one seed, one damaged target, and the points and recording that measurements look at.

Stages run in order (operating point, damage, recovery); each is saved whole when it ends, so that a run that was
killed goes on after the last finished stage and makes the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save
from torch import Tensor

from lineament.files.schemas import read_ours
from lineament.files.tensors import MADE_AGAIN, load_tensors
from lineament.files.writing import write_bytes, write_json
from lineament.parameters import Vectors
from lineament.problems.problem import Batch, Corruption, Problem
from lineament.problems.progress import Progress, silent
from lineament.records import ALL_TASKS
from lineament.settings.settings import Settings
from lineament.settings.training import RecoverySettings
from lineament.streams import Streams
from lineament.study.case import Case, seed_streams
from lineament.study.files import RecoveryFiles
from lineament.study.horizon import RecoveryCurve, read_curve, recorded_steps
from lineament.study.points import DAMAGED, EARLY, EVALUATED, RECOVERED, START, TRAINED
from lineament.study.training import (
    OnStep,
    damage,
    minibatches,
    reach_operating_point,
    recover,
    update_rule,
    without_momentum,
)
from lineament.vectors.blind import blind_gram
from lineament.vectors.gradients import group_gradients
from lineament.vectors.recording.optimizer import GroupRule, RecordedOptimizer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.writer import Recorder, begin_again
from lineament.vectors.trajectory_gram import TrajectoryGram

# A fresh LoRA adapter has B = 0, hence no gradient for A: the "start" basis is taken after this many steps, wherever
# there is training to the operating point.
EARLY_STEPS = 10
T = TypeVar("T")


@dataclass(frozen=True)
class OperatingStudy(Case):
    """A case at its operating point: all that a measurement at theta_star needs.

    Attributes:
        points: label (see `points`) -> theta (n_params,): START, EARLY and TRAINED; no EARLY where the problem's start
            is not known.
    """

    points: dict[str, Tensor]


@dataclass(frozen=True)
class Recovery:
    """One recovery from the damaged point: how it went, and its recorded updates.

    Attributes:
        settings: those it was made with.
    """

    settings: RecoverySettings
    curve: RecoveryCurve
    trajectory: Trajectory

    @cached_property
    def gram(self) -> TrajectoryGram:
        """Geometry of its updates, made once."""
        return self.trajectory.gram()

    @cached_property
    def blind_gram(self) -> TrajectoryGram:
        """Geometry of as many updates of the same optimizer on gradients that know nothing, made once."""
        return blind_gram(update_rule(self.settings), self.trajectory.n_steps)


@dataclass(frozen=True)
class Study(OperatingStudy):
    """A case with its damage and recovery.

    Attributes:
        points: also DAMAGED, and RECOVERED (at T; absent if not recovered).
        recovery: the recovery as configured.
        effects: point -> task -> {loss, accuracy} on the evaluation sets.
    """

    recovery: Recovery
    effects: dict[str, dict[str, dict[str, float]]]
    _gradients: dict[tuple[str, str, str], Vectors] = field(default_factory=dict, init=False, repr=False)

    @property
    def curve(self) -> RecoveryCurve:
        """The recovery as configured, evaluation by evaluation."""
        return self.recovery.curve

    @property
    def trajectory(self) -> Trajectory:
        """Its recorded updates."""
        return self.recovery.trajectory

    @property
    def gram(self) -> TrajectoryGram:
        """Their geometry."""
        return self.recovery.gram

    @property
    def recovered_at(self) -> int:
        """T; only for recovered studies."""
        assert self.curve.recovered_at is not None
        return self.curve.recovered_at

    def gradient_batch(self, task: str, n: int, size: int, stream: str, labels: Corruption | None = None) -> Batch:
        """Draw n minibatches of a task from a named stream, joined; see `minibatches`. Of size 1: one batch of n."""
        return minibatches(self.problem, task, (n, size), self.streams.child("gradients", stream), labels)

    def minibatch_gradients(
        self, point: str, task: str, stream: str = "static", labels: Corruption | None = None
    ) -> Vectors:
        """Compute the protocol's static set: `measurement.gradients` minibatch gradients of a task at a point.

        The target's sets with true labels at theta_star and theta_broken are remembered: several measurements use them.
        """
        key = (point, task, stream)
        if key in self._gradients and labels is None:
            return self._gradients[key]
        m = self.settings.measurement
        batch = self.gradient_batch(task, m.gradients, m.minibatch, stream, labels)
        with self.problem.parameters.temporarily(self.points[point]):
            gradients = group_gradients(self.problem, batch, m.minibatch)
        if task == self.target and labels is None and point != EARLY:
            self._gradients[key] = gradients
        return gradients

    def forget_gradients(self) -> None:
        """Free the remembered sets, 64 rows of n_params each."""
        self._gradients.clear()


def prepare_study(case: Case) -> Study:
    """Make every stage of a study, or load those that are there.

    The problem must be fresh: its parameters are theta_start.

    Raises:
        NonFiniteError: a training loss became NaN or infinite.
    """
    problem, points = case.problem, damaged_point(case)
    recovery = _recovery_stage(case, points, case.settings.recovery, case.files.recovery)
    if recovery.curve.recovered_at is not None:
        points[RECOVERED] = recovery.trajectory.position(recovery.curve.recovered_at)
    effects = _effects(case, points)
    problem.parameters.write(points[DAMAGED])
    return Study(**vars(case), points=points, recovery=recovery, effects=effects)


def second_recovery(study: Study) -> Recovery | None:
    """Make or load a recovery without momentum from the same damaged point, on the same batches.

    Updates of a blind run without momentum are independent, so that its first updates, its updates at random times and
    k / T are one. None where the recovery has no momentum.
    """
    plain = without_momentum(study.settings.recovery)
    if plain is None:
        return None
    with study.problem.parameters.restored():
        return _recovery_stage(study, study.points, plain, study.files.second_recovery)


def operating_study(case: Case) -> OperatingStudy:
    """Make or load the operating point alone, for measurements that need no damage and no recovery.

    The problem must be fresh: its parameters are theta_start.
    """
    points = _operating_points(case)
    case.problem.parameters.write(points[TRAINED])
    return OperatingStudy(**vars(case), points=points)


def damaged_point(case: Case) -> dict[str, Tensor]:
    """Make or load the stages before recovery: label -> theta (n_params,), DAMAGED among them."""
    points, file, settings = _operating_points(case), case.files.damage, case.settings.damage
    if not file.exists():
        problem = case.problem
        problem.parameters.write(points[TRAINED])
        on_step = _reporting(case.progress, f"damaging {case.target}", settings.steps)
        damage(problem, case.target, settings, case.streams.child("damage"), points[START], on_step)
        write_bytes(file, save({DAMAGED: problem.parameters.read().cpu()}))
    return {**points, DAMAGED: load_tensors(file, "the stage", MADE_AGAIN, (DAMAGED,))[DAMAGED]}


def make_operating_point(
    problem: Problem, settings: Settings, seed: int, file: Path, progress: Progress = silent
) -> dict[str, Tensor]:
    """Load the operating point from `file`, or make it and write it there: label -> theta (n_params,).

    It stands for all targets of a seed, so it takes no `Case`.

    Args:
        problem: fresh: its parameters are theta_start.
    """
    if file.exists():
        return load_tensors(file, "the stage", MADE_AGAIN, (START, TRAINED))
    streams, points = seed_streams(seed), {START: problem.parameters.read().cpu()}
    if problem.operating_point is not None:
        points[TRAINED] = problem.operating_point
        if problem.start_known:
            points[EARLY] = _early(problem, settings, streams, progress)
    elif problem.parameters.space.kind == "lora_factors" or not problem.starts_trained:
        total = settings.operating.steps

        def on_step(step: int, loss: float) -> bool:
            progress("training to the operating point", step, total)
            if step == min(EARLY_STEPS, total):
                points[EARLY] = problem.parameters.read().cpu()
            return False

        reach_operating_point(problem, settings.operating, streams.child("operating"), on_step)
        points[TRAINED] = problem.parameters.read().cpu()
    else:
        # All weights of a trained model: it is both where measuring starts and the operating point.
        points.update({EARLY: points[START].clone(), TRAINED: points[START].clone()})
    write_bytes(file, save(points))
    return points


def _operating_points(case: Case) -> dict[str, Tensor]:
    if case.target != ALL_TASKS:
        case.problem.require_task(case.target)
    return make_operating_point(case.problem, case.settings, case.seed, case.files.operating_point, case.progress)


def _early(problem: Problem, settings: Settings, streams: Streams, progress: Progress) -> Tensor:
    """Take a few steps of training from theta_start, where theta_star was trained elsewhere."""
    short = replace(settings.operating, steps=min(EARLY_STEPS, settings.operating.steps))
    reach_operating_point(
        problem, short, streams.child("operating"), _reporting(progress, "first steps from the start", short.steps)
    )
    return problem.parameters.read().cpu()


def _recovery_stage(
    case: Case, points: dict[str, Tensor], settings: RecoverySettings, files: RecoveryFiles
) -> Recovery:
    problem, target = case.problem, case.target
    if not files.curve.exists():
        trained = _at(problem, points[TRAINED], lambda: problem.evaluate(problem.fixed(target, "evaluation")))
        if files.recording.exists():
            begin_again(files.recording)  # a run was cut short there; its steps are made again, bit for bit
        problem.parameters.write(points[DAMAGED])
        rule = RecordedOptimizer((GroupRule(problem.parameters.n_params, update_rule(settings)),), reason="")
        recorder = Recorder(problem.parameters, files.recording, about={"task": target}, optimizer=rule)
        # both arms see the same batches, so that they differ by momentum alone
        streams = case.streams.child("recovery")
        on_step = _reporting(case.progress, f"recovering {target}", recorded_steps(settings.steps))
        curve = recover(problem, target, settings, streams, trained, recorder, on_step)
        recorder.close()
        write_json(files.curve, asdict(curve))
    trajectory = Trajectory(files.recording)
    assert trajectory.closed
    return Recovery(settings, read_curve(files.curve), trajectory)


def _effects(case: Case, points: dict[str, Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    if not case.files.effects.exists():
        body = {}
        for point in EVALUATED:
            if point in points:
                tasks = _at(case.problem, points[point], lambda: case.problem.evaluate_all("evaluation"))
                body[point] = {task: asdict(evaluation) for task, evaluation in tasks.items()}
        write_json(case.files.effects, body)
    effects: dict[str, dict[str, dict[str, float]]] = read_ours(case.files.effects, "effects", MADE_AGAIN)
    return effects


def _reporting(progress: Progress, what: str, total: int) -> OnStep:
    def on_step(step: int, loss: float) -> bool:
        progress(what, step, max(total, step))
        return False

    return on_step


def _at(problem: Problem, theta: Tensor, compute: Callable[[], T]) -> T:
    with problem.parameters.temporarily(theta):
        return compute()
