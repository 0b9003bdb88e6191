"""`lineament steer eval`: what a vector does to answers on held-out data, dose by dose, and at a fixed price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lineament.errors import InputError
from lineament.problems.labelled_data import read_labelled
from lineament.steer.source import Source, SteeredModel, require_new
from lineament.steering.contrast import Contrast
from lineament.steering.effects import Answers, NeutralText, answers, calibrate
from lineament.steering.formats import read_vector
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector

# Doses are multiples of the stored vector; a vector of norm 1 needs larger ones.
LARGEST = 64.0


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for.

    Attributes:
        layer: one layer of the vector; None takes the middle one of those it has.
        doses: multiples of the stored vector. kl: budget in nats per token. collateral: also other tasks' accuracy.
    """

    vector: Path
    data: Path
    source: Source
    layer: int | None = None
    doses: tuple[float, ...] = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    kl: float = 0.05
    where: Where = "all"
    neutral: int = 32
    collateral: bool = True


def check(request: EvalRequest) -> None:
    """Refuse what can be known to be wrong before a model is loaded."""
    if not request.kl > 0:
        raise InputError(f"--kl {request.kl}: a price in nats per token, above 0.")
    if not request.doses or not all(math.isfinite(dose) for dose in request.doses):
        raise InputError(f"--doses {request.doses}: give at least one finite number.")
    if request.neutral < 1:
        raise InputError(f"--neutral {request.neutral}: it must be at least 1.")


def evaluate(request: EvalRequest, console: Console) -> int:
    """Print dose-response, the dose at the KL budget and what other tasks lose there."""
    check(request)
    vector, data = read_vector(request.vector), read_labelled(request.data)
    require_new(vector, data)
    layer = _layer(vector, request.layer)
    loaded = SteeredModel(request.source)
    loaded.require_fit(vector)
    steering, contrast = vector.only(layer), loaded.contrast(data.items)
    neutral = NeutralText(loaded.problem, loaded.problem.neutral("", request.neutral))
    base = _answers(loaded, contrast)
    console.print(
        f"[bold]{request.source.model}[/], vector {request.vector.name} at layer {layer} (norm "
        f"{float(steering.directions[layer].norm()):.3g}), {len(data.items)} held-out rows of {data.path.name}"
    )
    console.print(_dose_table(request, loaded, steering, contrast, base, neutral))
    console.print("KL: from the unsteered model on neutral text, nats per token. ±: standard error over rows.")
    _print_calibrated(request, console, loaded, steering, contrast, base, neutral)
    return 0


def _answers(loaded: SteeredModel, contrast: Contrast) -> Answers:
    return answers(loaded.problem, contrast.prompts, contrast.labels)


def _layer(vector: SteeringVector, asked: int | None) -> int:
    layer = vector.layers[len(vector.layers) // 2] if asked is None else asked
    vector.only(layer)
    return layer


def _dose_table(
    request: EvalRequest,
    loaded: SteeredModel,
    vector: SteeringVector,
    contrast: Contrast,
    base: Answers,
    neutral: NeutralText,
) -> Table:
    table = Table("dose", "logit difference", "change", "accuracy", "KL", box=SIMPLE_HEAD)
    for dose in sorted({0.0, *request.doses}):
        with steered(loaded.model, vector, dose, request.where):
            found, kl = _answers(loaded, contrast), neutral.kl()
        table.add_row(f"{dose:g}", f"{float(found.differences.mean()):.2f}", *_cells(found, base), f"{kl:.2g}")
    return table


def _cells(found: Answers, base: Answers) -> Sequence[str]:
    change = found.differences - base.differences
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.nan
    return f"{float(change.mean()):+.2f} ±{error:.2f}", f"{float(found.correct.mean()):.2f}"


def _print_calibrated(
    request: EvalRequest,
    console: Console,
    loaded: SteeredModel,
    vector: SteeringVector,
    contrast: Contrast,
    base: Answers,
    neutral: NeutralText,
) -> None:
    found = calibrate(loaded.problem, vector, neutral, request.kl, LARGEST, request.where)
    if found.coefficient is None:
        console.print(
            f"a KL of {request.kl:g} is unreachable: {found.kl:.2g} nats per token at dose {found.largest:g}."
        )
        return
    problem = loaded.problem
    before = problem.evaluate_all("evaluation") if request.collateral else {}
    with steered(loaded.model, vector, found.coefficient, request.where):
        change, accuracy = _cells(_answers(loaded, contrast), base)
        after = problem.evaluate_all("evaluation") if request.collateral else {}
    console.print(
        f"at a KL of {request.kl:g}: dose {found.coefficient:.3g}, logit difference {change}, accuracy {accuracy} "
        f"(unsteered {float(base.correct.mean()):.2f})"
    )
    if before:
        table = Table("other task", "accuracy before", "after", "loss before", "after", box=SIMPLE_HEAD)
        for task, own in before.items():
            now = after[task]
            table.add_row(task, *(f"{x:.2f}" for x in (own.accuracy, now.accuracy, own.loss, now.loss)))
        console.print(table)
