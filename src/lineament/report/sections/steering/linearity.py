"""How far a weight step is linear: its finite shift against the Jacobian's, by length."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import Estimate, correlation, estimate, label_numbers, number, select
from lineament.report.sections.steering.layers import at_best, best_layer_text, best_layers, layers_of
from lineament.report.series import (
    BLACK,
    BLUE,
    GREEN,
    PURPLE,
    VERMILLION,
    Line,
    Panel,
    Picture,
    Style,
    reference_line,
    vertical_range,
)

LINEAR_COSINE = 0.9
LAYERS_SHOWN = 3
LAYER_STYLES = (Style(BLUE, "dot", "square", open=True), Style(GREEN, "dash", "diamond"), Style(PURPLE, "dashdot", "x"))
CAPTION = (
    "A step of growing length is made, and its shift of activations is compared with the shift that the Jacobian "
    "predicts. Across: length of the predicted shift, in units of |CAA|. Left: cosine of the two shifts; right: "
    "length of the first over length of the second. At 1 in both, the step is linear. Bars: 95 % interval over seeds, "
    "for the best layer only and cut at the edge where they are long; the intervals of all other series are in the "
    "data table and appear on hover."
)


def linearity_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the finite shift against the Jacobian's, by the length of the step: cosine and ratio of lengths."""
    sizes = label_numbers(sources, "linearity_cosine", "size")
    if not sizes:
        return None
    panels = [
        _panel(sources, sizes, "linearity_cosine", "direction", "cosine of finite and predicted shift"),
        _panel(sources, sizes, "linearity_norm_ratio", "length", "finite length / predicted length"),
    ]
    notes = best_layer_text(sources)
    return Picture("steering-linearity", _title(sources, sizes), CAPTION, panels, sources, notes)


def _panel(sources: Sequence[Record], sizes: list[float], name: str, title: str, y_title: str) -> Panel:
    lines = []
    if best_layers(sources):
        best = [_cosine_or_ratio(at_best(sources, name, size=size)) for size in sizes]
        lines.append(Line("best", "best layer of each seed", "layer", Style(VERMILLION, width=3.5), sizes, best))
    for layer, style in zip(_spread(layers_of(sources, name)), LAYER_STYLES, strict=False):
        points = [_cosine_or_ratio(select(sources, name, layer=layer, size=size)) for size in sizes]
        lines.append(Line(f"layer-{layer}", f"layer {layer}", "layer", style, sizes, points, bars=False))
    across = [sizes[0], sizes[-1]]
    lines.append(reference_line("linear", "linear: 1", across, Estimate(1.0), Style(BLACK, "dash", width=1.2)))
    x_title, x_name, y_range = "length of the predicted shift / |CAA|", "length", vertical_range(lines)
    return Panel(
        title, x_title, y_title, lines, x_log=True, ticks=sizes, fraction=False, x_name=x_name, y_range=y_range
    )


def _cosine_or_ratio(quantities: Sequence[Quantity]) -> Estimate:
    """Return the estimate over seeds, of cosines within their bounds."""
    cosines = any(quantity.unit == "cosine" for quantity in quantities)
    return correlation(quantities) if cosines else estimate(quantities, fraction=False)


def _spread(layers: list[int]) -> list[int]:
    """Return the first, the middle and the last layer."""
    places = [round(i * (len(layers) - 1) / (LAYERS_SHOWN - 1)) for i in range(LAYERS_SHOWN)] if layers else []
    return [layers[place] for place in dict.fromkeys(places)]


def _title(sources: Sequence[Record], sizes: list[float]) -> str:
    means = [estimate(at_best(sources, "linearity_cosine", size=size), fraction=False).mean for size in sizes]
    if means[0] is None:
        return "Finite steps against the shift that the Jacobian predicts"
    held = next((i for i, mean in enumerate(means) if mean is None or mean < LINEAR_COSINE), len(sizes))
    what = f"direction within a cosine of {number(LINEAR_COSINE)}"
    if not held:
        return f"The Jacobian does not predict a step's shift even at {number(sizes[0])} of the CAA vector's length"
    if held == len(sizes):
        return f"The Jacobian predicts a step's {what} at every measured length"
    return (
        f"The Jacobian predicts a step's {what} up to {number(sizes[held - 1])} of the CAA vector's length, "
        f"but not at {number(sizes[held])}"
    )
