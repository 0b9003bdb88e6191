"""Change of the logit difference at equal KL, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import Estimate, estimate, label_numbers, label_values, number, percent
from lineament.report.sections.steering.effects import EFFECT, _style, best_ratios, calibrated, common_layers, vectors
from lineament.report.sections.steering.layers import best_layer_text, best_layers
from lineament.report.sections.steering.names import vector_label
from lineament.report.series import GREY, Line, Panel, Picture, Style

EFFECT_CAPTION = (
    "Every vector is given the dose at which it costs the same KL divergence on neutral text; "
    "across is what that dose does to the mean logit difference on held-out prompts. Best layer: each seed's own. The "
    "dose that each vector needs is in the table below. Bars: 95 % interval over seeds."
)


def effect_picture(sources: Sequence[Record]) -> Picture | None:
    """Change of the logit difference at equal KL: one row per layer, the best layers first, one dot per vector."""
    names = vectors(sources, "calibrated_dose")
    if not names:
        return None
    budgets = label_numbers(sources, "calibrated_dose", "kl")
    panels = [_effect_panel(sources, names, kl) for kl in budgets]
    notes = [*best_layer_text(sources), *_random_text(sources)]
    title = _effect_title(sources, budgets[0])
    return Picture("steering-effect", title, EFFECT_CAPTION, panels, sources, notes)


def _effect_panel(sources: Sequence[Record], names: list[str], kl: float) -> Panel:
    layers = common_layers(sources, "calibrated_dose")
    cells: list[tuple[str, int | None]] = [(f"layer {layer}", layer) for layer in layers]
    if best_layers(sources):
        cells.insert(0, ("best layer", None))
    lines = []
    for i, name in enumerate(names):
        shift = 0.2 * (i - (len(names) - 1) / 2)
        found = [calibrated(sources, "calibrated_effect", name, layer, kl) for _, layer in cells]
        points = [estimate(figures, fraction=False) for figures in found]
        places = [row + shift for row in range(len(cells))]
        lines.append(Line(name, vector_label(name), "vectors", _style(name), places, points, mode="dots"))
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
    return [f"Of {len(draws)} random weight directions the mean size of the change is shown: their signs mean nothing."]


def _effect_title(sources: Sequence[Record], kl: float) -> str:
    found = best_ratios(sources, kl)
    mean = estimate(found, fraction=False).mean
    if mean is None:
        return "What the vectors do at equal KL"
    nulls = [f.null for f in found if f.null is not None]
    price = f"At equal KL ({number(kl)} nats per token)"
    start = f"{price} the gradient step's shift has {percent(mean)} of the CAA vector's effect"
    return f"{start}, random weight directions {percent(sum(nulls) / len(nulls))}" if nulls else start
