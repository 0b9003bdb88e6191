"""Named starting points for settings, and the order in which sources count: defaults < preset < file < --set < flag.

Presets were fixed by base accuracy and recovery alone, before any capture was looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lineament.errors import unknown_name
from lineament.measurements.registry import MEASUREMENTS
from lineament.problems.kinds import kind_named
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.settings.task import data_name

PRESET_NAMES = ("quick", "full")
# How a language model is trained, damaged and recovered, whatever is measured.
LM_RECIPE: dict[str, Any] = {
    "threads": 2,
    "task.evaluation_examples": 128,
    "operating.batch": 48,
    "damage.steps": 20,
    "damage.lr": 1e-3,
    "damage.batch": 24,
    "recovery.batch": 16,
    "recovery.lr": 2e-4,
    "recovery.steps": 144,
    "steering.neutral_examples": 16,
}
# A full grid of random search would take half a day on a language model and two cores.
LM_SEARCH: dict[str, Any] = {
    "search.examples": 8,
    "search.draws": 128,
    "search.theorem_draws": 1024,
    "search.counts": [1, 2, 4, 8, 16, 32, 64],
    "search.costs": [0.01, 0.5],
    "search.spaces": ["full", "random", "static_broken", "prefix"],
    "search.informed": [
        "static_star",
        "static_broken",
        "static_all_tasks",
        "control_preconditioned",
        "control_other_data",
        "prefix",
    ],
    "search.density_draws": 128,
    "search.curvature_error": 0.2,
    "search.most_probes": 40,
    "search.lora_ranks": [1],
}
# Local geometry on two cores in a quarter of an hour a seed: float64 would take four times as long.
LM_GEOMETRY: dict[str, Any] = {
    "geometry.float64": False,
    "geometry.examples": 32,
    "geometry.held_out_examples": 32,
    "geometry.rotation_lags": [1, 10, 50],
    "geometry.prompts": 16,
}
# What a preset changes, by kind of problem; a kind that is not here starts from the defaults.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("synthetic", "quick"): {
        "seeds": 5,
        "measure": ["gradient_rank", "basis_capture", "capture_by_horizon", "capture_without_momentum", "basis_drift"],
        "task.names": ["copy", "reverse", "sort", "increment", "parity", "maximum"],
        "training.steps": 500,
    },
    ("synthetic", "full"): {
        "seeds": 8,
        "measure": list(MEASUREMENTS),
        "measurement.inside_all": True,
        "measurement.grid": True,
    },
    ("lm", "quick"): {
        "seeds": 1,
        **LM_RECIPE,
        "operating.steps": 120,
        "measurement.ranks": [1, 2, 5, 10],
        "measurement.curvature_batch": 16,
        "measurement.lanczos_steps": 24,
        "measurement.task_vector_steps": 10,
        "measurement.inside_batch": 8,
        "measurement.drift_gradients": 12,
        "measurement.drift_lags": [10],
        **LM_SEARCH,
        **LM_GEOMETRY,
    },
    ("lm", "full"): {
        "measure": list(MEASUREMENTS),
        **LM_RECIPE,
        "operating.steps": 200,
        "measurement.curvature_batch": 32,
        "measurement.inside_all": True,
        "measurement.grid": True,
        **LM_SEARCH,
        **LM_GEOMETRY,
    },
}


def resolve(problem: str, preset: str, layers: Iterable[tuple[str, Mapping[str, Any]]]) -> Settings:
    """Make settings from defaults < preset < each of `layers` in order.

    Args:
        layers: (source, dotted keys) each; the source is named in errors.

    Raises:
        InputError: no such problem, preset or key (with the nearest match), or a value of the wrong type.
    """
    kind = kind_named(problem)
    if preset not in PRESET_NAMES:
        raise unknown_name("preset", preset, PRESET_NAMES)
    base = {"problem": problem, "preset": preset, "model.name": kind.model}
    settings = updated(Settings(), {**base, **PRESETS.get((problem, preset), {})}, f"preset {preset}")
    for source, changes in layers:
        settings = updated(settings, changes, source)
    if not settings.task.targets:
        own = (data_name(settings.task.data),) if settings.task.data else kind.targets
        settings = updated(settings, {"task.targets": own}, "defaults")
    return settings
