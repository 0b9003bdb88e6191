"""What a run will take, before it starts: example passes counted from the settings, times the seconds of a probe's."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lineament.measurements.capture_bases import BASES
from lineament.measurements.measurement import measurements_named, need_recovery
from lineament.problems.base_cache import VARIABLE
from lineament.problems.kinds import kind_named
from lineament.problems.problem import Batch, Problem
from lineament.runs.environment import environment
from lineament.runs.job import make_problem
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.horizon import recorded_steps
from lineament.study.passes import damage_passes, operating_passes, recovery_passes

BYTES_PER_ROW_ENTRY = 4


@dataclass(frozen=True)
class Stage:
    """A stage of one job: examples that pass forward and backward, and the time that takes."""

    name: str
    examples: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The whole run's estimate."""

    stages: tuple[Stage, ...]
    n_jobs: int
    seconds: float
    memory_bytes: float
    disk_bytes: float


def plan(settings: Settings, workers: int) -> Plan:
    """Estimate time, memory and disk; loads the model and times a few steps as a job would, and leaves nothing."""
    with _threads(settings.threads), _throwaway_cache(settings.problem):
        # The probe's base model is untrained: only its speed matters.
        probe = make_problem(updated(settings, {"training.steps": 1}, "plan"), settings.seed)
        per_example = _seconds_per_example(probe, settings)
    stages = tuple(Stage(name, round(n), n * per_example) for name, n in _passes(settings, len(probe.tasks)).items())
    n_params, rank = probe.parameters.n_params, max(settings.measurement.ranks)
    recorded = _n_recordings(settings) * recorded_steps(settings.recovery.steps)
    rows = recorded * n_params * BYTES_PER_ROW_ENTRY * len(settings.task.targets)
    held = (len(BASES) * rank * 8 + 8 * settings.measurement.gradients * BYTES_PER_ROW_ENTRY) * n_params
    rounds = -(-settings.seeds // workers)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Plan(stages, settings.seeds, rounds * sum(s.seconds for s in stages), used + held, rows * settings.seeds)


def stage_passes(settings: Settings) -> tuple[dict[str, float], float]:
    """Count the passes of those stages of a job that say how far they are, by what they report first, and of all.

    The stages are in the order of the job; one that each target has is counted for one target. Needs no model.
    """
    passes = _passes(settings, max(len(settings.task.names), len(settings.task.targets)))
    n_targets = len(settings.task.targets)
    stages = {
        "training the base model": passes["base model"],
        "training to the operating point": passes["operating point"],
        "damaging": passes.get("damage", 0.0) / n_targets,
        "recovering": passes.get("recovery", 0.0) / n_targets,
    }
    return {stage: n for stage, n in stages.items() if n}, sum(passes.values())


def _n_recordings(settings: Settings) -> int:
    """Count the recoveries that a study records."""
    own = int(need_recovery(settings.measure))
    return own + sum(measurement.extra_recoveries for measurement in measurements_named(settings.measure))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _throwaway_cache(problem: str) -> Iterator[None]:
    """Delete base models made inside the block: an untrained one must not fill the user's cache.

    A problem without one may use the cache, where a GGUF file is made plain for all later runs.
    """
    if not kind_named(problem).trains_base:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lineament-plan-") as folder, environment(VARIABLE, folder):
        yield


def _seconds_per_example(problem: Problem, settings: Settings) -> float:
    generator = Streams(settings.seed).generator("plan")
    batch = Batch.join([problem.sample(task, settings.recovery.batch, generator) for task in problem.tasks[:1]])
    problem.parameters.gradient(problem.loss(batch))
    start = time.perf_counter()
    for _ in range(3):
        problem.parameters.gradient(problem.loss(batch))
    return (time.perf_counter() - start) / 3 / len(batch)


def _passes(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the passes of every stage of one job, and of what is measured, over all its targets."""
    training, n_targets = settings.training, len(settings.task.targets)
    trains_base = kind_named(settings.problem).trains_base
    passes = {
        "base model": float(training.steps * training.batch) if trains_base else 0.0,
        "operating point": operating_passes(settings),
    }
    if need_recovery(settings.measure):
        passes["damage"] = n_targets * damage_passes(settings)
        passes["recovery"] = n_targets * recovery_passes(settings)
    for measurement in measurements_named(settings.measure):
        times = 1 if measurement.of_all_tasks else n_targets
        passes |= {stage: times * n for stage, n in measurement.cost(settings, n_tasks).items()}
    return passes
