"""Tasks and pairs of an operating point, and their figures over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from statistics import median

from lineament.records import Label, Quantity, Record
from lineament.report.estimates import Estimate, estimate_known, estimate_values, label_numbers, select, values_of
from lineament.report.series import BLUE, GREY, ORANGE, Style

# Kinds of pairs in words, with the look of their dots.
KINDS = {
    "between": ("two tasks", Style(BLUE)),
    "within": ("two batches of one task", Style(ORANGE, symbol="square", open=True)),
}
RANDOM = ("two random steps", Style(GREY, "dash", "x"))
DIRECTIONS = {"gradient": "own gradient", "task_vector": "task vector", "random": "random direction"}
SIZE = "step eps (task-vector lengths)"


def tasks_of(sources: Sequence[Record]) -> list[str]:
    """Return the tasks in the order in which the records have them."""
    names = [str(q.labels["task"]) for q in select(sources, "gradient_agreement")]
    names += [str(q.labels[end]) for q in select(sources, "kappa") for end in ("first", "second")]
    names += [str(q.labels["task"]) for q in select(sources, "window")]
    return list(dict.fromkeys(names))


def narrowed(sources: Sequence[Record], *names: str, **labels: Label) -> list[Record]:
    """Return the records with these quantities alone, where many pairs and step sizes are looked for."""
    kept = [[quantity for name in names for quantity in record.select(name, **labels)] for record in sources]
    return [replace(record, quantities=tuple(own)) for record, own in zip(sources, kept, strict=True)]


def pairs_of(tasks: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places of every pair of tasks, each once, and of every task with itself."""
    return list(combinations_with_replacement(range(len(tasks)), 2))


def of_pair(sources: Sequence[Record], name: str, first: str, second: str, **labels: Label) -> list[Quantity]:
    """Return the figures of a pair, in whichever order the records name it; of a task with itself those within it."""
    kind = "within" if first == second else "between"
    return [
        quantity
        for quantity in select(sources, name, pair=kind, **labels)
        if {quantity.labels["first"], quantity.labels["second"]} == {first, second}
    ]


def geometric(quantities: Sequence[Quantity], lowest: float = 0.0) -> Estimate:
    """Return the geometric mean over the seeds that have a value; one below `lowest` counts as it."""
    return estimate_known(quantities, [None if q.value is None else max(q.value, lowest) for q in quantities])


def seed_medians(sources: Iterable[Record], name: str, **labels: Label) -> list[float]:
    """Return each seed's median over tasks or pairs, of the seeds that have one."""
    found = [values_of(record.select(name, **labels)) for record in sources]
    return [median(values) for values in found if values]


def median_of(
    sources: Sequence[Record],
    name: str,
    over: Callable[[Sequence[float]], Estimate] = lambda values: estimate_values(values, fraction=False),
    **labels: Label,
) -> Estimate:
    """Return the estimate over seeds of the median over tasks or pairs."""
    return over(seed_medians(sources, name, **labels))


def near(sources: Sequence[Record], name: str, label: str, value: float) -> dict[str, Label]:
    """Return a number as the label has it: of those in the records the one nearest to it."""
    return {label: min(label_numbers(sources, name, label), key=lambda known: abs(known - value), default=value)}
