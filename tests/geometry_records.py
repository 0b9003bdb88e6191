"""Hand-made records of the local geometry: what claims read, and whole records whose pictures can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from lineament.records import ALL_TASKS, Label, Quantity, Record

Value = float | None
BETWEEN: dict[str, Label] = {"pair": "between"}
WITHIN: dict[str, Label] = {"pair": "within"}
SHIFT: dict[str, Label] = {"sum": "weights", "of": "activation"}
# What claims read: short name -> quantity and labels.
READ: Mapping[str, tuple[str, dict[str, Label]]] = {
    "window": ("median_window", {"direction": "gradient"}),
    "slope": ("probe_slope", {}),
    "r2": ("probe_r2", {}),
    "additive": ("share_additive", BETWEEN),
    "additive_random": ("share_additive", {"pair": "random"}),
    "decades": ("pair_radius_decades", BETWEEN),
    "decades_within": ("pair_radius_decades", WITHIN),
    "order_ratio": ("median_order_ratio", {**BETWEEN, "eta_kappa": 0.01}),
    "onset_kappa": ("median_onset_kappa", BETWEEN),
    "inside": ("share_inside_window", BETWEEN),
    "inside_within": ("share_inside_window", WITHIN),
    "kappa": ("median_kappa", BETWEEN),
    "kappa_within": ("median_kappa", WITHIN),
    "half_life": ("median_plane_half_life", {}),
    "defect": ("median_activation_defect", {**SHIFT, "scale": 0.1}),
    "defect_full": ("median_activation_defect", {**SHIFT, "scale": 1.0}),
    "steering": ("median_steering_share", {}),
    "steering_other": ("median_steering_share_null", {"null": "other_task"}),
    "steering_random": ("median_steering_share_null", {"null": "random_step"}),
}
GRID = tuple(10 ** (k / 2 - 5) for k in range(11))
LAGS = (1, 3, 10, 30, 100)
DIRECTIONS = {"gradient": 0.05, "task_vector": 0.2, "random": 0.02}
NAMES = ("sort", "copy", "reverse", "add", "parity", "majority", "rotate", "count", "compare", "lookup_of_long_names")


def summaries(values: Mapping[str, Value]) -> list[Quantity]:
    """The named summaries, as one seed's record holds them."""
    return [
        Quantity(
            READ[name][0], value, "made up", labels=READ[name][1], reason=None if value is not None else "undefined"
        )
        for name, value in values.items()
    ]


def summary_records(**columns: Sequence[Value]) -> list[Record]:
    """One record per seed of the named summaries."""
    rows = zip(*columns.values(), strict=True)
    return [record(seed, summaries(dict(zip(columns, row, strict=True)))) for seed, row in enumerate(rows)]


def record(seed: int, quantities: Sequence[Quantity], space: str = "lora_factors") -> Record:
    """A record of the measurement with these quantities."""
    names = {quantity.name: "made up" for quantity in quantities}
    return Record(
        "local_geometry", ALL_TASKS, seed, "synthetic", "toy", space, 1000, "0" * 16, tuple(quantities), names
    )


@dataclass(frozen=True)
class Made:
    """A made operating point: quadratic losses, whose windows and onsets are known.

    Attributes:
        kappa_within: kappa of two batches of one task; between tasks i and j it is 0.02 (1 + i + j).
        length: eps per unit of step size.
    """

    n_tasks: int = 3
    kappa_within: float = 0.01
    length: float = 0.002
    wobble: float = 1.0

    @property
    def tasks(self) -> tuple[str, ...]:
        return NAMES[: self.n_tasks]

    def window(self, task: int, direction: str) -> float:
        """Where the second-order term is a tenth of the first."""
        return DIRECTIONS[direction] * (1 + 0.5 * task) * self.wobble

    def kappa(self, i: int, j: int) -> float:
        own = self.kappa_within * (1 + i) if i == j else 0.02 * (1 + i + j)
        return own * self.wobble

    @property
    def pairs(self) -> list[tuple[int, int]]:
        places = range(self.n_tasks)
        return [(i, i) for i in places] + list(combinations(places, 2))


