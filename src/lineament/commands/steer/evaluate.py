"""`lineament steer eval`: what a vector does to answers on held-out data, dose by dose, and at a fixed KL."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.activations.capture import Place, group_sums, problem_reader
from lineament.commands.steer.flags import Eval
from lineament.commands.steer.model import SteeredModel
from lineament.commands.steer.tokens import print_steered
from lineament.commands.terminal import Step, console, say_next, steps_shown
from lineament.errors import InputError
from lineament.problems.labelled_data import read_contrast
from lineament.problems.problem import Evaluation
from lineament.records import is_told
from lineament.steering.contrast import Contrast
from lineament.steering.effects import Answers, Calibration, NeutralText, answers, calibrate
from lineament.steering.formats import read_vector
from lineament.steering.held_out import require_new
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector

# Steering is tried until what is added is so many times as long as the activations themselves.
MAX_SHARE = 32.0
# Default doses, as multiples of the one at the KL budget.
DEFAULT_MULTIPLES = (-2.0, -1.0, 0.5, 1.0, 2.0, 4.0)
# For the time that is left: tries until a dose is found, and the passes of other tasks in passes over the rows.
TYPICAL_TRIES, COLLATERAL_STEPS = 16, 4


def evaluate(flags: Eval) -> int:
    """Print the dose-response, the dose at the KL budget and what other tasks lose there; return the exit code."""
    flags.check()
    vector, data = read_vector(flags.vector), read_contrast(flags.data)
    checked = require_new(vector, data)
    layer = _layer(vector, flags.layer)
    with steps_shown(flags.quiet, _work(flags)) as step:
        step(f"loading {flags.model}", 0)
        loaded = SteeredModel(flags)
        loaded.require_fit(vector)
        wording = loaded.wording(vector.tags)
        contrast = loaded.contrast(data.items, wording)
        neutral = _Neutral(loaded.problem, loaded.problem.neutral("", flags.neutral))
        step("answers without the vector", 1)
        bench = _Bench(flags, loaded, vector.only(layer), contrast, _answers(loaded, contrast))
        neutral.watch(lambda number: step(f"finding the dose at a KL of {flags.kl:g}, try {number}", 1))
        calibration = calibrate(loaded.problem, bench.vector, neutral, flags.kl, _largest(bench, layer))
        neutral.watch(None)
        doses = flags.dose_values() or tuple(m * (calibration.coefficient or 1.0) for m in DEFAULT_MULTIPLES)
        table = _dose_table(bench, doses, neutral, step)
        effect = _calibrated(bench, calibration, step)
    made_of = f"(norm {float(bench.vector.directions[layer].norm()):.3g}), {len(data.items)} held-out rows"
    where = f", vector {flags.vector.name} at layer {layer} {made_of} of {data.path.name}"
    console.print(Text.assemble((flags.model, "bold"), where))
    if not checked:
        console.print("The vector does not say what it was made from: whether these rows are new cannot be checked.")
    if wording.chat:
        console.print("Prompts are written with the tokenizer's chat template; neutral text is not.")
    if flags.show_tokens:
        print_steered(loaded, contrast.prompts, flags.where, "Answers are read after the last token.")
    console.print(table)
    console.print(
        "dose: multiples of the stored vector. KL: from the unsteered model on neutral text, steered at every"
    )
    console.print("token, nats per token. ±: standard error over rows.")
    console.print(majority_text(bench.contrast, bench.base))
    for part in effect:
        console.print(part)
    dose = f" --coefficient={calibration.coefficient:.3g}" if calibration.coefficient else ""
    place = shlex.quote(str(flags.vector))
    say_next(flags.quiet, [f'lineament steer generate {place}{dose} --layer {layer} "Once upon a time"'])
    return 0


def _work(flags: Eval) -> float:
    """Return the steps of an evaluation as `steps_shown` counts them: passes over the rows or the neutral text."""
    doses = len(flags.dose_values() or DEFAULT_MULTIPLES) + 1
    return 1 + TYPICAL_TRIES + 2 * doses + (1 if flags.no_collateral else 1 + 2 * COLLATERAL_STEPS)


class _Neutral(NeutralText):
    """Neutral text that tells how often its KL was asked for."""

    _watcher: Callable[[int], None] | None = None

    def watch(self, watcher: Callable[[int], None] | None) -> None:
        """Call this with a number, from 1, before every KL; None calls nothing any more."""
        self._watcher, self._n = watcher, 0

    def kl(self) -> float:
        """Return the KL as it is."""
        if self._watcher:
            self._n += 1
            self._watcher(self._n)
        return super().kl()


@dataclass(frozen=True)
class _Bench:
    """What every part of an evaluation works on: the vector at one layer, and the unsteered answers."""

    flags: Eval
    loaded: SteeredModel
    vector: SteeringVector
    contrast: Contrast
    base: Answers


def _largest(bench: _Bench, layer: int) -> float:
    """Return the dose at which what is added is MAX_SHARE times as long as the activations there."""
    reader = problem_reader(bench.loaded.problem, Place((layer,), bench.vector.tags.site))
    rows = bench.contrast.rows
    rms = float(group_sums(reader, rows, torch.zeros(len(rows), dtype=torch.long), 1).rms_norms[0])
    norm = float(bench.vector.directions[layer].norm())
    if not norm > 0:
        raise InputError(f"{bench.flags.vector} is zero at layer {layer}, so there is nothing to add; choose --layer.")
    return MAX_SHARE * rms / norm


def _answers(loaded: SteeredModel, contrast: Contrast) -> Answers:
    return answers(loaded.problem, contrast.prompts, contrast.labels, contrast.others)


def _layer(vector: SteeringVector, asked: int | None) -> int:
    layer = vector.layers[len(vector.layers) // 2] if asked is None else asked
    vector.only(layer)
    return layer


def _dose_table(bench: _Bench, doses: Sequence[float], neutral: NeutralText, step: Step) -> Table:
    model, vector = bench.loaded.model, bench.vector
    table = Table("dose", "logit difference", "change", "accuracy", "KL", box=SIMPLE_HEAD)
    for dose in sorted({0.0, *doses}):
        step(f"dose {dose:.3g}", 2)
        with steered(model, vector, dose, bench.flags.where):
            now = _answers(bench.loaded, bench.contrast)
        # Neutral text is steered at every token whatever --where says, so that KLs can be compared.
        with steered(model, vector, dose):
            kl = neutral.kl()
        table.add_row(f"{dose:.3g}", f"{float(now.differences.mean()):.2f}", *_cells(now, bench.base), f"{kl:.2g}")
    return table


def majority_text(contrast: Contrast, base: Answers) -> str:
    """Set the unsteered accuracy beside that of always giving the most frequent answer, with its standard error."""
    counts = torch.unique(contrast.prompts.targets[:, -1], return_counts=True)[1]
    majority, accuracy = float(counts.max() / counts.sum()), float(base.correct.mean())
    error = float(base.correct.std() / len(base.correct) ** 0.5) if len(base.correct) > 1 else math.nan
    text = f"accuracy of always giving the most frequent answer: {majority:.2f}; unsteered {accuracy:.2f} ±{error:.2f}"
    if is_told(accuracy - majority, error):
        return f"{text}."
    return f"{text}, which is not told from it: the model need not know the answers."


def _cells(now: Answers, base: Answers) -> Sequence[str]:
    change = now.differences - base.differences
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.nan
    return f"{float(change.mean()):+.2f} ±{error:.2f}", f"{float(now.correct.mean()):.2f}"


def _calibrated(bench: _Bench, calibration: Calibration, step: Step) -> list[str | Table]:
    """Measure the effect at the KL budget and what other tasks lose there; return what is to be printed of it."""
    flags, loaded = bench.flags, bench.loaded
    if calibration.coefficient is None:
        reached = f"{calibration.kl:.2g} nats per token at dose {calibration.largest:g}"
        return [f"a KL of {flags.kl:g} is unreachable: {reached}."]
    before, said = dict[str, Evaluation](), list[str | Table]()
    if not flags.no_collateral:
        step("other tasks without the vector", COLLATERAL_STEPS)
        before, said = _collateral(loaded)
    step("answers at that dose", 1)
    with steered(loaded.model, bench.vector, calibration.coefficient, flags.where):
        change, accuracy = _cells(_answers(loaded, bench.contrast), bench.base)
        if before:
            step("other tasks with the vector", COLLATERAL_STEPS)
        after = loaded.problem.evaluate_all("evaluation") if before else {}
    said.append(
        f"at a KL of {calibration.kl:.2g}: dose {calibration.coefficient:.3g}, logit difference {change}, accuracy "
        f"{accuracy} (unsteered {float(bench.base.correct.mean()):.2f})"
    )
    if before:
        table = Table("other task", "accuracy before", "after", "loss before", "after", box=SIMPLE_HEAD)
        for task, own in before.items():
            now = after[task]
            table.add_row(task, *(f"{x:.2f}" for x in (own.accuracy, now.accuracy, own.loss, now.loss)))
        said.append(table)
    return said


def _collateral(loaded: SteeredModel) -> tuple[dict[str, Evaluation], list[str | Table]]:
    """Evaluate other tasks before steering; none, and why, where this tokenizer has no single-token labels."""
    try:
        return loaded.problem.evaluate_all("evaluation"), []
    except InputError as error:
        return {}, [f"What other tasks lose cannot be measured: {error}"]
