"""`lineament steer eval`: what a vector does on held-out data, dose by dose and at a fixed KL, or layer by layer."""

from __future__ import annotations

import shlex

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lineament.commands.steer.bench import Bench, open_bench
from lineament.commands.steer.effect_words import cells, columns, effect_text, null_text, unsteered
from lineament.commands.steer.flags import Eval, parse_layers
from lineament.commands.steer.sweep import swept_texts, swept_work
from lineament.commands.steer.tokens import print_steered
from lineament.commands.terminal import Step, console, say_next, steps_shown
from lineament.errors import InputError
from lineament.problems.labelled_data import LabelledData, read_contrast
from lineament.steering.effects import Calibration
from lineament.steering.formats import read_vector
from lineament.steering.held_out import require_new
from lineament.steering.judging import AnswerJudge
from lineament.steering.layer_sweep import AtBudget, activation_sizes
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector

# Default doses, as multiples of the one at the KL budget.
DEFAULT_MULTIPLES = (-2.0, -1.0, 0.5, 1.0, 2.0, 4.0)
# For the time that is left: tries until a dose is found, from nowhere and near one that is known, and the passes of
# other tasks in passes over the rows.
TYPICAL_TRIES, TRIES_NEAR, COLLATERAL_STEPS = 5, 2, 4


def evaluate(flags: Eval) -> int:
    """Print what the vector does, at one layer or at several; return the exit code."""
    flags.check()
    vector, data = read_vector(flags.vector), read_contrast(flags.data)
    checked = require_new(vector, data)
    layers = _swept(flags, vector)
    layer = None if layers else _layer(vector, flags.layer)
    with steps_shown(flags.quiet, swept_work(flags, layers) if layers else _work(flags)) as step:
        bench = open_bench(flags, vector, data, step)
        if layer is None:
            parts, following = swept_texts(bench, layers, step)
        else:
            parts, following = _at_one_layer(bench, layer, step)
    _print_head(bench, data, checked, layer)
    for part in parts:
        console.print(part)
    say_next(flags.quiet, following)
    return 0


def _swept(flags: Eval, vector: SteeringVector) -> tuple[int, ...]:
    """Return the layers to compare; none without --layers."""
    if not flags.layers:
        return ()
    if len(vector.layers) < 2:
        raise InputError(
            f"--layers {flags.layers}: {flags.vector} has layer {vector.layers[0]} only, so there is nothing to "
            "compare. Make it at all layers (`lineament steer make --layers all`), or leave --layers out."
        )
    layers = vector.layers if flags.layers == "all" else parse_layers(flags.layers, None)
    vector.only(*layers)
    if len(layers) < 2:
        raise InputError(f"--layers {flags.layers} is one layer; give several, or --layer {layers[0]}.")
    return layers


