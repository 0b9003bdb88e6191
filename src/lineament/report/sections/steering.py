"""Pictures of weight steps beside steering vectors: cosine by layer, null draws, and how far a step is linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.claims.steering import PAPER_COSINE, is_true
from lineament.records import Label, Quantity, Record
from lineament.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, reference_line
from lineament.report.sections.random_search import numbers, room
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    estimate,
    estimate_values,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, NULL_DRAWS, WEIGHT_STEPS

LINEAR_COSINE = 0.9
LAYER_TICKS, LAYERS_SHOWN = 12, 3
SHIFTS = {"jacobian": "Jacobian", "finite": "finite"}
# (step, shift) -> look; the first is what the claim is about.
STEP_STYLES = {
    ("raw", "jacobian"): Style(VERMILLION, width=3.5),
    ("raw", "finite"): Style(BLUE, "dot", "square", open=True),
    ("adam", "jacobian"): Style(PURPLE, "dash", "diamond"),
}
DRAW_STYLES = {"random_weights": Style(GREY, open=True), "shuffled_labels": Style(ORANGE, symbol="x")}
LAYER_STYLES = (Style(BLUE, "dot", "square", open=True), Style(GREEN, "dash", "diamond"), Style(PURPLE, "dashdot", "x"))


def cosine_picture(records: Sequence[Record]) -> Picture | None:
    """Cosine of weight steps with the CAA vector against the layer, beside null draws and the paper's figure."""
    sources = of(records, "steering")
    layers = layers_of(sources, "step_cosine")
    if not layers:
        return None
    lines = [line for key in STEP_STYLES if (line := _step_line(sources, *key, layers)) is not None]
    lines += [*_null_lines(sources, layers), *_reference_marks(sources, layers)]
    paper = f"paper: {number(PAPER_COSINE)}"
    lines.append(reference_line("paper", paper, ends(layers), Estimate(PAPER_COSINE), Style(BLACK, "dash", width=1.2)))
    panel = Panel(
        "",
        "layer",
        "cosine with the CAA vector",
        lines,
        ticks=layer_ticks(layers),
        fraction=False,
        x_name="layer",
        y_range=_cosine_range(lines),
    )
    notes = [*_best_text(sources), *_reference_text(sources, layers)]
    return Picture("steering-cosine", _cosine_title(sources), CAPTIONS["steering-cosine"], [panel], sources, notes)


def draws_picture(records: Sequence[Record]) -> Picture | None:
    """Best-layer |cosine| of the steps and of every null draw, one row per kind and one line of dots per seed."""
    sources = of(records, "steering")
    kinds = [str(kind) for kind in label_values(sources, "null_best_layer_cosine", "null")]
    if not kinds:
        return None
    steps = [step for step in WEIGHT_STEPS if select(sources, "best_layer_cosine", step=step)]
    lines = [_steps_dots(sources, step, row) for row, step in enumerate(steps)]
    lines += [_draws_dots(sources, kind, len(steps) + row) for row, kind in enumerate(kinds)]
    values = [point.mean for line in lines for point in line.points if point.mean is not None]
    if not values:
        return None
    rows = [*(WEIGHT_STEPS[step] for step in steps), *(NULL_DRAWS.get(kind, kind) for kind in kinds)]
    x_title = "cosine with the CAA vector at the own best layer (null draws: |cosine|)"
    panel = Panel("own best layer", x_title, "", lines, fraction=min(values) >= 0, rows=rows, x_name="kind")
    return Picture("steering-draws", _draws_title(sources), CAPTIONS["steering-draws"], [panel], sources)


def linearity_picture(records: Sequence[Record]) -> Picture | None:
    """Finite shift against the Jacobian's, by the length of the step: cosine and ratio of lengths."""
    sources = of(records, "steering")
    sizes = numbers(sources, "linearity_cosine", "size")
    if not sizes:
        return None
    panels = [
        _linearity_panel(sources, sizes, "linearity_cosine", "direction", "cosine of finite and foretold shift"),
        _linearity_panel(sources, sizes, "linearity_norm_ratio", "length", "finite length / foretold length"),
    ]
    title, caption = _linearity_title(sources, sizes), CAPTIONS["steering-linearity"]
    return Picture("steering-linearity", title, caption, panels, sources, best_layer_text(sources))


