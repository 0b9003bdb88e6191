"""Change of the logit difference at equal KL, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, label_numbers, label_values, mean_null, number, percent
from lineament.report.sections.steering.effects import EFFECT, best_ratios, calibrated, common_layers, vectors
from lineament.report.sections.steering.layers import best_layer_text, best_layers
from lineament.report.sections.steering.names import vector_label, vector_style
from lineament.report.series import GREY, Line, Panel, Picture, Style

CAPTION = (
    "Every vector is given the dose at which it causes the same KL divergence on neutral text. Across: the change "
    "that this dose makes in the mean logit difference on held-out prompts. Best layer: each seed's own. The dose "
    "that each vector needs is in the table below. Bars: 95 % interval over seeds."
)


def effect_picture(sources: Sequence[Record]) -> Picture | None:
    """Draw the change of the logit difference at equal KL: a row per layer, best layers first, a dot per vector."""
    names = vectors(sources, "calibrated_dose")
    if not names:
        return None
    budgets = label_numbers(sources, "calibrated_dose", "kl")
    panels = [_panel(sources, names, kl) for kl in budgets]
    notes = [*best_layer_text(sources), *_random_text(sources)]
    title = _title(sources, budgets[0])
    return Picture("steering-effect", title, CAPTION, panels, sources, notes)


def _panel(sources: Sequence[Record], names: list[str], kl: float) -> Panel:
    layers = common_layers(sources, "calibrated_dose")
    cells: list[tuple[str, int | None]] = [(f"layer {layer}", layer) for layer in layers]
    if best_layers(sources):
        cells.insert(0, ("best layer", None))
    lines = []
    for i, name in enumerate(names):
        shift = 0.2 * (i - (len(names) - 1) / 2)
        effects = [calibrated(sources, "calibrated_effect", name, layer, kl) for _, layer in cells]
        points = [estimate(quantities, fraction=False) for quantities in effects]
        places = [row + shift for row in range(len(cells))]
        lines.append(Line(name, vector_label(name), "vectors", vector_style(name), places, points, mode="dots"))
    rows = [label for label, _ in cells]
    zero = [Estimate(0.0)] * 2
    style = Style(GREY, "dot", width=1.2)
    lines.append(Line("zero", "no effect", "reference", style, [-0.45, len(rows) - 0.55], zero, "plain", tabled=0))
    title = f"KL {number(kl)} nats per token"
    return Panel(title, EFFECT, "", lines, fraction=False, rows=rows, x_name="layer")


def _random_text(sources: Sequence[Record]) -> list[str]:
    draws = label_values(sources, "calibrated_dose", "draw")
    if len(draws) < 2:
        return []
    return [f"Of {len(draws)} random weight directions the mean size of the change is drawn: their signs mean nothing."]


def _title(sources: Sequence[Record], kl: float) -> str:
    ratios = best_ratios(sources, kl)
    mean, null = estimate(ratios, fraction=False).mean, mean_null(ratios)
    if mean is None:
        return "What the vectors do at equal KL"
    start = f"At equal KL ({number(kl)} nats per token) the gradient step's shift has"
    share = f"{start} {percent(mean)} of the CAA vector's effect"
    return share if null is None else f"{share}, random weight directions {percent(null)}"