def _layer(vector: SteeringVector, asked: int | None) -> int:
    layer = vector.layers[len(vector.layers) // 2] if asked is None else asked
    vector.only(layer)
    return layer


def _print_head(bench: Bench, data: LabelledData, checked: bool, layer: int | None) -> None:
    flags, vector = bench.flags, bench.vector
    where = f"at {len(vector.layers)} layers"
    if layer is not None:
        where = f"at layer {layer} (norm {float(vector.directions[layer].norm()):.3g})"
    rows = f"{len(data.items)} held-out rows of {data.path.name}"
    console.print(Text.assemble((flags.model, "bold"), f", vector {flags.vector.name} {where}, {rows}"))
    if not checked:
        console.print("The vector does not say what it was made from: whether these rows are new cannot be checked.")
    for sentence in bench.compared:
        console.print(sentence)
    if bench.wording.chat:
        console.print("Prompts are written with the tokenizer's chat template; neutral text is not.")
    if flags.show_tokens:
        after = "Answers are read after the last token." if isinstance(bench.judge, AnswerJudge) else ""
        print_steered(bench.loaded, bench.judge.rows, flags.where, after)


def _work(flags: Eval) -> float:
    """Return the steps of an evaluation as `steps_shown` counts them: passes over the rows or the neutral text."""
    doses = len(flags.dose_values() or DEFAULT_MULTIPLES) + 1
    null = (1 + TRIES_NEAR) * flags.random
    return 2 + TYPICAL_TRIES + 2 * doses + null + (1 if flags.no_collateral else 1 + 2 * COLLATERAL_STEPS)


def _at_one_layer(bench: Bench, layer: int, step: Step) -> tuple[list[str | Table], list[str]]:
    """Measure dose by dose and at the KL budget; return what is to be printed, and what to type next."""
    flags, one, judge = bench.flags, bench.vector.only(layer), bench.judge
    step("rows without the vector", 1)
    size = activation_sizes(bench.loaded.problem, judge.rows.last_target(), one)[layer]
    at = AtBudget(judge, bench.neutral, one, flags.kl, size)
    base, before = unsteered(judge)
    bench.neutral.watch(lambda number: step(f"finding the dose at a KL of {flags.kl:g}, try {number}", 1))
    calibration = at.calibrated()
    bench.neutral.watch(None)
    parts: list[str | Table] = [
        _dose_table(bench, one, base, calibration.coefficient or 1.0, step),
        "dose: multiples of the stored vector. KL: from the unsteered model on neutral text, steered at every token, "
        "nats per token. ±: standard error over rows, or over groups of rows.",
        before,
    ]
    following = _following(bench, layer, calibration.coefficient)
    if calibration.coefficient is None:
        reached = f"{calibration.kl:.2g} nats per token at dose {calibration.largest:g}"
        return [*parts, f"a KL of {flags.kl:g} is unreachable: {reached}."], following
    return [*parts, *_at_budget(bench, at, base, calibration, step)], following


def _dose_table(bench: Bench, one: SteeringVector, base: Tensor, unit: float, step: Step) -> Table:
    doses = bench.flags.dose_values() or tuple(multiple * unit for multiple in DEFAULT_MULTIPLES)
    table = Table("dose", *columns(bench.judge), "KL", box=SIMPLE_HEAD)
    for dose in sorted({0.0, *doses}):
        step(f"dose {dose:.3g}", 2)
        row = cells(bench.judge, base, one, dose)
        # Neutral text is steered at every token whatever --where says, so that KLs can be compared.
        with steered(bench.loaded.model, one, dose):
            kl = bench.neutral.kl()
        table.add_row(f"{dose:.3g}", *row, f"{kl:.2g}")
    return table


def _at_budget(bench: Bench, at: AtBudget, base: Tensor, calibration: Calibration, step: Step) -> list[str | Table]:
    """Measure the effect at the KL budget beside random directions, and what other tasks lose there."""
    dose = calibration.coefficient
    assert dose is not None
    step("rows at that dose", 1)
    now = at.judge.answers(at.vector, dose) if isinstance(at.judge, AnswerJudge) else None
    effect = at.judge.effect(base, at.judge.scores(at.vector, dose) if now is None else now.differences)
    text = f"at a KL of {calibration.kl:.2g}: dose {dose:.3g}, {effect_text(at.judge, effect)}"
    if now is not None:
        text += f", accuracy {float(now.correct.mean()):.2f}"
    share = 1 + TRIES_NEAR
    null = at.random_effects(base, bench.flags.random, bench.streams, dose, lambda what: step(what, share))
    said: list[str | Table] = [f"{text}.", null_text(at.judge, effect, null)]
    return said if bench.flags.no_collateral else [*said, *_collateral(bench, at, dose, step)]


def _following(bench: Bench, layer: int, dose: float | None) -> list[str]:
    """Return what to type next."""
    place, data = shlex.quote(str(bench.flags.vector)), shlex.quote(str(bench.flags.data))
    coefficient = f" --coefficient={dose:.3g}" if dose else ""
    found = [f'lineament steer generate {place}{coefficient} --layer {layer} "Once upon a time"']
    if len(bench.vector.layers) > 1:
        found.append(f"lineament steer eval {place} {data} --layers all  # which layer is best")
    return found


def _collateral(bench: Bench, at: AtBudget, dose: float, step: Step) -> list[str | Table]:
    """Measure what other tasks lose at a dose; say why not, where this tokenizer has no single-token labels."""
    problem = bench.loaded.problem
    step("other tasks without the vector", COLLATERAL_STEPS)
    try:
        before = problem.evaluate_all("evaluation")
    except InputError as error:
        return [f"What other tasks lose cannot be measured: {error}"]
    step("other tasks with the vector", COLLATERAL_STEPS)
    with steered(bench.loaded.model, at.vector, dose, bench.flags.where):
        after = problem.evaluate_all("evaluation")
    table = Table("other task", "accuracy before", "after", "loss before", "after", box=SIMPLE_HEAD)
    for task, own in before.items():
        now = after[task]
        table.add_row(task, *(f"{x:.2f}" for x in (own.accuracy, now.accuracy, own.loss, now.loss)))
    return [table]
