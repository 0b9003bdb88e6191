"""The five-line way in: `lineament.measure(model, data)`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lineament.claims.claims_file import write_claims
from lineament.claims.registry import evaluate_claims
from lineament.errors import InputError
from lineament.files.folders import IDENTITY, require_unused, require_writable
from lineament.files.schemas import read_ours
from lineament.files.writing import delete_leftovers, write_json
from lineament.parameters import hash_tensors
from lineament.problems.adapters import attach_lora, linear_names
from lineament.problems.in_memory import InMemoryProblem
from lineament.problems.modes import own_modes
from lineament.problems.problem import Batch
from lineament.records import Record, load_records
from lineament.results.results import Results
from lineament.runs.folder import EXTENDING, RunFolder, differences
from lineament.runs.job import measured, measurements_of, targets_of, validate_on
from lineament.settings.plain import flattened, to_dict
from lineament.settings.reading import updated
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.training import own_random_state


def measure(
    model: nn.Module,
    data: Mapping[str, Batch],
    *,
    target: str | None = None,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
) -> Results:
    """Damage one task of a trained model, recover it, and measure the local linear structure on the way.

    Args:
        model: trained on all tasks; `model(input_ids, attention_mask=...)` gives logits. Its weights come back bit for
            bit, and its modes, gradients and gradient flags as they were, also after an exception.
        data: task -> examples (at least four times `task.evaluation_examples` each).
        target: the task to damage; default the first.
        seeds: independent splits, adapters, damages and recoveries of this one model. One seed gives no interval.
        settings: dotted keys, e.g. {"recovery.space": "full", "damage.steps": 20}; `lineament keys` lists them.
        out: folder for stages, recordings, records and verdicts, by default a temporary one. Stages that are there
            already are not made again, so that a call that was cut short goes on, and more seeds or another target
            extend it. `lineament.open_run` and `lineament report` take it.

    Returns:
        Records and claims of this call. What was fixed: this one model; intervals speak of damage and recovery around
        it.

    Raises:
        InputError: unknown key or task, a value out of its range, too few examples, modules that cannot take an
            adapter, or an `out` whose stages are of other weights, examples or settings (the difference is named), or
            that holds a damaged record.
    """
    if not data:
        raise InputError("data names no task; give task -> Batch, at least one.")
    target = target or next(iter(data))
    chosen = updated(Settings(), settings or {}, "settings")
    validate_on(replace(chosen, seeds=seeds, task=replace(chosen.task, targets=(target,))), tuple(data))
    identity = _identity(model, data, chosen)
    records, rank = list[Record](), chosen.measurement.headline_rank
    with _stages(out, identity) as run:
        folder = RunFolder(run).records
        held = {record.name: record for record in load_records(folder, with_arrays=False)}
        with _as_it_was(model):
            for seed in range(chosen.seed, chosen.seed + seeds):
                records += _measure_seed(model, data, target, seed, chosen, run, identity)
        for record in records:
            record.save(folder)
        held |= {record.name: record for record in records}
        write_claims(run, [held[name] for name in sorted(held)], rank)
    return Results(tuple(records), tuple(evaluate_claims(records, rank)), rank)


def _measure_seed(
    model: nn.Module,
    data: Mapping[str, Batch],
    target: str,
    seed: int,
    settings: Settings,
    run: Path,
    identity: Mapping[str, Any],
) -> list[Record]:
    n, name, adapted = settings.task.evaluation_examples, type(model).__name__, model
    lora = settings.recovery.space == "lora"
    if lora:
        adapted = attach_lora(model, settings.lora, Streams(seed).integer("adapter"), linear_names(model))
    try:
        problem = InMemoryProblem(adapted, data, n, seed, kind="lora_factors" if lora else "full", model_name=name)
        # Not before the input has proved usable: a folder belongs to what its stages were made of.
        write_json(run / IDENTITY, identity)
        with problem.parameters.restored():
            records: list[Record] = []
            for of in targets_of(replace(settings, task=replace(settings.task, targets=(target,)))):
                case = Case(problem, settings, of, seed, RunFolder(run).study_files(of, seed))
                records += measured(measurements_of(settings, of), case)
            return records
    finally:
        if lora:
            adapted.unload()  # type: ignore[operator]


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Give back every module's own mode, the gradient flags and torch's random state, also after an exception.

    Weights are the parameter space's business, and gradients that of training.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with own_modes(model), own_random_state():
            yield
    finally:
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


@contextmanager
def _stages(out: Path | str | None, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Lock the folder for stages, or make a temporary one; `InputError` if it holds those of something else."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="lineament-") as temporary:
            yield Path(temporary)
        return
    folder = Path(out)
    _require_own(folder, identity)  # before the lock leaves a trace in somebody else's folder
    with RunFolder(folder).locked():
        _require_own(folder, identity)  # another process may have written meanwhile
        delete_leftovers(folder)
        yield folder


def _require_own(folder: Path, identity: Mapping[str, Any]) -> None:
    file = folder / IDENTITY
    require_writable(folder, "out")
    if not file.exists():
        require_unused(folder, "out")
        return
    held = read_ours(file, {1: "identity"}, "Choose another out.")
    if changed := differences(dict(flattened(held)), dict(flattened(identity))):
        raise InputError(
            f"{folder} holds stages of another measurement ({changed}). Choose another out, or give the same model, "
            "examples and settings to go on with it."
        )


def _identity(model: nn.Module, data: Mapping[str, Batch], settings: Settings) -> dict[str, Any]:
    """Describe what stages depend on besides target and seed, which name them. The order of tasks counts."""
    weights = hash_tensors((name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor))
    return {
        "schema": 1,
        "model": f"{type(model).__name__} with weights {weights}",
        "tasks": list(data),
        "examples": {task: hash_tensors(_tensors(batch)) for task, batch in data.items()},
        "settings": {key: value for key, value in to_dict(settings).items() if key not in EXTENDING},
    }


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for name in ("input_ids", "attention_mask", "positions", "targets"):
        yield name, getattr(batch, name)
    yield "choices", torch.tensor(batch.choices)