def best_layers(sources: Sequence[Record]) -> dict[int, int]:
    """Seed -> the layer of the gradient step's best cosine; seeds without a reference layer are left out."""
    found: dict[int, int] = {}
    for record in sources:
        for figure in record.select("best_layer_cosine", step="raw"):
            if figure.value is not None:
                found.setdefault(record.seed, int(figure.labels["layer"]))
    return found


def at_best(sources: Sequence[Record], quantity: str, **labels: Label) -> list[Quantity]:
    """Figures at each seed's best layer."""
    best = best_layers(sources)
    return [
        figure
        for record in sources
        if record.seed in best
        for figure in record.select(quantity, layer=best[record.seed], **labels)
    ]


def best_layer_text(sources: Sequence[Record]) -> list[str]:
    """Which layers the figures at best layers are from."""
    best = best_layers(sources)
    named = ", ".join(f"{layer} (seed {seed})" for seed, layer in sorted(best.items()))
    return [f"Best layer, by the gradient step's cosine: {named}."] if best else []


def layers_of(sources: Sequence[Record], quantity: str) -> list[int]:
    """Layers that a quantity was measured at, ascending."""
    return [int(layer) for layer in label_values(sources, quantity, "layer")]


def layer_ticks(layers: Sequence[int]) -> list[int]:
    """Every layer where they are few, else every fifth."""
    if len(layers) <= LAYER_TICKS:
        return list(layers)
    return [layer for layer in layers if layer == layers[0] or layer % 5 == 0]


def ends(layers: Sequence[int]) -> list[float]:
    """A little beyond the outermost layers, so that lines across reach past their dots."""
    return [layers[0] - 0.3, layers[-1] + 0.3]


def cosine_of(figures: Sequence[Quantity]) -> Estimate:
    """A cosine over seeds, its interval within its bounds."""
    found = estimate(figures, fraction=False)
    low, high = (None if end is None else min(1.0, max(-1.0, end)) for end in (found.low, found.high))
    return replace(found, low=low, high=high)


def ranges(layers: Sequence[int]) -> str:
    """Ascending layers in words, runs of them as first-last."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _step_line(sources: list[Record], step: str, shift: str, layers: list[int]) -> Line | None:
    known = [layer for layer in layers if select(sources, "step_cosine", step=step, shift=shift, layer=layer)]
    if not known:
        return None
    points = [cosine_of(select(sources, "step_cosine", step=step, shift=shift, layer=layer)) for layer in known]
    claimed, label = (step, shift) == ("raw", "jacobian"), f"{WEIGHT_STEPS[step]}, {SHIFTS[shift]}"
    return Line(f"{step}-{shift}", label, "weight steps", STEP_STYLES[step, shift], known, points, bars=claimed)


def _null_lines(sources: list[Record], layers: list[int]) -> list[Line]:
    """The largest |cosine| of the null draws, and the band from minus to plus that."""
    nulls = {layer: _nulls(sources, "step_cosine", layer=layer) for layer in layers}
    known = [layer for layer in layers if nulls[layer]]
    if not known:
        return []
    points = [estimate_values(nulls[layer], fraction=False) for layer in known]
    band = [Estimate(0.0, -point.mean, point.mean) for point in points if point.mean is not None]
    style, label = Style(GREY, "dash", width=1.5), "null draws: largest |cosine|"
    return [
        Line("null", label, "null", style, known, points, mode="plain", bars=False),
        Line("null", label, "reference", Style(GREY, "dot", width=1.2), known, band, mode="band", tabled=0),
    ]


def _cosine_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Room for every line, and for the whole grey band."""
    low, high = room(lines)
    edges = [end for line in lines if line.mode == "band" for p in line.points for end in (p.low, p.high) if end]
    return min([low, *(edge - 0.03 for edge in edges)]), max([high, *(edge + 0.03 for edge in edges)])


