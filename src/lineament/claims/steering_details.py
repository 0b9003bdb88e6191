"""Quantities of `steering` records over seeds, each at the layer that counts in its seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import clipped, interval_body, over_seeds
from lineament.records import Label, Quantity, label_values

NAME = "steering"


def is_true(quantity: Quantity, label: str) -> bool:
    """Return whether a yes-or-no label says yes, written as a truth value or as a word."""
    return str(quantity.labels.get(label)) == "True"


def best_cosines(e: Evidence, step: str = "raw") -> dict[int, Quantity]:
    """Return seed -> cosine of a step's shift at its best layer, also where it has no value."""
    first = {seed: next(r.select("best_layer_cosine", step=step), None) for seed, r in e.of(NAME).items()}
    return {seed: quantity for seed, quantity in first.items() if quantity is not None}


def kl_budget(e: Evidence) -> float | None:
    """Return the KL at which vectors are compared: the smallest where there are several."""
    return min((float(q.labels["kl"]) for r in e.of(NAME).values() for q in r.select("effect_ratio")), default=None)


def best_ratios(e: Evidence, kl: float | None) -> dict[int, Quantity]:
    """Return seed -> effect ratio at its best layer, also where it has no value."""
    ratios: dict[int, Quantity] = {}
    for seed, record in e.of(NAME).items():
        for quantity in record.select("effect_ratio"):
            if is_true(quantity, "best") and quantity.labels["kl"] == kl:
                ratios.setdefault(seed, quantity)
    return ratios


def match_details(e: Evidence) -> dict[str, Any]:
    """Return what stands behind the cosine: layers, null draws, agreement of halves, and shifts of finite steps."""
    best = {seed: q for seed, q in best_cosines(e).items() if q.value is not None}
    finite = _at_layer_of(best, e, "step_cosine", step="raw", shift="finite")
    sizes = sorted({float(q.labels["size"]) for r in e.records.values() for q in r.select("linearity_cosine")})
    return {
        "cosine_by_layer": {step: _by_layer(e, "step_cosine", step=step, shift="jacobian") for step in ("raw", "adam")},
        "best_layer": {str(seed): q.labels.get("layer") for seed, q in best.items()},
        "largest_null_by_kind": {kind: mean_or_none(values) for kind, values in _largest_nulls(e).items()},
        "null_draws_below": {str(seed): q.labels.get("n_below") for seed, q in best.items()},
        "split_half_agreement": {str(s): value for s, value in _at_layer_of(best, e, "split_half_agreement").items()},
        "adam_best_layer": mean_or_none(q.value for q in best_cosines(e, "adam").values() if q.value is not None),
        "finite_shift": interval_body(clipped(over_seeds(finite.values()), -1.0, 1.0)),
        "linearity_by_size": {
            f"{size:g}": mean_or_none(_at_layer_of(best, e, "linearity_cosine", size=size).values()) for size in sizes
        },
    }


def _largest_nulls(e: Evidence) -> dict[str, list[float]]:
    """Return kind of null -> its largest draw in every seed."""
    largest: dict[str, list[float]] = {}
    for record in e.of(NAME).values():
        by_kind: dict[str, list[float]] = {}
        for q in record.select("null_best_layer_cosine"):
            if q.value is not None:
                by_kind.setdefault(str(q.labels["null"]), []).append(q.value)
        for kind, values in by_kind.items():
            largest.setdefault(kind, []).append(max(values))
    return largest


def effect_details(e: Evidence, ratios: Mapping[int, Quantity], kl: float | None) -> dict[str, Any]:
    """Return what stands behind the effect ratio at one KL: effects, doses and harm to other tasks, by vector."""
    if kl is None:
        return {}

    def means(quantity: str, **labels: Label) -> dict[str, float | None]:
        vectors = _names(e, quantity, "vector")
        return {v: mean_or_none(_at_layer_of(ratios, e, quantity, vector=v, kl=kl, **labels).values()) for v in vectors}

    tasks = _names(e, "collateral_loss", "task")
    return {
        "kl": kl,
        "layer": {str(seed): q.labels.get("layer") for seed, q in ratios.items()},
        "effect": means("calibrated_effect"),
        "dose": means("calibrated_dose"),
        "collateral_accuracy": {task: means("collateral_accuracy", task=task) for task in tasks},
        "collateral_loss": {task: means("collateral_loss", task=task) for task in tasks},
        "ratio_by_layer": _by_layer(e, "effect_ratio", kl=kl),
    }


def _names(e: Evidence, quantity: str, label: str) -> list[str]:
    return sorted(map(str, label_values(e.records.values(), quantity, label)))


def _at_layer_of(places: Mapping[int, Quantity], e: Evidence, quantity: str, **labels: Label) -> dict[int, float]:
    """Return seed -> a quantity at the layer that another quantity of this seed is from."""
    at_layer = {}
    for seed, place in places.items():
        selected = e.records[NAME, seed].select(quantity, **labels, layer=place.labels["layer"])
        values = [q.value for q in selected if q.value is not None]
        if len(values) == 1:
            at_layer[seed] = values[0]
        elif values:  # several random directions, whose signs mean nothing
            at_layer[seed] = sum(map(abs, values)) / len(values)
    return at_layer


def _by_layer(e: Evidence, quantity: str, **labels: Label) -> dict[str, float | None]:
    """Return layer -> mean over seeds."""
    layers = sorted({int(q.labels["layer"]) for r in e.records.values() for q in r.select(quantity, **labels)})
    return {str(layer): mean_or_none(e.per_seed(NAME, quantity, layer=layer, **labels).values()) for layer in layers}
