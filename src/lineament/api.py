"""The five-line way in: `lineament.measure(model, data)`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lineament.claims import Claim, evaluate
from lineament.experiment import MEASUREMENTS
from lineament.problems.adapters import attach_lora
from lineament.problems.in_memory import InMemoryProblem
from lineament.problems.problem import Batch
from lineament.records import Record
from lineament.settings import Settings, updated
from lineament.streams import Streams
from lineament.study import prepare_study


@dataclass(frozen=True)
class Results:
    """What was measured: `records` with every figure, `claims` with the verdicts over seeds."""

    records: tuple[Record, ...]
    claims: tuple[Claim, ...]


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
            bit, also after an exception.
        data: task -> examples (at least four times `task.evaluation_examples` each).
        target: the task to damage; default the first.
        seeds: independent splits, adapters, damages and recoveries of this one model. One seed gives no interval.
        settings: dotted keys, e.g. {"recovery.space": "full", "damage.steps": 20}; `lineament keys` lists them.
        out: folder for stages and recordings; default a temporary one.

    Returns:
        Records and claims. What was fixed: this one model; intervals speak of damage and recovery around it.

    Raises:
        InputError: unknown key or task, too few examples, modules that cannot take an adapter.
    """
    chosen = updated(Settings(), settings or {}, "settings")
    target = target or next(iter(data))
    records: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="lineament-") as temporary:
        run = Path(out or temporary)
        for seed in range(chosen.seed, chosen.seed + seeds):
            records += _measure_seed(model, data, target, seed, chosen, run)
    return Results(tuple(records), tuple(evaluate(records, chosen.measurement.headline_rank)))


def _measure_seed(
    model: nn.Module, data: Mapping[str, Batch], target: str, seed: int, settings: Settings, run: Path
) -> list[Record]:
    lora = settings.recovery.space == "lora"
    training, wanted = model.training, [p.requires_grad for p in model.parameters()]
    name, adapted = type(model).__name__, model
    if lora:
        adapted = attach_lora(model, settings.lora, Streams(seed).integer("adapter"), _linear_names(model))
    try:
        kind = "lora_factors" if lora else "full"
        n = settings.task.evaluation_examples
        problem = InMemoryProblem(adapted, data, n, seed, kind=kind, model_name=name)
        with problem.space.restored():
            study = prepare_study(problem, settings, target, seed, run)
            return [MEASUREMENTS[measurement](study) for measurement in settings.measure]
    finally:
        if lora:
            adapted.unload()  # type: ignore[operator]
        for parameter, requires_grad in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(requires_grad)
        model.train(training)


def _linear_names(model: nn.Module) -> list[str]:
    """Every linear module but the output head, by last name."""
    names = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return sorted({name for name in names if name not in ("lm_head", "head")})
