"""One configuration -> records: a job is a pure function of (settings, seed), whatever runs it and how often.

A job does what is not on disk yet, in a fixed order, and writes every finished stage and record whole. That one rule
makes resuming, extending and running in parallel the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lineament.bases import from_vectors
from lineament.claims.claims_file import write_claims
from lineament.claims.verdict import Claim
from lineament.errors import InputError, unknown_name
from lineament.measurements.measurement import measurements_named, need_recovery
from lineament.problems.factory import factory_of
from lineament.problems.problem import Problem
from lineament.problems.progress import Progress, silent
from lineament.records import ALL_TASKS, Record, load_records
from lineament.runs.folder import RunFolder
from lineament.runs.validation import require_allowed
from lineament.settings.agreements import require_all
from lineament.settings.settings import Settings
from lineament.study.case import Case
from lineament.study.points import DAMAGED, RECOVERED, START, TRAINED
from lineament.study.study import Study, operating_study, prepare_study
from lineament.subspace.basis_files import save_basis


def validate(settings: Settings) -> None:
    """Refuse everything that can be known to be wrong before anything is written.

    Raises:
        InputError: unknown task, target or measurement (with the nearest match), a value out of its range.
    """
    factory = factory_of(settings)
    validate_on(settings, factory.task_names(settings))
    require_all(factory.check(settings))


def validate_on(settings: Settings, tasks: Sequence[str]) -> None:
    """Do the same for a problem that has these tasks, wherever it comes from."""
    for target in settings.task.targets:
        if target not in tasks:
            raise unknown_name("task", target, tasks)
    require_allowed(settings, len(tasks))


def make_problem(settings: Settings, seed: int, progress: Progress = silent) -> Problem:
    """Make the configured problem of one seed, at theta_start.

    Raises:
        InputError: also if one of the measurements cannot be made on it.
    """
    problem = factory_of(settings).make(settings, seed, progress)
    for measurement in measurements_named(settings.measure):
        measurement.require_fit(problem)
    return problem


def run_job(
    settings: Settings, seed: int, run: Path, progress: Progress = silent, problem: Problem | None = None
) -> None:
    """Make the records of one seed that are missing in the run folder.

    Args:
        problem: one made already for this seed, if there is one.
    """
    torch.set_num_threads(settings.threads)
    folder = RunFolder(run)
    for target in targets_of(settings):
        missing = missing_measurements(settings, target, seed, run)
        if not missing:
            continue
        problem = problem or make_problem(settings, seed, progress)
        case = Case(problem, settings, target, seed, folder.study_files(target, seed), progress=progress)
        for record in measured(missing, case, partial(_save_artifacts, folder)):
            record.save(folder.records)


def missing_measurements(settings: Settings, target: str, seed: int, run: Path) -> list[str]:
    """Name the measurements of a target and seed whose records the run folder lacks."""
    asked = measurements_of(settings, target)
    return [name for name in asked if not RunFolder(run).record(name, target, seed).exists()]


def is_finished(settings: Settings, seed: int, run: Path) -> bool:
    """Return whether the run folder has every record of a seed; records are trusted, not the job's noted state."""
    return not any(missing_measurements(settings, target, seed, run) for target in targets_of(settings))


def targets_of(settings: Settings) -> tuple[str, ...]:
    """Return every target that records are made of; `ALL_TASKS`, for what is measured of all tasks at once, is last."""
    return tuple(target for target in (*settings.task.targets, ALL_TASKS) if measurements_of(settings, target))


def measurements_of(settings: Settings, target: str) -> list[str]:
    """Name the measurements that are made of a target, in the registry's order."""
    of_all = target == ALL_TASKS
    return [m.name for m in measurements_named(settings.measure) if m.of_all_tasks == of_all]


def measured(names: Collection[str], case: Case, on_study: Callable[[Study], None] | None = None) -> Iterator[Record]:
    """Yield the records of these measurements in the registry's order; stages are made as far as they need.

    Args:
        case: its problem is fresh, at theta_start.
        on_study: called when damage and recovery are made.
    """
    measurements = measurements_named(names)
    if not need_recovery(names):
        operating = operating_study(case)
        yield from (measurement.measure(operating) for measurement in measurements)
        return
    study = prepare_study(case)
    if on_study:
        on_study(study)
    yield from (measurement.measure(study) for measurement in measurements)


def write_results(run: Path) -> list[Claim]:
    """Write claims.json and report.html from the records alone."""
    from lineament.report.page import write_report

    folder = RunFolder(run)
    rank = folder.headline_rank()
    records = load_records(folder.records)
    if not records:
        raise InputError(f"{run} holds no records yet.")
    claims = write_claims(run, records, rank)
    write_report(run)
    return claims


def seeds_of(settings: Settings) -> Sequence[int]:
    """Return the seeds a run covers."""
    return range(settings.seed, settings.seed + settings.seeds)


def _save_artifacts(folder: RunFolder, study: Study) -> None:
    """Save the adapters of a LoRA run as PEFT folders, and the prefix basis."""
    space = study.problem.parameters
    if space.space.kind == "lora_factors":
        from lineament.problems.adapters import save_adapter  # PEFT takes seconds to import

        for point in (TRAINED, DAMAGED, RECOVERED):
            adapter = folder.adapter(study.target, study.seed, point)
            if point in study.points and not (adapter / "adapter_config.json").exists():
                save_adapter(space, study.points[point], adapter)
    file = folder.basis("prefix", study.target, study.seed)
    if not file.exists():
        _save_prefix(study, file)


def _save_prefix(study: Study, file: Path) -> None:
    rank = min(max(study.settings.measurement.ranks), study.trajectory.n_steps)
    basis = from_vectors(study.trajectory.updates(1, rank), "prefix")
    with study.problem.parameters.temporarily(study.points[START]):
        model = study.problem.model_hash()
    save_basis(file, replace(basis, columns=basis.columns.float()), model)
