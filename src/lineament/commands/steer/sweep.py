"""`lineament steer eval --layers`: the effect at every layer at one KL, and the layer to take."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lineament.commands.steer.bench import Bench
from lineament.commands.steer.effect_words import effect_text, null_text, swept_cells
from lineament.commands.steer.flags import Eval
from lineament.commands.terminal import Step
from lineament.steering.layer_sweep import Sweep, sweep_layers, sweep_steps


def swept_work(flags: Eval, layers: Sequence[int]) -> float:
    """Return the steps of a sweep as `steps_shown` counts them: one for each thing that begins, and neutral text."""
    return 1 + sweep_steps(len(layers), flags.random)


def swept_texts(bench: Bench, layers: Sequence[int], step: Step) -> tuple[list[str | Table], list[str]]:
    """Compare layers; return what is to be printed, and what to type next."""
    flags = bench.flags
    found = sweep_layers(
        bench.judge,
        bench.neutral,
        bench.vector,
        kl=flags.kl,
        n_random=flags.random,
        streams=bench.streams,
        layers=layers,
        begins=lambda what: step(what, 1),
    )
    place = shlex.quote(str(flags.vector))
    following = []
    if found.best is not None and found.reported is not None:
        dose = f"--coefficient={found.reported.calibration.coefficient:.3g}"
        following = [f'lineament steer generate {place} {dose} --layer {found.best} "Once upon a time"']
    return _texts(bench, found), following


def _texts(bench: Bench, found: Sweep) -> list[str | Table]:
    judge, flags = bench.judge, bench.flags
    table = Table("layer", "dose", "effect", "one random direction", box=SIMPLE_HEAD)
    for layer, at in found.chosen_on.items():
        name = f"{layer} (best)" if layer == found.best else str(layer)
        table.add_row(name, *swept_cells(judge, at, found.random.get(layer)))
    said: list[str | Table] = [
        table,
        f"At every layer alone, at the dose whose KL on neutral text is {flags.kl:g} nats per token. Effect: on the "
        f"{found.n_chosen_on} rows of one half, in {judge.unit}. ±: standard error over rows, or over groups of rows.",
    ]
    if found.best is None or found.reported is None or found.reported.effect is None:
        return [*said, f"No layer reaches a KL of {flags.kl:g}; give a smaller --kl."]
    effect = found.reported.effect
    return [
        *said,
        f"Best layer: {found.best}, chosen on that half, where the largest of {len(found.chosen_on)} effects is too "
        f"large by chance. On the other {found.n_reported} rows, which had no say, at a KL of {flags.kl:g}: "
        f"{effect_text(judge, effect)}.",
        null_text(judge, effect, found.null),
    ]