def geometry_records(made: Made | None = None, n_seeds: int = 3) -> list[Record]:
    """Whole records of seeds that differ by a few per cent."""
    base = made or Made()
    seeds = [Made(base.n_tasks, base.kappa_within, base.length, 1 + 0.04 * (i - 1)) for i in range(n_seeds)]
    return [record(i, list(_quantities(one))) for i, one in enumerate(seeds)]


def _quantities(made: Made) -> Iterator[Quantity]:
    yield from _windows(made)
    yield from _pairs(made)
    yield from _summaries(made)
    yield from _rotation(made)
    yield from _activations(made)
    yield from _steering(made)


def _windows(made: Made) -> Iterator[Quantity]:
    lengths = "task-vector lengths"
    for t, task in enumerate(made.tasks):
        yield Quantity("gradient_agreement", 0.98, "cosine", labels={"task": task})
        for direction in DIRECTIONS:
            labels: dict[str, Label] = {"task": task, "direction": direction}
            end = made.window(t, direction)
            yield Quantity("window", end, lengths, null=1e-5, labels=labels)
            yield Quantity("window_predicted", end, lengths, labels=labels)
            yield Quantity("window_ratio", 1.0, "ratio", labels=labels)
            for eps in GRID:
                at = {**labels, "eps": eps}
                first = -3.0 * eps
                change = first * (1 - 0.1 * eps / end)
                hidden = "rounding" if eps < 2e-5 else None
                error = None if hidden else 0.1 * eps / end
                yield Quantity("first_order_error", error, "fraction", labels=at, reason=hidden)
                yield Quantity("loss_change", change, "nats", labels=at)
                yield Quantity("first_order_change", first, "nats", labels=at)
                yield Quantity("second_order_change", change, "nats", labels=at)
    yield Quantity("probe_slope", 0.99 * made.wobble, "fraction", null=0.1, ceiling=1.0)
    yield Quantity("probe_r2", 0.97, "fraction", null=0.05, ceiling=0.99)


def _pairs(made: Made) -> Iterator[Quantity]:
    for i, j in made.pairs:
        labels: dict[str, Label] = {"first": made.tasks[i], "second": made.tasks[j]}
        pair = {**labels, **(WITHIN if i == j else BETWEEN)}
        kappa = made.kappa(i, j)
        yield Quantity("kappa", kappa, "per step-size unit", labels=pair)
        yield Quantity("kappa_unit_norm", 2 * kappa, "per step-size unit", labels=pair)
        yield Quantity("kappa_metric", 3 * kappa, "per step-size unit", labels=pair)
        if i != j:
            yield Quantity("kappa_shuffled", kappa / 4, "per step-size unit", labels=labels)
        for eps in (1e-3, 1e-2, 1e-1):
            defect = min(1.0, eps * (1 + i + j))
            yield Quantity("additivity_defect", defect, "fraction", labels={**pair, "eps": eps})
        yield Quantity("pair_radius", 0.01 / (1 + i + j), "task-vector lengths", labels=pair)
        for share in (1e-3, 1e-2, 1e-1):
            at = {**pair, "eta_kappa": share}
            yield Quantity("order_defect", share * made.wobble, "fraction", stderr=1e-6, labels=at)
            yield Quantity("order_defect_predicted", share, "fraction", labels=at)
            yield Quantity("order_ratio", made.wobble, "ratio", labels=at)
        onset = 0.1 / kappa
        yield Quantity("onset", onset, "step size", labels=pair)
        yield Quantity("onset_eps", onset * made.length, "task-vector lengths", labels=pair)
        yield Quantity("onset_kappa", 0.1, "fraction", labels=pair)


