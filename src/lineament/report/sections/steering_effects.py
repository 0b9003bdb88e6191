"""Pictures of what steering does: change of the logit difference by dose, by its price in KL, and at equal KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.claims.steering import is_true
from lineament.records import Label, Quantity, Record
from lineament.report.drawing import BLACK, GREY, ORANGE, VERMILLION
from lineament.report.sections.random_search import numbers, percent, room
from lineament.report.sections.steering import at_best, best_layer_text, best_layers, layers_of
from lineament.report.series import (
    Estimate,
    Line,
    Panel,
    Picture,
    Style,
    estimate,
    estimate_geometric,
    label_values,
    number,
    of,
    select,
)
from lineament.report.words import CAPTIONS, VECTORS, vector_label

STYLES = {
    "caa": Style(BLACK, width=3),
    "step": Style(VERMILLION, symbol="square", width=3),
    "random": Style(ORANGE, "dash", "x"),
}
RANDOM = "random"
EFFECT = "change of logit difference (nats)"


def dose_picture(records: Sequence[Record]) -> Picture | None:
    """Change of the logit difference at the best layers, against the dose and against the KL that it costs."""
    sources = of(records, "steering")
    quantity = "dose_logit_difference"
    names = [name for name in vectors(sources, quantity) if at_best(sources, quantity, vector=name)]
    if not names:
        return None
    doses = numbers(sources, quantity, "dose")
    by_length = [_dose_line(sources, name, doses) for name in names]
    left = Panel("by dose", "dose (multiples of |CAA|)", EFFECT, by_length, fraction=False, x_name="dose")
    by_price = [line for name in names for line in _price_lines(sources, name, doses)]
    y_range = room([*by_length, *by_price])
    panels = [replace(left, y_range=y_range)]
    if by_price:
        lines, x_title = [*by_price, *_budget_lines(sources, y_range)], "KL on neutral text (nats per token)"
        panels.append(
            Panel("by its price", x_title, EFFECT, lines, x_log=True, fraction=False, x_name="KL", y_range=y_range)
        )
    notes = [*best_layer_text(sources), *_accuracy_text(sources)]
    return Picture("steering-dose", _dose_title(sources, names), CAPTIONS["steering-dose"], panels, sources, notes)


def effect_picture(records: Sequence[Record]) -> Picture | None:
    """Change of the logit difference at equal KL: one row per layer, the best layers first, one dot per vector."""
    sources = of(records, "steering")
    names = vectors(sources, "calibrated_dose")
    if not names:
        return None
    budgets = numbers(sources, "calibrated_dose", "kl")
    panels = [_effect_panel(sources, names, kl) for kl in budgets]
    notes = [*best_layer_text(sources), *_random_text(sources)]
    title = _effect_title(sources, budgets[0])
    return Picture("steering-effect", title, CAPTIONS["steering-effect"], panels, sources, notes)


def vectors(sources: Sequence[Record], quantity: str) -> list[str]:
    """Names of the vectors that a quantity was measured for, the CAA vector first."""
    found = [str(name) for name in label_values(sources, quantity, "vector")]
    order = list(VECTORS)
    return sorted(found, key=lambda name: order.index(name) if name in order else len(order))


def calibrated(sources: Sequence[Record], quantity: str, name: str, layer: int | None, kl: float) -> list[Quantity]:
    """One figure per seed at a layer (None: its best one) and equal KL; of random directions their mean size.

    Where no dose reaches the KL there is no effect either: its place is taken by the reason.
    """
    best, found = best_layers(sources), []
    for record in sources:
        at = best.get(record.seed, 0) if layer is None else layer
        where: dict[str, Label] = {"vector": name, "layer": at, "kl": kl}
        unreached = [f for f in record.select("calibrated_dose", **where) if f.value is None]
        figures = list(record.select(quantity, **where)) or unreached
        if figures:
            found.append(_mean_size(quantity, figures) if name == RANDOM else replace(figures[0], name=quantity))
    return found


def by_dose(sources: Sequence[Record], quantity: str, name: str, dose: float) -> list[Quantity]:
    """One figure per seed at its best layer and a dose; random directions turned so that a positive dose raises.

    The sign of a random direction means nothing: averaged as they are, their effects would cancel over seeds.
    """
    found = []
    for record in sources:
        turn = -1 if name == RANDOM and _lowers(record, name) else 1
        found += at_best([record], quantity, vector=name, dose=turn * dose)
    return found


def best_ratios(sources: Sequence[Record], kl: float) -> list[Quantity]:
    """The step's effect over the CAA vector's, one per seed at its best layer."""
    return [f for f in select(sources, "effect_ratio", kl=kl) if is_true(f, "best")]


def common_layers(sources: Sequence[Record], quantity: str) -> list[int]:
    """Layers at which every seed that has the quantity measured it; each seed's best layer may be its own."""
    own = [layers for record in sources if (layers := set(layers_of([record], quantity)))]
    return sorted(set.intersection(*own)) if own else []


