"""Effects of steering vectors, selected by dose and at equal KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.claims.steering_details import is_true
from lineament.records import Label, Quantity, Record
from lineament.report.estimates import label_texts, select, values_of
from lineament.report.sections.steering.layers import at_best, best_layers, layers_of
from lineament.report.sections.steering.names import RANDOM, VECTORS

EFFECT = "change of logit difference (nats)"


def vectors(sources: Sequence[Record], name: str) -> list[str]:
    """Return the vectors that a quantity was measured for, the CAA vector first."""
    order = list(VECTORS)
    return sorted(
        label_texts(sources, name, "vector"), key=lambda vector: order.index(vector) if vector in order else len(order)
    )


def calibrated(sources: Sequence[Record], name: str, vector: str, layer: int | None, kl: float) -> list[Quantity]:
    """Return a quantity per seed at a layer (None: its best one) and equal KL; of random directions the mean size.

    Where no dose reaches the KL there is no effect either: the dose without a value takes its place, for its reason.
    """
    best, selected = best_layers(sources), []
    for record in sources:
        at = best.get(record.seed, 0) if layer is None else layer
        where: dict[str, Label] = {"vector": vector, "layer": at, "kl": kl}
        unreached = [dose for dose in record.select("calibrated_dose", **where) if dose.value is None]
        quantities = list(record.select(name, **where)) or unreached
        if quantities:
            one = _mean_size(quantities) if vector == RANDOM else quantities[0]
            selected.append(replace(one, name=name))
    return selected


def by_dose(sources: Sequence[Record], name: str, vector: str, dose: float) -> list[Quantity]:
    """Return one quantity per seed at its best layer and a dose.

    The sign of a random direction means nothing: averaged as they are, their effects would cancel over seeds. They are
    turned so that a positive dose raises the logit difference.
    """
    selected = []
    for record in sources:
        turn = -1 if vector == RANDOM and _lowers(record, vector) else 1
        selected += at_best([record], name, vector=vector, dose=turn * dose)
    return selected


def best_ratios(sources: Sequence[Record], kl: float) -> list[Quantity]:
    """Return the step's effect over the CAA vector's, one per seed at its best layer."""
    return [ratio for ratio in select(sources, "effect_ratio", kl=kl) if is_true(ratio, "best")]


def common_layers(sources: Sequence[Record], name: str) -> list[int]:
    """Return the layers at which every seed that has the quantity measured it; best layers may be others."""
    own = [layers for record in sources if (layers := set(layers_of([record], name)))]
    return sorted(set.intersection(*own)) if own else []


def _mean_size(quantities: Sequence[Quantity]) -> Quantity:
    """Return the mean absolute value of several random directions, whose signs mean nothing."""
    sizes = [abs(value) for value in values_of(quantities)]
    if not sizes:
        return quantities[0]
    return replace(quantities[0], value=sum(sizes) / len(sizes), reason=None)


def _lowers(record: Record, vector: str) -> bool:
    """Return whether a positive dose of a vector lowers the logit difference, over all doses."""
    changes = at_best([record], "dose_logit_difference", vector=vector)
    return sum(float(change.labels["dose"]) * change.value for change in changes if change.value is not None) < 0
