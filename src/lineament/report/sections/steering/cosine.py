"""Cosine of weight steps with the CAA vector by layer, beside null draws and the paper's value."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.steering import STEP_MATCHES_CAA
from lineament.claims.steering_details import is_true
from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, correlation, estimate, mean_null, null_of, number, select
from lineament.report.sections.steering.layers import best_layer_text, ends, layer_ticks, layers_of
from lineament.report.sections.steering.names import WEIGHT_STEPS
from lineament.report.series import (
    BLACK,
    BLUE,
    GREY,
    PURPLE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    reference_line,
    vertical_range,
)
from lineament.settings.words import ranges

SHIFTS = {"jacobian": "Jacobian", "finite": "finite"}
CLAIMED = ("raw", "jacobian")
# (step, shift) -> look
STEP_STYLES = {
    CLAIMED: Style(VERMILLION, width=3.5),
    ("raw", "finite"): Style(BLUE, "dot", "square", open=True),
    ("adam", "jacobian"): Style(PURPLE, "dash", "diamond"),
}
CAPTION = (
    "Cosine of two shifts of the activations: the one that a gradient step towards the positive label causes, and the "
    "CAA vector (mean over positive minus mean over negative examples). 1 is the same direction, -1 the opposite one. "
    "Jacobian: the limit of a small step. Finite: a step that was actually made. Grey: the range up to the largest "
    "|cosine| of the null draws at that layer; null draws are random weight directions with the step's length in every "
    "tensor, steps on shuffled labels, and steps towards the same label on other tasks' prompts. "
    "Crosses: layers where the CAA vectors of two halves of the data agree to less than 0.95, so that the vector is "
    "no reference. Bars: 95 % interval over seeds, for the gradient step's Jacobian only and cut at the edge where "
    "they are long; the intervals of all other series are in the data table and appear on hover."
)


def cosine_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the cosine of weight steps with the CAA vector against the layer, beside null draws."""
    layers = layers_of(sources, "step_cosine")
    if not layers:
        return None
    lines = [line for key in STEP_STYLES if (line := _step_line(sources, *key, layers)) is not None]
    lines += [*_null_lines(sources, layers), *_reference_marks(sources, layers)]
    paper, style = Estimate(STEP_MATCHES_CAA.paper), Style(BLACK, "dash", width=1.2)
    lines.append(reference_line("paper", f"paper: {paper.value_text}", ends(layers), paper, style))
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
    return Picture("steering-cosine", _title(sources), CAPTION, [panel], sources, notes)


def _step_line(sources: Sequence[Record], step: str, shift: str, layers: list[int]) -> Line | None:
    cosines = {layer: select(sources, "step_cosine", step=step, shift=shift, layer=layer) for layer in layers}
    points = {layer: correlation(quantities) for layer, quantities in cosines.items() if quantities}
    if not points:
        return None
    label, style = f"{WEIGHT_STEPS[step]}, {SHIFTS[shift]}", STEP_STYLES[step, shift]
    bars = (step, shift) == CLAIMED
    return Line(f"{step}-{shift}", label, "weight steps", style, list(points), list(points.values()), bars=bars)


def _null_lines(sources: Sequence[Record], layers: list[int]) -> list[Line]:
    """Return the largest |cosine| of the null draws, and the band from minus to plus that."""
    nulls = {layer: null_of(select(sources, "step_cosine", step="raw", layer=layer)) for layer in layers}
    known = {layer: point for layer, point in nulls.items() if point.mean is not None}
    if not known:
        return []
    x, points = list(known), list(known.values())
    band = [Estimate(0.0, -point.mean, point.mean) for point in points if point.mean is not None]
    style, label = Style(GREY, "dash", width=1.5), "null draws: largest |cosine|"
    return [
        Line("null", label, "null", style, x, points, mode="plain", bars=False),
        Line("null", label, "reference", Style(GREY, "dot", width=1.2), x, band, mode="band", tabled=0),
    ]


def _cosine_range(lines: Sequence[Line]) -> tuple[float, float]:
    """Return a range up for every line, and for the whole grey band."""
    low, high = vertical_range(lines)
    edges = [end for line in lines if line.mode == "band" for p in line.points for end in (p.low, p.high) if end]
    return min([low, *(edge - 0.03 for edge in edges)]), max([high, *(edge + 0.03 for edge in edges)])


def _claimed(sources: Sequence[Record], layer: int) -> list[Quantity]:
    return select(sources, "step_cosine", step="raw", shift="jacobian", layer=layer)


def _n_without_reference(cosines: Sequence[Quantity]) -> int:
    return sum(not is_true(cosine, "reference") for cosine in cosines)


def _reference_marks(sources: Sequence[Record], layers: list[int]) -> list[Line]:
    """Return a cross on the gradient step's line wherever the CAA vector is no reference in some seed."""
    marks: dict[int, Estimate] = {}
    for layer in layers:
        cosines = _claimed(sources, layer)
        without, mean = _n_without_reference(cosines), estimate(cosines, fraction=False).mean
        if without and mean is not None:
            reason = f"no reference in {without} of {len(cosines)} seeds"
            marks[layer] = Estimate(mean, n_seeds=without, reason=reason)
    if not marks:
        return []
    x, points, style = list(marks), list(marks.values()), Style(BLACK, symbol="x")
    label = "no reference in some seed"
    return [Line("no-reference", label, "reference", style, x, points, mode="dots", bars=False)]


def _reference_text(sources: Sequence[Record], layers: list[int]) -> list[str]:
    layers_without: dict[int, list[int]] = {}
    for layer in layers:
        if n_seeds := _n_without_reference(_claimed(sources, layer)):
            layers_without.setdefault(n_seeds, []).append(layer)
    parts = [
        f"{'layer' if len(which) == 1 else 'layers'} {ranges(which)} in {n_seeds} of {len(sources)}"
        for n_seeds, which in sorted(layers_without.items(), reverse=True)
    ]
    return [f"Seeds in which the CAA vector is no reference: {'; '.join(parts)}."] if parts else []


def _best_text(sources: Sequence[Record]) -> list[str]:
    best = {label: select(sources, "best_layer_cosine", step=step) for step, label in WEIGHT_STEPS.items()}
    cosines = "; ".join(f"{label} {correlation(quantities).text}" for label, quantities in best.items() if quantities)
    return [f"Cosine at the best layer: {cosines}.", *best_layer_text(sources)] if cosines else []


def _title(sources: Sequence[Record]) -> str:
    cosines = select(sources, "best_layer_cosine", step="raw")
    mean, null = estimate(cosines, fraction=False).mean, mean_null(cosines)
    if not cosines:
        return "Cosine of a gradient step's shift with the CAA vector"
    if mean is None:
        return "No layer has a CAA vector that could serve as a reference"
    start = f"At its best layer a gradient step's shift has cosine {number(mean)} with the CAA vector"
    return f"{start}, the best null draw {number(null)}" if null is not None else start