def _nulls(sources: Sequence[Record], quantity: str, **labels: Label) -> list[float]:
    return [f.null for f in select(sources, quantity, step="raw", **labels) if f.null is not None]


def _reference_marks(sources: list[Record], layers: list[int]) -> list[Line]:
    """A cross on the gradient step's line wherever the CAA vector is no reference in some seed."""
    marked, points = [], []
    for layer in layers:
        found = select(sources, "step_cosine", step="raw", shift="jacobian", layer=layer)
        without = sum(not is_true(f, "reference") for f in found)
        if without and (mean := estimate(found, fraction=False).mean) is not None:
            marked.append(layer)
            points.append(Estimate(mean, n_seeds=without, reason=f"no reference in {without} of {len(found)} seeds"))
    style, label = Style(BLACK, symbol="x"), "no reference in some seed"
    return [Line("no-reference", label, "reference", style, marked, points, mode="dots", bars=False)] if marked else []


def _reference_text(sources: list[Record], layers: list[int]) -> list[str]:
    seeds: dict[int, list[int]] = {}
    for layer in layers:
        found = select(sources, "step_cosine", step="raw", shift="jacobian", layer=layer)
        if without := sum(not is_true(f, "reference") for f in found):
            seeds.setdefault(without, []).append(layer)
    parts = [
        f"{'layer' if len(which) == 1 else 'layers'} {ranges(which)} in {n} of {len(sources)}"
        for n, which in sorted(seeds.items(), reverse=True)
    ]
    return [f"Seeds in which the CAA vector is no reference: {'; '.join(parts)}."] if parts else []


def _best_text(sources: list[Record]) -> list[str]:
    found = {
        WEIGHT_STEPS[step]: cosine_of(select(sources, "best_layer_cosine", step=step))
        for step in WEIGHT_STEPS
        if select(sources, "best_layer_cosine", step=step)
    }
    cosines = "; ".join(f"{label} {point.text}" for label, point in found.items())
    return [f"Cosine at the best layer: {cosines}.", *best_layer_text(sources)] if found else []


def _cosine_title(sources: list[Record]) -> str:
    found = select(sources, "best_layer_cosine", step="raw")
    mean, nulls = estimate(found, fraction=False).mean, _nulls(sources, "best_layer_cosine")
    if not found:
        return "Cosine of a gradient step's shift with the CAA vector"
    if mean is None:
        return "No layer has a CAA vector that could serve as a reference"
    start = f"At its best layer a gradient step's shift has cosine {number(mean)} with the CAA vector"
    return f"{start}, the largest of the null draws {number(sum(nulls) / len(nulls))}" if nulls else start


def _steps_dots(sources: list[Record], step: str, row: int) -> Line:
    places, points = [], []
    for place, record in zip(_seed_places(sources, row), sources, strict=True):
        for figure in record.select("best_layer_cosine", step=step):
            places.append(place)
            points.append(_one(figure, f"seed {record.seed}, layer {figure.labels.get('layer')}"))
    style = replace(STEP_STYLES[step, "jacobian"], dash="solid")
    return Line(f"best-{step}", WEIGHT_STEPS[step], "weight steps", style, places, points, mode="dots", bars=False)


def _draws_dots(sources: list[Record], kind: str, row: int) -> Line:
    places, points = [], []
    for place, record in zip(_seed_places(sources, row), sources, strict=True):
        for figure in record.select("null_best_layer_cosine", null=kind):
            places.append(place)
            points.append(_one(figure, f"seed {record.seed}, draw {figure.labels.get('draw')}"))
    label, style = NULL_DRAWS.get(kind, kind), DRAW_STYLES.get(kind, Style(GREY))
    return Line(f"draws-{kind}", label, "null", style, places, points, mode="dots", bars=False)


