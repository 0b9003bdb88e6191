"""What every measurement is to the rest of the package, and the frozen record it returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lineament.errors import unknown_name
from lineament.measurements.registry import MEASUREMENTS
from lineament.problems.problem import Problem
from lineament.records import Quantity, Record
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.study.study import OperatingStudy


def _no_cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    return {}


def _no_check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    return iter(())


def _any_problem(problem: Problem) -> None:
    """Refuse no problem."""


@dataclass(frozen=True)
class Measurement:
    """A measurement, as its module's `MEASUREMENT`.

    Attributes:
        name: the same as in the registry and in its records.
        measure: takes a `Study`, or an `OperatingStudy` if it needs no recovery.
        cost: (settings, number of tasks) -> stage -> examples that pass forward and backward, of one target and seed;
            `--dry-run` lists them.
        check: (settings, number of tasks) -> what its keys demand of each other; looked at only if it is measured.
        needs_recovery: whether it looks at damage and recovery. A run of nothing else does without both.
        of_all_tasks: whether it is of the operating point with all its tasks: then it makes one record per seed, whose
            target is `records.ALL_TASKS`, and needs no recovery.
        extra_recoveries: how many recoveries it makes and records besides the study's own.
        settings_group: the group of settings that only this measurement reads; its ranges are looked at only if it is
            measured.
        require_fit: raises `InputError` for a problem that cannot be measured, before anything is written.
    """

    name: str
    measure: Callable[[Any], Record]
    cost: Callable[[Settings, int], Mapping[str, float]] = _no_cost
    check: Callable[[Settings, int], Iterator[Agreement]] = _no_check
    needs_recovery: bool = True
    of_all_tasks: bool = False
    extra_recoveries: int = 0
    settings_group: str | None = None
    require_fit: Callable[[Problem], None] = _any_problem


def measurement_named(name: str) -> Measurement:
    """Import a registered measurement; `InputError` with the nearest match for an unknown one."""
    if name not in MEASUREMENTS:
        raise unknown_name("measurement", name, MEASUREMENTS)
    measurement: Measurement = import_module(MEASUREMENTS[name]).MEASUREMENT
    return measurement


def measurements_named(names: Collection[str]) -> list[Measurement]:
    """Import these measurements, in the registry's order."""
    for name in names:
        measurement_named(name)  # says which one is unknown
    return [measurement_named(name) for name in MEASUREMENTS if name in names]


def need_recovery(names: Collection[str]) -> bool:
    """Whether any of these measurements looks at damage and recovery."""
    return any(measurement.needs_recovery for measurement in measurements_named(names))


def make_record(
    study: OperatingStudy,
    measurement: str,
    quantities: Sequence[Quantity],
    definitions: Mapping[str, str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Record:
    """Make the record of one measurement on one study."""
    space = study.problem.parameters.space
    return Record(
        measurement=measurement,
        target=study.target,
        seed=study.seed,
        problem=study.problem.name,
        model=study.problem.model_name,
        space=space.kind,
        n_params=space.n_params,
        config_hash=study.settings.hash(),
        quantities=tuple(quantities),
        definitions=dict(definitions),
        arrays=dict(arrays or {}),
    )
