"""What a run will take, before it starts: example passes counted from the settings, priced by timing a probe."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lineament.measurements import basis_capture, basis_drift, gradient_rank, random_search, steering
from lineament.measurements.basis_drift import PARTS, lags_up_to
from lineament.measurements.capture_bases import BASES
from lineament.problems.problem import Batch, Problem
from lineament.runs.environment import environment
from lineament.runs.job import AT_OPERATING_POINT, known_tasks, make_problem
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.study import EARLY_STEPS

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
    n_params, rank = probe.parameters.n_params, max(settings.measurement.ranks)
    recorded = 2 * settings.recovery.steps if set(settings.measure) - set(AT_OPERATING_POINT) else 0
    rows = recorded * n_params * BYTES_PER_ROW_ENTRY * len(settings.task.targets)
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
    with tempfile.TemporaryDirectory(prefix="lineament-plan-") as folder, environment(CACHE_VARIABLE, folder):
        yield


def _seconds_per_example(problem: Problem, settings: Settings) -> float:
    generator = Streams(settings.seed).generator("plan")
    batch = Batch.join([problem.sample(task, settings.recovery.batch, generator) for task in problem.tasks[:1]])
    problem.parameters.gradient(problem.loss(batch))
    start = time.perf_counter()
    for _ in range(3):
        problem.parameters.gradient(problem.loss(batch))
    return (time.perf_counter() - start) / 3 / len(batch)


def _examples(s: Settings) -> dict[str, float]:
    """Example passes of one job, in units of one forward and backward pass; recovery at its longest."""
    found = {
        "base model": float(s.training.steps * s.training.batch) if s.problem == "synthetic" else 0.0,
        "operating point": float(_operating_steps(s) * s.operating.batch),
    }
    n_targets, steps = len(s.task.targets), 2 * s.recovery.steps
    if set(s.measure) - set(AT_OPERATING_POINT):
        found["damage"] = float(n_targets * s.damage.steps * s.damage.batch)
        found["recovery"] = n_targets * steps * (s.recovery.batch + s.task.evaluation_examples * FORWARD_PASSES)
    measured = {
        gradient_rank.NAME: _gradient_rank,
        basis_capture.NAME: _basis_capture,
        basis_drift.NAME: _basis_drift,
        random_search.NAME: _random_search,
        steering.NAME: _steering,
    }
    for name in s.measure:
        found |= {stage: n_targets * n for stage, n in measured[name](s).items()}
    if s.measurement.grid and basis_capture.NAME in s.measure:
        found["step size by damage grid"] = 9 * (found["damage"] + found["recovery"])
    return found


def _operating_steps(s: Settings) -> int:
    """A given adapter is the operating point; from a known start a few steps are made all the same."""
    if not s.model.adapter:
        return s.operating.steps
    return min(EARLY_STEPS, s.operating.steps) if s.model.adapter_start else 0


def _gradient_rank(s: Settings) -> dict[str, float]:
    m = s.measurement
    return {"gradient rank": m.gradients * m.minibatch * (len(known_tasks(s)) + 3) + 4.0 * m.gradients}


def _basis_capture(s: Settings) -> dict[str, float]:
    m, n_tasks = s.measurement, len(known_tasks(s))
    curvature = m.curvature_batch * HESSIAN_PASSES * (m.lanczos_steps + 2 * max(m.ranks))
    others = max(m.ranks) * 3 * s.recovery.batch + n_tasks * m.task_vector_steps * s.recovery.batch
    inside = (len(BASES) * len(m.ranks) if m.inside_all else 5) * 3 * m.inside_steps * m.inside_batch
    bases = m.gradients * m.minibatch * (2 + n_tasks) + curvature + others + 16 * s.recovery.batch
    return {"bases and captures": bases, "training inside": float(inside)}


def _basis_drift(s: Settings) -> dict[str, float]:
    m, times = s.measurement, 2 * (len(lags_up_to(100)) + 1) + 8
    return {"drift": float(PARTS * times * m.drift_gradients * m.minibatch)}


def _random_search(s: Settings) -> dict[str, float]:
    """Draws in every space and sigma, probes of the curvature, and the study made again at other sizes."""
    search = s.search
    sizes = search.lora_ranks if s.recovery.space == "lora" else ()
    variants = len(sizes) + (len(search.widths) if s.problem == "synthetic" else 0)
    again = s.operating.steps * s.operating.batch + s.damage.steps * s.damage.batch
    draws = search.draws * (len(search.costs) + 1) * len(search.spaces)
    draws += search.density_draws * (2 * len(search.informed) + 3 * variants)
    probes = search.most_probes * (3 + variants) * HESSIAN_PASSES
    return {"random search": search.examples * (draws * FORWARD_PASSES + probes) + variants * again}


def _steering(s: Settings) -> dict[str, float]:
    """Activations, steps and their Jacobian products (about a pass each), and the effects of added vectors."""
    st, held_out = s.steering, s.task.evaluation_examples
    shifts = (2 + st.random_directions + st.shuffled_steps) * held_out + (1 + st.shuffled_steps) * st.step_examples
    finite = 2 * len(st.sizes) * held_out
    doses = 3 * (len(st.doses) + 1) * (held_out + st.neutral_examples)
    calibrated = (len(st.depths) + 1) * (2 + st.effect_directions) * (12 * st.neutral_examples + held_out)
    return {"steering": shifts + FORWARD_PASSES * (st.examples + finite + doses + calibrated)}
