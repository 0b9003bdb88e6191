"""Every null draw at its own best layer, beside the weight steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, label_texts, select, values_of
from lineament.report.sections.steering.cosine import STEP_STYLES
from lineament.report.sections.steering.names import NULL_DRAWS, WEIGHT_STEPS
from lineament.report.series import GREY, ORANGE, PURPLE, Line, Panel, Picture, Style

DRAW_STYLES = {
    "random_weights": Style(GREY, open=True),
    "shuffled_labels": Style(ORANGE, symbol="x"),
    "other_tasks": Style(PURPLE, symbol="diamond", open=True),
}
CAPTION = (
    "Each dot is one step in one seed, at the layer where its own |cosine| with the CAA vector is largest, so that "
    "the null draws may choose their layer as the gradient step does. Every row holds the seeds in the same order, "
    "from top to bottom. Dots are single draws and have no interval; the one over seeds is in the table of verdicts."
)


def draws_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the best-layer |cosine| of steps and of every null draw, a row per kind and a line of dots per seed."""
    kinds = label_texts(sources, "null_best_layer_cosine", "null")
    if not kinds:
        return None
    steps = [step for step in WEIGHT_STEPS if select(sources, "best_layer_cosine", step=step)]
    lines = [_steps_dots(sources, step, row) for row, step in enumerate(steps)]
    lines += [_draws_dots(sources, kind, len(steps) + row) for row, kind in enumerate(kinds)]
    values = [point.mean for line in lines for point in line.points if point.mean is not None]
    if not values:
        return None
    rows = [*(WEIGHT_STEPS[step] for step in steps), *(NULL_DRAWS.get(kind, kind) for kind in kinds)]
    x_title = "cosine with the CAA vector at its own best layer (null draws: |cosine|)"
    panel = Panel("own best layer", x_title, "", lines, fraction=min(values) >= 0, rows=rows, x_name="kind")
    return Picture("steering-draws", _title(sources), CAPTION, [panel], sources)


def _steps_dots(sources: Sequence[Record], step: str, row: int) -> Line:
    places, points = [], []
    for place, record in zip(_seed_places(sources, row), sources, strict=True):
        for cosine in record.select("best_layer_cosine", step=step):
            places.append(place)
            points.append(_one(cosine, f"seed {record.seed}, layer {cosine.labels.get('layer')}"))
    style = replace(STEP_STYLES[step, "jacobian"], dash="solid")
    return Line(f"best-{step}", WEIGHT_STEPS[step], "weight steps", style, places, points, mode="dots", bars=False)


def _draws_dots(sources: Sequence[Record], kind: str, row: int) -> Line:
    places, points = [], []
    for place, record in zip(_seed_places(sources, row), sources, strict=True):
        for cosine in record.select("null_best_layer_cosine", null=kind):
            places.append(place)
            points.append(_one(cosine, f"seed {record.seed}, draw {cosine.labels.get('draw')}"))
    label, style = NULL_DRAWS.get(kind, kind), DRAW_STYLES.get(kind, Style(GREY))
    return Line(f"draws-{kind}", label, "null", style, places, points, mode="dots", bars=False)


def _one(cosine: Quantity, which: str) -> Estimate:
    """Return one draw of one seed."""
    if cosine.value is None:
        return Estimate(None, reason=cosine.reason)
    return Estimate(cosine.value, n_seeds=1, reason=which)


def _seed_places(sources: Sequence[Record], row: int) -> list[float]:
    """Return the vertical places of the seeds within a row, the same in every row."""
    step = min(0.2, 0.6 / max(1, len(sources)))
    return [row + step * (i - (len(sources) - 1) / 2) for i in range(len(sources))]


def _title(sources: Sequence[Record]) -> str:
    n_above, n_seeds, n_draws = 0, 0, 0
    for record in sources:
        value = record.value("best_layer_cosine", step="raw")
        nulls = values_of(record.select("null_best_layer_cosine"))
        if value is not None and nulls:
            n_seeds, n_draws = n_seeds + 1, max(n_draws, len(nulls))
            n_above += value > max(nulls)
    if not n_seeds:
        return "Cosine of null draws with the CAA vector, each at its own best layer"
    where = {1: "in the one seed", 2: "in both seeds"}.get(n_seeds, f"in all {n_seeds} seeds")
    if n_above == n_seeds:
        return f"The gradient step comes closer to the CAA vector than all {n_draws} null draws {where}"
    if not n_above:
        return f"Some of {n_draws} null draws come as close to the CAA vector as the gradient step {where}"
    where = f"in {n_above} of {n_seeds} seeds"
    return f"The gradient step comes closer to the CAA vector than all {n_draws} null draws {where}"