def _one(figure: Quantity, which: str) -> Estimate:
    """One draw of one seed."""
    if figure.value is None:
        return Estimate(None, reason=figure.reason)
    return Estimate(figure.value, n_seeds=1, reason=which)


def _seed_places(sources: Sequence[Record], row: int) -> list[float]:
    """Vertical places of the seeds within a row, the same in every row."""
    step = min(0.2, 0.6 / max(1, len(sources)))
    return [row + step * (i - (len(sources) - 1) / 2) for i in range(len(sources))]


def _draws_title(sources: list[Record]) -> str:
    above, judged, draws = 0, 0, 0
    for record in sources:
        value = record.value("best_layer_cosine", step="raw")
        nulls = [f.value for f in record.select("null_best_layer_cosine") if f.value is not None]
        if value is not None and nulls:
            judged, draws, above = judged + 1, max(draws, len(nulls)), above + (value > max(nulls))
    if not judged:
        return "Cosine of null draws with the CAA vector, each at its own best layer"
    where = {1: "in the one seed", 2: "in both seeds"}.get(judged, f"in all {judged} seeds")
    if above == judged:
        return f"The gradient step comes closer to the CAA vector than all {draws} null draws {where}"
    if not above:
        return f"Some of {draws} null draws come as close to the CAA vector as the gradient step {where}"
    return f"The gradient step comes closer to the CAA vector than all {draws} null draws in {above} of {judged} seeds"


def _linearity_panel(sources: list[Record], sizes: list[float], quantity: str, title: str, y_title: str) -> Panel:
    lines = []
    if best_layers(sources):
        best = [_cosine_or_ratio(at_best(sources, quantity, size=size)) for size in sizes]
        lines.append(Line("best", "best layer of each seed", "layer", Style(VERMILLION, width=3.5), sizes, best))
    for layer, style in zip(_spread(layers_of(sources, quantity)), LAYER_STYLES, strict=False):
        points = [_cosine_or_ratio(select(sources, quantity, layer=layer, size=size)) for size in sizes]
        lines.append(Line(f"layer-{layer}", f"layer {layer}", "layer", style, sizes, points, bars=False))
    across = [sizes[0], sizes[-1]]
    lines.append(reference_line("linear", "linear: 1", across, Estimate(1.0), Style(BLACK, "dash", width=1.2)))
    x_title, x_name, y_range = "length of the foretold shift / |CAA|", "length", room(lines)
    return Panel(
        title, x_title, y_title, lines, x_log=True, ticks=sizes, fraction=False, x_name=x_name, y_range=y_range
    )


def _cosine_or_ratio(figures: Sequence[Quantity]) -> Estimate:
    """Over seeds, cosines within their bounds."""
    return cosine_of(figures) if any(f.unit == "cosine" for f in figures) else estimate(figures, fraction=False)


def _spread(layers: list[int]) -> list[int]:
    """First, middle and last layer."""
    places = [round(i * (len(layers) - 1) / (LAYERS_SHOWN - 1)) for i in range(LAYERS_SHOWN)] if layers else []
    return [layers[place] for place in dict.fromkeys(places)]


def _linearity_title(sources: list[Record], sizes: list[float]) -> str:
    means = [estimate(at_best(sources, "linearity_cosine", size=size), fraction=False).mean for size in sizes]
    if means[0] is None:
        return "Finite steps against the shift that the Jacobian foretells"
    held = next((i for i, mean in enumerate(means) if mean is None or mean < LINEAR_COSINE), len(sizes))
    what = f"direction within a cosine of {number(LINEAR_COSINE)}"
    if not held:
        return f"The Jacobian does not foretell a step's shift even at {number(sizes[0])} of the CAA vector's length"
    if held == len(sizes):
        return f"The Jacobian foretells a step's {what} at every measured length"
    return (
        f"The Jacobian foretells a step's {what} up to {number(sizes[held - 1])} of the CAA vector's length, "
        f"no longer at {number(sizes[held])}"
    )
