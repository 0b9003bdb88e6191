"""Hand-made records of the local geometry: what claims read, and whole records whose pictures can be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
