"""The check of all settings before a model is made or a file written.

Types and names of choices are checked where settings are read. The range of each key stands at its field, and what the
keys of a measurement or of a kind of problem demand of each other stands with it; what is left is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lineament.measurements.measurement import measurements_named
from lineament.measurements.registry import MEASUREMENTS
from lineament.problems.kinds import kind_named
from lineament.records import ALL_TASKS
from lineament.settings.agreements import Agreement, require_all
from lineament.settings.keys import require_in_range
from lineament.settings.settings import Settings
from lineament.settings.words import value_words


def require_allowed(settings: Settings, n_tasks: int) -> None:
    """Check every value's range, then what the keys demand of each other, on a problem of `n_tasks` tasks.

    Raises:
        InputError: names the key, its value and what is allowed, or the unknown measurement.
    """
    measurements = measurements_named(settings.measure)
    require_in_range(settings, _groups_of(MEASUREMENTS) - _groups_of(settings.measure))
    require_all(_agreements(settings, n_tasks))
    require_all(_adapter_agreements(settings))
    for measurement in measurements:
        require_all(measurement.check(settings, n_tasks))


def _groups_of(names: Collection[str]) -> set[str]:
    """Return the groups of settings that these measurements alone read."""
    return {m.settings_group for m in measurements_named(names) if m.settings_group}


def _agreements(s: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what keys that belong to no one measurement demand of each other."""
    m, steps = s.measurement, s.recovery.steps
    yield (
        s.seed + s.seeds <= 2**63,
        f"seed is {s.seed} and seeds {s.seeds}; the last seed must be at most {2**63 - 1}.",
    )
    yield (
        ALL_TASKS not in s.task.targets,
        f"a task is named {ALL_TASKS}, which records of all tasks together are called; give it another name.",
    )
    yield len(s.task.targets) > 0, "task.targets is empty; it must name at least one task to damage."
    yield (
        max(m.ranks) <= steps,
        f"rank {max(m.ranks)} is above the number of recovery steps, {steps}: a prefix of that many updates does not "
        "exist. Lower measurement.ranks or raise recovery.steps.",
    )
    yield (
        m.headline_rank in m.ranks,
        f"measurement.headline_rank is {m.headline_rank}; it must be among measurement.ranks, {value_words(m.ranks)}.",
    )
    yield (
        m.gradients >= n_tasks,
        f"measurement.gradients is {m.gradients}; it must be at least the number of tasks, {n_tasks}, so that each "
        "has a part in the plane of all tasks.",
    )
    yield (
        s.damage.kind != "other_tasks" or n_tasks > 1,
        "damage.kind is other_tasks; that needs a task besides the target. Add one, or choose another kind.",
    )
    yield (
        s.damage.batch > 1 or not (s.damage.kind == "wrong_labels_replay" or m.grid),
        f"damage.batch is {s.damage.batch}; it must be at least 2 for wrong_labels_replay, which gives half of each "
        "batch to the other tasks.",
    )


def _adapter_agreements(s: Settings) -> Iterator[Agreement]:
    """Yield what a given adapter and the type of the weights demand."""
    lora, given = s.recovery.space == "lora", bool(s.model.adapter)
    yield (
        s.model.dtype == "float32" or lora,
        f"model.dtype is {s.model.dtype} and recovery.space is full; weights of that type swallow updates below about "
        "a hundredth of their size. Take float32, or recovery.space lora, whose factors are float32.",
    )
    yield (
        lora or not given,
        "model.adapter is given and recovery.space is full; with an adapter its factors are what moves and is "
        "measured. Take recovery.space lora.",
    )
    yield (
        given or not s.model.adapter_start,
        "model.adapter_start is given without model.adapter, the adapter that was trained from it.",
    )
    yield (
        s.damage.kind != "gaussian" or not given or bool(s.model.adapter_start),
        "damage.kind is gaussian, whose size is a share of theta_star - theta_start; the start of model.adapter is not "
        "known. Give model.adapter_start, or choose another kind.",
    )
    yield (
        kind_named(s.problem).takes_model or not (given or s.model.dtype != "float32"),
        "model.adapter and model.dtype are for `lineament run lm`.",
    )