def _summaries(made: Made) -> Iterator[Quantity]:
    for direction in DIRECTIONS:
        middle = median(made.window(t, direction) for t in range(made.n_tasks))
        yield Quantity("median_window", middle, "task-vector lengths", labels={"direction": direction})
    yield Quantity("share_additive", 0.9, "fraction", labels={"pair": "random"})
    for kind in (BETWEEN, WITHIN):
        kappas = {(i, j): made.kappa(i, j) for i, j in made.pairs if (i == j) == (kind is WITHIN)}
        inside = [
            0.1 / kappa * made.length < min(made.window(i, "gradient"), made.window(j, "gradient"))
            for (i, j), kappa in kappas.items()
        ]
        if not kappas:
            continue
        decades = float(np.ptp(np.log10(list(kappas.values()))))
        yield Quantity("median_kappa", median(kappas.values()), "per step-size unit", labels=kind)
        yield Quantity("share_inside_window", float(np.mean(inside)), "fraction", labels=kind)
        yield Quantity("share_additive", 0.8, "fraction", labels=kind)
        yield Quantity("pair_radius_decades", decades, "decades", labels=kind)
        yield Quantity("onset_decades", decades, "decades", labels=kind)
        for share in (1e-3, 1e-2, 1e-1):
            yield Quantity("median_order_ratio", made.wobble, "ratio", labels={**kind, "eta_kappa": share})
        yield Quantity("median_onset_kappa", 0.1 * made.wobble, "fraction", labels=kind)
        yield Quantity("median_onset_error", abs(made.wobble - 1), "fraction", labels=kind)
    yield Quantity("n_left_out", 1.0, "count", labels={"of": "window"})


def _rotation(made: Made) -> Iterator[Quantity]:
    for t, task in enumerate(made.tasks):
        for lag in LAGS:
            labels: dict[str, Label] = {"task": task, "lag": lag}
            overlap = float(2 ** (-lag / (10 * (1 + t)))) * made.wobble
            yield Quantity("plane_overlap", overlap, "fraction", null=0.1, labels=labels)
            yield Quantity("plane_retention", 0.2 + 0.6 * overlap, "fraction", null=0.15, ceiling=0.8, labels=labels)
        yield Quantity("plane_half_life", 10.0 * (1 + t), "steps", labels={"task": task})
        yield Quantity("plane_half_life_distance", 0.1, "weight units", labels={"task": task})
    yield Quantity("median_plane_half_life", 20.0 * made.wobble, "steps")


def _activations(made: Made) -> Iterator[Quantity]:
    for total, factor in (("weights", 1.0), ("factors", 2.0)):
        for of in ("activation", "logit"):
            for scale in (0.03, 0.1, 0.3, 1.0):
                at: dict[str, Label] = {"sum": total, "of": of, "scale": scale}
                defect = factor * 0.5 * scale * made.wobble
                pair: dict[str, Label] = {"first": made.tasks[0], "second": made.tasks[-1], **at}
                yield Quantity("activation_defect", defect, "fraction", null=defect / 3, labels=pair)
                yield Quantity("activation_defect_halves", 0.005, "fraction", labels=pair)
                yield Quantity("median_activation_defect", defect, "fraction", null=defect / 3, labels=at)


def _steering(made: Made) -> Iterator[Quantity]:
    nulls = {"other_task": 0.2, "random_step": 0.05, "halves": 0.02}
    for t, task in enumerate(made.tasks):
        labels: dict[str, Label] = {"task": task, "layer": 2 + t}
        yield Quantity("steering_share", (0.6 + 0.1 * t) * made.wobble, "ratio", labels=labels)
        for null, value in nulls.items():
            yield Quantity("steering_share_null", value, "ratio", labels={"task": task, "null": null})
        yield Quantity("mean_vector_share", 0.7, "fraction", labels={"task": task})
    yield Quantity("median_steering_share", 0.7 * made.wobble, "ratio")
    for null, value in nulls.items():
        yield Quantity("median_steering_share_null", value, "ratio", labels={"null": null})
    yield Quantity("median_mean_vector_share", 0.7, "fraction")
