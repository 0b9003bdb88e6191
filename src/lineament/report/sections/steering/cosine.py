"""Cosine of weight steps with the CAA vector by layer, beside null draws and the paper's value."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.steering import PAPER_COSINE, is_true
from lineament.records import Label, Record
from lineament.report.estimates import Estimate, correlation, estimate, estimate_values, number, select
from lineament.report.sections.steering.layers import best_layer_text, ends, layer_ticks, layers_of, ranges
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

SHIFTS = {"jacobian": "Jacobian", "finite": "finite"}
# (step, shift) -> look; the first is what the claim is about.
STEP_STYLES = {
    ("raw", "jacobian"): Style(VERMILLION, width=3.5),
    ("raw", "finite"): Style(BLUE, "dot", "square", open=True),
    ("adam", "jacobian"): Style(PURPLE, "dash", "diamond"),
}
COSINE_CAPTION = (
    "Cosine of two shifts of the activations: the one that a gradient step towards the positive "
    "label brings, and the CAA vector (mean over positive minus mean over negative examples). 1 is the same "
    "direction, -1 the opposite one. Jacobian: the limit of a small step. Finite: a step that was made. Grey: as far "
    "as the largest |cosine| of the null draws at that layer reaches, these being random weight directions and steps "
    "on shuffled labels. Crosses: layers where the CAA vectors of two halves of the data agree below 0.95, so that the "
    "vector is no reference. Bars: 95 % interval over seeds, at the gradient step's Jacobian only and cut at the edge "
    "where they are long; those of all others are in the data table and on hover."
)


def cosine_picture(sources: Sequence[Record]) -> Picture | None:
    """Cosine of weight steps with the CAA vector against the layer, beside null draws and the paper's figure."""
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
    return Picture("steering-cosine", _cosine_title(sources), COSINE_CAPTION, [panel], sources, notes)


def _step_line(sources: Sequence[Record], step: str, shift: str, layers: list[int]) -> Line | None:
    known = [layer for layer in layers if select(sources, "step_cosine", step=step, shift=shift, layer=layer)]
    if not known:
        return None
    points = [correlation(select(sources, "step_cosine", step=step, shift=shift, layer=layer)) for layer in known]
    claimed, label = (step, shift) == ("raw", "jacobian"), f"{WEIGHT_STEPS[step]}, {SHIFTS[shift]}"
    return Line(f"{step}-{shift}", label, "weight steps", STEP_STYLES[step, shift], known, points, bars=claimed)


def _null_lines(sources: Sequence[Record], layers: list[int]) -> list[Line]:
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
    low, high = vertical_range(lines)
    edges = [end for line in lines if line.mode == "band" for p in line.points for end in (p.low, p.high) if end]
    return min([low, *(edge - 0.03 for edge in edges)]), max([high, *(edge + 0.03 for edge in edges)])


def _nulls(sources: Sequence[Record], quantity: str, **labels: Label) -> list[float]:
    return [f.null for f in select(sources, quantity, step="raw", **labels) if f.null is not None]


def _reference_marks(sources: Sequence[Record], layers: list[int]) -> list[Line]:
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


def _reference_text(sources: Sequence[Record], layers: list[int]) -> list[str]:
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


def _best_text(sources: Sequence[Record]) -> list[str]:
    found = {
        WEIGHT_STEPS[step]: correlation(select(sources, "best_layer_cosine", step=step))
        for step in WEIGHT_STEPS
        if select(sources, "best_layer_cosine", step=step)
    }
    cosines = "; ".join(f"{label} {point.text}" for label, point in found.items())
    return [f"Cosine at the best layer: {cosines}.", *best_layer_text(sources)] if found else []


def _cosine_title(sources: Sequence[Record]) -> str:
    found = select(sources, "best_layer_cosine", step="raw")
    mean, nulls = estimate(found, fraction=False).mean, _nulls(sources, "best_layer_cosine")
    if not found:
        return "Cosine of a gradient step's shift with the CAA vector"
    if mean is None:
        return "No layer has a CAA vector that could serve as a reference"
    start = f"At its best layer a gradient step's shift has cosine {number(mean)} with the CAA vector"
    return f"{start}, the largest of the null draws {number(sum(nulls) / len(nulls))}" if nulls else start
