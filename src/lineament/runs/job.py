"""One configuration -> records: a job is a pure function of (settings, seed), whatever runs it and how often.

A job does what is not on disk yet, in a fixed order, and writes every finished stage and record whole. That one rule
makes resuming, extending and running in parallel the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from lineament.activations.blocks import find_blocks
from lineament.bases import from_vectors
from lineament.claims.claims import write_claims
from lineament.claims.verdict import Claim
from lineament.errors import InputError, unknown_name
from lineament.measurements import basis_capture, basis_drift, gradient_rank, random_search, steering
from lineament.problems.problem import Problem
from lineament.problems.synthetic import LORA_TARGETS, SyntheticProblem, task_names
from lineament.records import Record, load_records, write_bytes
from lineament.runs.folder import RunFolder
from lineament.runs.validation import require_allowed, require_synthetic
from lineament.settings.settings import Settings
from lineament.study.study import OperatingStudy, Progress, Study, operating_study, prepare_study, silent

# These need neither damage nor recovery, and a run of nothing else does without both.
AT_OPERATING_POINT: dict[str, Callable[[OperatingStudy], Record]] = {
    steering.NAME: steering.measure,
}
MEASUREMENTS: dict[str, Callable[[Study], Record]] = {
    gradient_rank.NAME: gradient_rank.measure,
    basis_capture.NAME: basis_capture.measure,
    basis_drift.NAME: basis_drift.measure,
    random_search.NAME: random_search.measure,
    **AT_OPERATING_POINT,
}


def validate(settings: Settings) -> None:
    """Everything that can be known to be wrong before anything is written.

    Raises:
        InputError: unknown task, target or measurement (with the nearest match), a value out of its range.
    """
    validate_on(settings, known_tasks(settings))
    if settings.problem == "synthetic":
        require_synthetic(settings, LORA_TARGETS)


def validate_on(settings: Settings, tasks: Sequence[str]) -> None:
    """The same for a problem that has these tasks, wherever it comes from."""
    for target in settings.task.targets:
        if target not in tasks:
            raise unknown_name("task", target, tasks)
    for name in settings.measure:
        if name not in MEASUREMENTS:
            raise unknown_name("measurement", name, MEASUREMENTS)
    require_allowed(settings, len(tasks))


def known_tasks(settings: Settings) -> tuple[str, ...]:
    """Task names of the configured problem."""
    if settings.problem == "synthetic":
        return task_names(settings)
    from lineament.problems.language_model import statement_task_names

    return statement_task_names(settings)


def make_problem(settings: Settings, seed: int, progress: Progress = silent) -> Problem:
    """The configured problem of one seed, at theta_start."""
    if settings.problem == "synthetic":
        return SyntheticProblem(settings, seed, lambda done, total: progress("training the base model", done, total))
    # transformers takes seconds to import; the synthetic problem does without it
    from lineament.problems.language_model import LanguageModelProblem

    progress(f"loading {settings.model.name}", 0, 1)
    problem = LanguageModelProblem(settings, seed)
    if steering.NAME in settings.measure:
        find_blocks(problem.model)  # what has no blocks cannot be steered; known before anything is written
    return problem


def run_job(
    settings: Settings, seed: int, run: Path, progress: Progress = silent, problem: Problem | None = None
) -> None:
    """All records of one seed that are missing in the run folder.

    Args:
        problem: one made already for this seed, if there is one.
    """
    torch.set_num_threads(settings.threads)
    records = RunFolder(run).records
    for target in settings.task.targets:
        missing = missing_measurements(settings, target, seed, run)
        if not missing:
            continue
        problem = problem or make_problem(settings, seed, progress)
        for record in measured(missing, problem, settings, target, seed, run, progress, _save_artifacts):
            record.save(records)


def missing_measurements(settings: Settings, target: str, seed: int, run: Path) -> list[str]:
    """Measurements of a target and seed whose records the run folder lacks."""
    records = RunFolder(run).records
    return [name for name in settings.measure if not (records / f"{name}-{target}-seed{seed}.json").exists()]


def is_finished(settings: Settings, seed: int, run: Path) -> bool:
    """Whether the run folder has every record of a seed: what a job writes says more than what it said of itself."""
    return not any(missing_measurements(settings, target, seed, run) for target in settings.task.targets)


def measured(
    names: Collection[str],
    problem: Problem,
    settings: Settings,
    target: str,
    seed: int,
    run: Path,
    progress: Progress = silent,
    on_study: Callable[[Study, Path], None] | None = None,
) -> Iterator[Record]:
    """Records of these measurements, one by one in the registry's order; stages are made as far as they need.

    Args:
        problem: freshly made for this seed.
        run: where stages are kept.
        on_study: called when damage and recovery are made.
    """
    if set(names) <= set(AT_OPERATING_POINT):
        at_star = operating_study(problem, settings, target, seed, run, progress)
        yield from (measure(at_star) for name, measure in AT_OPERATING_POINT.items() if name in names)
        return
    study = prepare_study(problem, settings, target, seed, run, progress)
    if on_study:
        on_study(study, run)
    yield from (measure(study) for name, measure in MEASUREMENTS.items() if name in names)


def write_results(run: Path) -> list[Claim]:
    """claims.json and report.html from the records alone."""
    from lineament.report.page import write_report

    folder = RunFolder(run)
    settings = folder.settings()
    records = load_records(folder.records)
    if not records:
        raise InputError(f"{run} holds no records yet.")
    claims = write_claims(run, records, settings.measurement.headline_rank)
    write_report(run)
    return claims


def seeds_of(settings: Settings) -> Sequence[int]:
    """The seeds a run covers."""
    return range(settings.seed, settings.seed + settings.seeds)


def _save_artifacts(study: Study, run: Path) -> None:
    """Adapters of a LoRA run as PEFT folders, and the prefix basis."""
    name = f"{study.target}-seed{study.seed}"
    if study.problem.parameters.space.kind == "lora_factors":
        from lineament.problems.adapters import save_adapter  # PEFT takes seconds to import

        for point in ("star", "broken", "recovered"):
            folder = run / "adapters" / name / point
            if point in study.points and not (folder / "adapter_config.json").exists():
                save_adapter(study.problem.parameters, study.points[point], folder)
    rank = min(max(study.settings.measurement.ranks), study.trajectory.n_steps)
    file = run / "bases" / f"prefix-{name}.safetensors"
    if not file.exists():
        basis = from_vectors(study.trajectory.updates(1, rank), "prefix")
        space = basis.space
        with study.problem.parameters.temporarily(study.points["start"]):
            model = study.problem.model_hash()
        metadata = {"kind": space.kind, "layout": space.layout, "label": "prefix", "model": model}
        write_bytes(file, save({"columns": basis.columns.float().contiguous()}, metadata=metadata))
