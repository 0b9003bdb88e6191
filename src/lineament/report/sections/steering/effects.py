"""Effects of steering vectors, selected by dose and at equal KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.claims.steering import is_true
from lineament.records import Label, Quantity, Record
from lineament.report.estimates import label_texts, select
from lineament.report.sections.steering.layers import at_best, best_layers, layers_of
from lineament.report.sections.steering.names import VECTORS
from lineament.report.series import BLACK, GREY, ORANGE, VERMILLION, Style

STYLES = {
    "caa": Style(BLACK, width=3),
    "step": Style(VERMILLION, symbol="square", width=3),
    "random": Style(ORANGE, "dash", "x"),
}
RANDOM = "random"
EFFECT = "change of logit difference (nats)"


def vectors(sources: Sequence[Record], quantity: str) -> list[str]:
    """Names of the vectors that a quantity was measured for, the CAA vector first."""
    found = label_texts(sources, quantity, "vector")
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