def _mean_size(quantity: str, figures: Sequence[Quantity]) -> Quantity:
    """Of several random directions, whose signs mean nothing, the mean absolute value."""
    values = [abs(f.value) for f in figures if f.value is not None]
    if not values:
        return replace(figures[0], name=quantity)
    return replace(figures[0], name=quantity, value=sum(values) / len(values), reason=None)


def _lowers(record: Record, name: str) -> bool:
    """Whether a positive dose of a vector lowers the logit difference, over all doses."""
    figures = at_best([record], "dose_logit_difference", vector=name)
    return sum(float(f.labels["dose"]) * f.value for f in figures if f.value is not None) < 0


def _style(name: str) -> Style:
    return STYLES.get(name, Style(GREY, "dot"))


def _dose_line(sources: list[Record], name: str, doses: list[float]) -> Line:
    points = [estimate(by_dose(sources, "dose_logit_difference", name, dose), fraction=False) for dose in doses]
    return Line(name, vector_label(name), "vectors", _style(name), doses, points, bars=name != RANDOM)


def _price_lines(sources: list[Record], name: str, doses: list[float]) -> list[Line]:
    """Effect against KL, positive and negative doses apart: nothing lies between them on this axis."""
    up = [_priced(sources, name, dose) for dose in doses if dose > 0] + _at_budgets(sources, name)
    down = [_priced(sources, name, dose) for dose in doses if dose < 0]
    lines = []
    for found, style in ((up, _style(name)), (down, replace(_style(name), dash="dot", width=2.0))):
        known = sorted((pair for pair in found if pair is not None), key=lambda pair: pair[0])
        if known:
            x, points = [price for price, _ in known], [effect for _, effect in known]
            lines.append(Line(name, vector_label(name), "vectors", style, x, points, bars=name != RANDOM))
    return lines


def _priced(sources: list[Record], name: str, dose: float) -> tuple[float, Estimate] | None:
    """(KL, effect) of a dose."""
    prices = [f.value for f in by_dose(sources, "dose_kl", name, dose) if f.value is not None]
    price = estimate_geometric(prices).mean
    effect = estimate(by_dose(sources, "dose_logit_difference", name, dose), fraction=False)
    if price is None or effect.mean is None:
        return None
    return price, replace(effect, reason=f"dose {number(dose)}")


def _at_budgets(sources: list[Record], name: str) -> list[tuple[float, Estimate] | None]:
    """(KL, effect) at the doses that were sought for equal KL; not of random directions, which are others there."""
    found: list[tuple[float, Estimate] | None] = []
    for kl in numbers(sources, "calibrated_dose", "kl") if name != RANDOM else ():
        effect = estimate(calibrated(sources, "calibrated_effect", name, None, kl), fraction=False)
        if effect.mean is not None:
            found.append((kl, replace(effect, reason="at equal KL")))
    return found


def _budget_lines(sources: list[Record], y_range: tuple[float, float]) -> list[Line]:
    """Upright lines at the KL where vectors are compared."""
    style, tall = Style(GREY, "dash", width=1.5), [Estimate(end) for end in y_range]
    return [
        Line(f"budget-{kl}", f"equal KL: {number(kl)}", "reference", style, [kl, kl], tall, mode="plain", tabled=0)
        for kl in numbers(sources, "calibrated_dose", "kl")
    ]


def _accuracy_text(sources: list[Record]) -> list[str]:
    found = select(sources, "task_accuracy")
    if not found:
        return []
    return [f"Accuracy of the model itself on held-out examples: {estimate(found, fraction=True).text}."]


def _dose_title(sources: list[Record], names: list[str]) -> str:
    parts = []
    for name in names:
        mean = estimate(by_dose(sources, "dose_logit_difference", name, 1.0), fraction=False).mean
        if mean is not None:
            parts.append(f"{number(mean)} along the {vector_label(name)}")
    if not parts:
        return "How steering changes the logit difference"
    return f"Dose 1 changes the logit difference by {', '.join(parts)} (nats)"


def _effect_panel(sources: list[Record], names: list[str], kl: float) -> Panel:
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


def _random_text(sources: list[Record]) -> list[str]:
    draws = label_values(sources, "calibrated_dose", "draw")
    if len(draws) < 2:
        return []
    return [f"Of {len(draws)} random weight directions the mean size of the change is shown: their signs mean nothing."]


def _effect_title(sources: list[Record], kl: float) -> str:
    found = best_ratios(sources, kl)
    mean = estimate(found, fraction=False).mean
    if mean is None:
        return "What the vectors do at equal KL"
    nulls = [f.null for f in found if f.null is not None]
    price = f"At equal KL ({number(kl)} nats per token)"
    start = f"{price} the gradient step's shift has {percent(mean)} of the CAA vector's effect"
    return f"{start}, random weight directions {percent(sum(nulls) / len(nulls))}" if nulls else start
