"""Quantities of `local_geometry` records over seeds: what stands beside its claims, and the nulls made from pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import Interval, interval_body, over_seeds
from lineament.records import Label, Quantity, Record, label_values

NAME = "local_geometry"
BETWEEN: Mapping[str, Label] = {"pair": "between"}
WITHIN: Mapping[str, Label] = {"pair": "within"}
OWN_GRADIENT: Mapping[str, Label] = {"direction": "gradient"}
# Of what is positive and spans decades: what lies below counts as this, since 0 has no logarithm.
ROUNDING = 2.0**-52


def geometric(values: Iterable[float], lowest: float = ROUNDING) -> Interval:
    """Return the geometric mean over seeds with its interval; values below `lowest` count as it."""
    return over_seeds([max(value, lowest) for value in values], log=True)


def share(values: Iterable[float]) -> Interval:
    """Return the interval of what lies between 0 and 1, made on logit values."""
    return over_seeds(values, fraction=True)


def values_at(e: Evidence, name: str, label: str) -> list[float]:
    """Return the numbers that a label takes, sorted."""
    return sorted({float(value) for value in label_values(e.of(NAME).values(), name, label)})


def label_near(e: Evidence, name: str, label: str, value: float) -> dict[str, Label]:
    """Return the label as the records have it, where a grid of powers may miss the round number by its rounding."""
    near = (known for known in values_at(e, name, label) if math.isclose(known, value, rel_tol=1e-6))
    return {label: next(near, value)}


def smallest_step(e: Evidence) -> float:
    """Return the lowest size at which changes were measured: a window of 0 ends below it."""
    return min(values_at(e, "first_order_error", "eps"), default=ROUNDING)


def windows_by_direction(e: Evidence) -> dict[str, Any]:
    """Return direction -> interval of the median window over tasks."""
    lowest = smallest_step(e)
    return {
        str(d): interval_body(geometric(e.per_seed(NAME, "median_window", direction=d).values(), lowest))
        for d in label_values(e.of(NAME).values(), "median_window", "direction")
    }


def medians(e: Evidence, name: str, **labels: Label) -> dict[int, float]:
    """Return seed -> median of a quantity over tasks or pairs."""
    return {seed: median(found) for seed, record in e.of(NAME).items() if (found := _values(record, name, labels))}


def null_window(e: Evidence) -> float | None:
    """Return the median window over tasks with the slope of shuffled labels, geometric mean over seeds."""
    lowest, found = smallest_step(e), {}
    for seed, record in e.of(NAME).items():
        nulls = [q.null for q in record.select("window", **OWN_GRADIENT) if q.null is not None]
        if nulls:
            found[seed] = median(nulls)
    return geometric(found.values(), lowest).mean if found else None


def windows_by_task(e: Evidence) -> dict[str, float | None]:
    """Return task -> window along its own gradient, geometric mean over the seeds that have one."""
    lowest = smallest_step(e)
    tasks = label_values(e.of(NAME).values(), "window", "task")
    found = {str(t): list(e.per_seed(NAME, "window", task=t, **OWN_GRADIENT).values()) for t in tasks}
    return {task: geometric(values, lowest).mean if values else None for task, values in found.items()}


def n_censored(e: Evidence) -> int:
    """Return how many windows along the own gradient reach the end of what was measured."""
    windows = (q for record in e.of(NAME).values() for q in record.select("window", **OWN_GRADIENT))
    return sum(q.value is not None and q.reason is not None for q in windows)


def left_out(e: Evidence) -> dict[str, float]:
    """Return what was left out -> how often, over all seeds."""
    counts: dict[str, float] = {}
    for record in e.of(NAME).values():
        for q in record.select("n_left_out"):
            of = str(q.labels.get("of", "figures"))
            counts[of] = counts.get(of, 0.0) + (q.value or 0.0)
    return counts


def over_shuffled_labels(e: Evidence, eta_kappa: Mapping[str, Label]) -> float | None:
    """Return the measured order defect over the one that gradients of shuffled labels predict.

    It is the measured ratio times kappa / kappa of shuffled labels: median over pairs, geometric mean over seeds.
    """
    found = {}
    for seed, record in e.of(NAME).items():
        ratios = [_over_shuffled(record, q) for q in record.select("order_ratio", **BETWEEN, **eta_kappa)]
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            found[seed] = median(known)
    return geometric(found.values()).mean if found else None


def intervals_by(e: Evidence, name: str, label: str, **labels: Label) -> dict[str, Any]:
    """Return value of a label -> interval of a positive quantity over seeds."""
    known = label_values(e.of(NAME).values(), name, label)
    found = {str(v): e.per_seed(NAME, name, **labels, **{label: v}) for v in known}
    return {value: interval_body(geometric(of.values())) for value, of in found.items() if of}


def means_by(e: Evidence, name: str, label: str, **labels: Label) -> dict[str, float | None]:
    """Return value of a label -> arithmetic mean over the seeds that have one."""
    known = label_values(e.of(NAME).values(), name, label)
    return {str(v): mean_or_none(e.per_seed(NAME, name, **labels, **{label: v}).values()) for v in known}


def _values(record: Record, name: str, labels: Mapping[str, Label]) -> list[float]:
    return [q.value for q in record.select(name, **labels) if q.value is not None]


def _over_shuffled(record: Record, ratio: Quantity) -> float | None:
    """Return one pair's order defect over the one that shuffled labels predict."""
    pair = {"first": ratio.labels["first"], "second": ratio.labels["second"]}
    own, shuffled = record.value("kappa", **pair, **BETWEEN), record.value("kappa_shuffled", **pair)
    return ratio.value * own / shuffled if ratio.value is not None and own is not None and shuffled else None
