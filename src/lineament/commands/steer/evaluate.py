"""`lineament steer eval`: what a vector does to answers on held-out data, dose by dose, and at a fixed price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lineament.activations.capture import Place, group_sums, problem_reader
from lineament.commands.steer.source import Source, SteeredModel, require_new
from lineament.errors import InputError
from lineament.problems.labelled_data import read_contrast
from lineament.problems.neutral_text import NEUTRAL_TEXTS
from lineament.problems.problem import Evaluation
from lineament.steering.contrast import Contrast
from lineament.steering.effects import Answers, Calibration, NeutralText, answers, calibrate
from lineament.steering.formats import read_vector
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector

# Steering is tried until what is added is so many times as long as the activations themselves.
LARGEST_SHARE = 32.0
# Default doses, as multiples of the one at the KL budget.
DEFAULT_MULTIPLES = (-2.0, -1.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class EvalRequest:
    """What the user asked for.

    Attributes:
        layer: one layer of the vector; None takes the middle one of those it has.
        doses: multiples of the stored vector; empty for multiples of the dose at the budget.
        kl: budget in nats per token. where: which tokens of the held-out prompts are steered; neutral text always is at
            every token, so that prices can be compared.
        collateral: also other tasks' accuracy.
    """

    vector: Path
    data: Path
    source: Source
    layer: int | None = None
    doses: tuple[float, ...] = ()
    kl: float = 0.05
    where: Where = "all"
    neutral: int = 32
    collateral: bool = True


def check(request: EvalRequest) -> None:
    """Refuse what can be known to be wrong before a model is loaded."""
    if not request.kl > 0:
        raise InputError(f"--kl {request.kl}: a price in nats per token, above 0.")
    largest = torch.finfo(torch.float32).max
    if not all(abs(dose) <= largest for dose in request.doses):
        raise InputError(f"--doses {request.doses}: give finite numbers.")
    if not 1 <= request.neutral <= len(NEUTRAL_TEXTS):
        raise InputError(f"--neutral {request.neutral}: there are 1 to {len(NEUTRAL_TEXTS)} rows of neutral text.")


def evaluate(request: EvalRequest, console: Console) -> int:
    """Print dose-response, the dose at the KL budget and what other tasks lose there."""
    check(request)
    vector, data = read_vector(request.vector), read_contrast(request.data)
    checked = require_new(vector, data)
    layer = _layer(vector, request.layer)
    loaded = SteeredModel(request.source)
    loaded.require_fit(vector)
    steering = vector.only(layer)
    contrast = loaded.contrast(data.items, vector.tags.template)
    neutral = NeutralText(loaded.problem, loaded.problem.neutral("", request.neutral))
    base = _answers(loaded, contrast)
    found = calibrate(loaded.problem, steering, neutral, request.kl, _largest(loaded, steering, contrast, layer))
    console.print(
        f"[bold]{request.source.model}[/], vector {request.vector.name} at layer {layer} (norm "
        f"{float(steering.directions[layer].norm()):.3g}), {len(data.items)} held-out rows of {data.path.name}"
    )
    if not checked:
        console.print("The vector does not say what it was made from: whether these rows are new cannot be checked.")
    doses = request.doses or tuple(m * (found.coefficient or 1.0) for m in DEFAULT_MULTIPLES)
    console.print(_dose_table(doses, request, loaded, steering, contrast, base, neutral))
    console.print(
        "dose: multiples of the stored vector. KL: from the unsteered model on neutral text, steered at every"
    )
    console.print("token, nats per token. ±: standard error over rows.")
    _print_calibrated(request, console, loaded, steering, contrast, base, found)
    return 0


def _largest(loaded: SteeredModel, vector: SteeringVector, contrast: Contrast, layer: int) -> float:
    """The dose at which what is added is LARGEST_SHARE times as long as the activations there."""
    reader = problem_reader(loaded.problem, Place((layer,), vector.tags.site))
    everything = torch.zeros(len(contrast.rows), dtype=torch.long)
    rms = float(group_sums(reader, contrast.rows, everything, 1).rms_norms[0])
    norm = float(vector.directions[layer].norm())
    if not norm > 0:
        raise InputError(f"the vector is zero at layer {layer}; there is nothing to add.")
    return LARGEST_SHARE * rms / norm


def _answers(loaded: SteeredModel, contrast: Contrast) -> Answers:
    return answers(loaded.problem, contrast.prompts, contrast.labels, contrast.others)


def _layer(vector: SteeringVector, asked: int | None) -> int:
    layer = vector.layers[len(vector.layers) // 2] if asked is None else asked
    vector.only(layer)
    return layer


def _dose_table(
    doses: Sequence[float],
    request: EvalRequest,
    loaded: SteeredModel,
    vector: SteeringVector,
    contrast: Contrast,
    base: Answers,
    neutral: NeutralText,
) -> Table:
    table = Table("dose", "logit difference", "change", "accuracy", "KL", box=SIMPLE_HEAD)
    for dose in sorted({0.0, *doses}):
        with steered(loaded.model, vector, dose, request.where):
            found = _answers(loaded, contrast)
        with steered(loaded.model, vector, dose):
            kl = neutral.kl()
        table.add_row(f"{dose:.3g}", f"{float(found.differences.mean()):.2f}", *_cells(found, base), f"{kl:.2g}")
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
    found: Calibration,
) -> None:
    if found.coefficient is None:
        console.print(
            f"a KL of {request.kl:g} is unreachable: {found.kl:.2g} nats per token at dose {found.largest:g}."
        )
        return
    problem = loaded.problem
    before = _collateral(request, console, loaded)
    with steered(loaded.model, vector, found.coefficient, request.where):
        change, accuracy = _cells(_answers(loaded, contrast), base)
        after = problem.evaluate_all("evaluation") if before else {}
    console.print(
        f"at a KL of {found.kl:.2g}: dose {found.coefficient:.3g}, logit difference {change}, accuracy {accuracy} "
        f"(unsteered {float(base.correct.mean()):.2f})"
    )
    if before:
        table = Table("other task", "accuracy before", "after", "loss before", "after", box=SIMPLE_HEAD)
        for task, own in before.items():
            now = after[task]
            table.add_row(task, *(f"{x:.2f}" for x in (own.accuracy, now.accuracy, own.loss, now.loss)))
        console.print(table)


def _collateral(request: EvalRequest, console: Console, loaded: SteeredModel) -> dict[str, Evaluation]:
    """Other tasks before steering; none where they are not wanted, or this tokenizer has no single-token labels."""
    if not request.collateral:
        return {}
    try:
        return loaded.problem.evaluate_all("evaluation")
    except InputError as error:
        console.print(f"What other tasks lose cannot be said: {error}")
        return {}
