"""What a run will take, before it starts: example passes counted from the settings, priced by timing a probe."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lineament.experiment import known_tasks, make_problem
from lineament.measurements.basis_drift import PARTS, lags_up_to
from lineament.measurements.capture_bases import BASES
from lineament.problems.problem import Batch, Problem
from lineament.settings import Settings, updated
from lineament.streams import Streams

# A Hessian-vector product costs about this many gradient passes over its batch; an evaluation a third of one.
HESSIAN_PASSES, FORWARD_PASSES = 2.0, 1 / 3
BYTES_PER_ROW_ENTRY = 4
CACHE_VARIABLE = "LINEAMENT_CACHE"


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
    with _threads(settings.threads), _throwaway_cache():
        # The probe's base model is untrained: only its speed matters.
        probe = make_problem(updated(settings, {"training.steps": 1}, "plan"), settings.seed)
        per_example = _seconds_per_example(probe, settings)
    stages = tuple(Stage(name, round(n), n * per_example) for name, n in _examples(settings).items())
    n_params, rank = probe.space.n_params, max(settings.measurement.ranks)
    rows = 2 * settings.recovery.steps * n_params * BYTES_PER_ROW_ENTRY * len(settings.task.targets)
    held = (len(BASES) * rank * 8 + 8 * settings.measurement.gradients * BYTES_PER_ROW_ENTRY) * n_params
    rounds = -(-settings.seeds // workers)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Plan(stages, settings.seeds, rounds * sum(s.seconds for s in stages), used + held, rows * settings.seeds)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _throwaway_cache() -> Iterator[None]:
    """Base models made inside the block are gone after it: an untrained one must not fill the user's cache."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="lineament-plan-") as folder:
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


def _seconds_per_example(problem: Problem, settings: Settings) -> float:
    generator = Streams(settings.seed).generator("plan")
    batch = Batch.join([problem.sample(task, settings.recovery.batch, generator) for task in problem.tasks[:1]])
    problem.space.gradient(problem.loss(batch))
    start = time.perf_counter()
    for _ in range(3):
        problem.space.gradient(problem.loss(batch))
    return (time.perf_counter() - start) / 3 / len(batch)


def _examples(s: Settings) -> dict[str, float]:
    """Example passes of one job, in units of one forward and backward pass; recovery at its longest."""
    m, n_tasks, n_targets = s.measurement, len(known_tasks(s)), len(s.task.targets)
    static = m.gradients * m.minibatch
    steps = 2 * s.recovery.steps
    curvature = m.curvature_batch * HESSIAN_PASSES * (m.lanczos_steps + 2 * max(m.ranks))
    others = max(m.ranks) * 3 * s.recovery.batch + n_tasks * m.task_vector_steps * s.recovery.batch
    inside = (len(BASES) * len(m.ranks) if m.inside_all else 5) * 3 * m.inside_steps * m.inside_batch
    times = 2 * (len(lags_up_to(100)) + 1) + 8
    found = {
        "base model": float(s.training.steps * s.training.batch) if s.problem == "synthetic" else 0.0,
        "operating point": float(s.operating.steps * s.operating.batch),
        "damage": float(n_targets * s.damage.steps * s.damage.batch),
        "recovery": n_targets * steps * (s.recovery.batch + s.task.evaluation_examples * FORWARD_PASSES),
        "gradient rank": n_targets * (static * (n_tasks + 3) + 4 * m.gradients),
        "bases and captures": n_targets * (static * (2 + n_tasks) + curvature + others + 16 * s.recovery.batch),
        "training inside": float(n_targets * inside),
        "drift": float(n_targets * PARTS * times * m.drift_gradients * m.minibatch),
    }
    if m.grid:
        found["step size by damage grid"] = 9 * (found["damage"] + found["recovery"])
    return found
