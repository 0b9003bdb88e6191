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
LAYER_TICKS, LAYERS_SHOWN = 12, 3
LAYER_STYLES = (Style(BLUE, "dot", "square", open=True), Style(GREEN, "dash", "diamond"), Style(PURPLE, "dashdot", "x"))
LINEARITY_CAPTION = (
    "A step of growing length is made, and its shift of activations is compared with the shift "
    "that the Jacobian foretells. Across: length of the foretold shift, in units of |CAA|. Left: cosine of the two "
    "shifts; right: length of the one over length of the other. At 1 in both, the step is linear. Bars: 95 % "
    "interval over seeds, at the best layer only and cut at the edge where they are long; those of all others are in "
    "the data table and on hover."
)


def linearity_picture(sources: Sequence[Record]) -> Picture | None:
    """Finite shift against the Jacobian's, by the length of the step: cosine and ratio of lengths."""
    sizes = label_numbers(sources, "linearity_cosine", "size")
    if not sizes:
        return None
    panels = [
        _linearity_panel(sources, sizes, "linearity_cosine", "direction", "cosine of finite and foretold shift"),
        _linearity_panel(sources, sizes, "linearity_norm_ratio", "length", "finite length / foretold length"),
    ]
    title, caption = _linearity_title(sources, sizes), LINEARITY_CAPTION
    return Picture("steering-linearity", title, caption, panels, sources, best_layer_text(sources))


def _linearity_panel(sources: Sequence[Record], sizes: list[float], quantity: str, title: str, y_title: str) -> Panel:
    lines = []
    if best_layers(sources):
        best = [_cosine_or_ratio(at_best(sources, quantity, size=size)) for size in sizes]
        lines.append(Line("best", "best layer of each seed", "layer", Style(VERMILLION, width=3.5), sizes, best))
    for layer, style in zip(_spread(layers_of(sources, quantity)), LAYER_STYLES, strict=False):
        points = [_cosine_or_ratio(select(sources, quantity, layer=layer, size=size)) for size in sizes]
        lines.append(Line(f"layer-{layer}", f"layer {layer}", "layer", style, sizes, points, bars=False))
    across = [sizes[0], sizes[-1]]
    lines.append(reference_line("linear", "linear: 1", across, Estimate(1.0), Style(BLACK, "dash", width=1.2)))
    x_title, x_name, y_range = "length of the foretold shift / |CAA|", "length", vertical_range(lines)
    return Panel(
        title, x_title, y_title, lines, x_log=True, ticks=sizes, fraction=False, x_name=x_name, y_range=y_range
    )


def _cosine_or_ratio(figures: Sequence[Quantity]) -> Estimate:
    """Over seeds, cosines within their bounds."""
    return correlation(figures) if any(f.unit == "cosine" for f in figures) else estimate(figures, fraction=False)


def _spread(layers: list[int]) -> list[int]:
    """First, middle and last layer."""
    places = [round(i * (len(layers) - 1) / (LAYERS_SHOWN - 1)) for i in range(LAYERS_SHOWN)] if layers else []
    return [layers[place] for place in dict.fromkeys(places)]


def _linearity_title(sources: Sequence[Record], sizes: list[float]) -> str:
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
