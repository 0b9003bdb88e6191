"""What verdicts rest on: the records of one target over seeds, and the few statistics that claims take from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lineament.claims.intervals import Interval, paired
from lineament.measurements.families import Static, best_static
from lineament.records import Label, Record

WHOLE: dict[str, Label] = {"definition": "whole", "at": "T", "space_of": "parameters"}


@dataclass(frozen=True)
class Evidence:
    """The records of one target over seeds.

    Attributes:
        records: (measurement, seed) -> record.
        rank: the headline rank.
    """

    task: str
    rank: int
    records: Mapping[tuple[str, int], Record]

    @property
    def space(self) -> str:
        """Space of the records."""
        return next(iter(self.records.values())).space

    @property
    def seeds(self) -> list[int]:
        """All seeds that ran."""
        return sorted({seed for _, seed in self.records})

    def why_few(self, n_seeds: int) -> str:
        """Why a claim rests on fewer than two seeds."""
        ran, steps = len(self.seeds), [r for (name, _), r in self.records.items() if name == "basis_capture"]
        recovered = sum(record.value("recovery_steps") is not None for record in steps)
        if ran < 2:
            return "one seed"
        if steps and recovered == n_seeds:
            return f"{recovered} of {ran} seeds recovered"
        return f"this figure in {n_seeds} of {ran} seeds"

    def per_seed(self, measurement: str, quantity: str, **labels: Label) -> dict[int, float]:
        """Seed -> value, for seeds where it is defined."""
        found = {}
        for (name, seed), record in sorted(self.records.items()):
            value = record.value(quantity, **labels) if name == measurement else None
            if value is not None:
                found[seed] = value
        return found

    def nulls(self, measurement: str, quantity: str, **labels: Label) -> list[float]:
        """The structured null's values over seeds."""
        chosen = [
            record.select(quantity, **labels) for (name, _), record in self.records.items() if name == measurement
        ]
        return [f.null for figures in chosen for f in figures if f.null is not None]

    def capture(self, basis: str, rank: int | None = None, **labels: Label) -> dict[int, float]:
        """Seed -> capture by a basis at the headline rank, whole unless labelled otherwise."""
        which = {**WHOLE, **labels, "basis": basis, "rank": rank or self.rank}
        return self.per_seed("basis_capture", "capture", **which)

    def statics(self) -> dict[int, Static]:
        """Seed -> its best static basis, at the headline rank or at its own full rank below it.

        Seeds whose T is below the headline rank are left out: nothing is compared there.
        """
        found = {}
        for (name, seed), record in sorted(self.records.items()):
            if name == "basis_capture" and (record.value("recovery_steps") or 0) >= self.rank:
                best = best_static(record.quantities, self.rank)
                if best is not None:
                    found[seed] = best
        return found

    def best_static(self) -> dict[int, float]:
        """Seed -> whole capture by its best static basis."""
        return {seed: static.capture for seed, static in self.statics().items()}


def paired_by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> Interval:
    """Interval of first - second over the seeds that have both."""
    seeds = [seed for seed in first if seed in second]
    return paired([first[seed] for seed in seeds], [second[seed] for seed in seeds])


def mean_or_none(values: Iterable[float]) -> float | None:
    """Arithmetic mean, or None of nothing."""
    found = list(values)
    return float(np.mean(found)) if found else None


def rank_correlation(record: Record, rank: int) -> float | None:
    """Spearman correlation, over the bases of one rank, of whole capture with minus the loss after training inside."""
    captures, losses = [], []
    for figure in record.select("trained_inside", rank=rank, statistic="loss"):
        value = record.value("capture", **WHOLE, basis=figure.labels["basis"], rank=rank)
        if value is not None and figure.value is not None:
            captures.append(value)
            losses.append(figure.value)
    if len(captures) < 4:
        return None
    found = float(stats.spearmanr(captures, [-loss for loss in losses]).statistic)
    return found if np.isfinite(found) else None


def capture_details(e: Evidence) -> dict[str, Any]:
    """Mean captures over seeds: definition -> basis -> rank, and what training inside reached."""
    details: dict[str, Any] = {}
    sums: dict[tuple[str, str, str], list[float]] = {}
    inside: dict[tuple[str, str], list[float]] = {}
    for (name, _), record in sorted(e.records.items()):
        if name != "basis_capture":
            continue
        for f in record.select("capture", at="T", space_of="parameters"):
            if f.value is not None:
                key = (str(f.labels["definition"]), str(f.labels["basis"]), str(f.labels["rank"]))
                sums.setdefault(key, []).append(f.value)
        for f in record.select("trained_inside", statistic="accuracy"):
            if f.value is not None:
                inside.setdefault((str(f.labels["basis"]), str(f.labels["rank"])), []).append(f.value)
    for (definition, basis, rank), values in sums.items():
        details.setdefault(definition, {}).setdefault(basis, {})[rank] = float(np.mean(values))
    for (basis, rank), values in inside.items():
        details.setdefault("trained_inside_accuracy", {}).setdefault(basis, {})[rank] = float(np.mean(values))
    return details
