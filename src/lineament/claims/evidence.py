"""What verdicts rest on: the records of one target over seeds, and the few statistics that claims take from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lineament.claims.intervals import FEW_SEEDS, Interval, paired
from lineament.measurements.families import Static, best_static
from lineament.records import MIN_STDERRS, Label, Quantity, Record, is_told
from lineament.study.horizon import why_not_a_task
from lineament.study.points import DAMAGED, TRAINED

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
        """Return the space of the records."""
        return next(iter(self.records.values())).space

    @property
    def seeds(self) -> list[int]:
        """Return all seeds that ran."""
        return sorted({seed for _, seed in self.records})

    def of(self, measurement: str) -> dict[int, Record]:
        """Return seed -> record of one measurement, in the order of seeds."""
        return {seed: record for (name, seed), record in sorted(self.records.items()) if name == measurement}

    def why_few(self, n_seeds: int) -> str:
        """Say why a claim rests on fewer than three seeds, which are the least for an interval."""
        ran, captures = len(self.seeds), self.of("basis_capture").values()
        recovered = sum(record.value("recovery_steps") is not None for record in captures)
        if ran in FEW_SEEDS:
            return FEW_SEEDS[ran]
        if captures and recovered == n_seeds:
            return f"{recovered} of {ran} seeds recovered"
        return f"this figure in {n_seeds} of {ran} seeds"

    def per_seed(self, measurement: str, quantity: str, **labels: Label) -> dict[int, float]:
        """Return seed -> value, for the seeds where it is defined."""
        values = {seed: record.value(quantity, **labels) for seed, record in self.of(measurement).items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def nulls(self, measurement: str, quantity: str, **labels: Label) -> list[float]:
        """Return the structured null's values over seeds."""
        quantities = (q for record in self.of(measurement).values() for q in record.select(quantity, **labels))
        return [q.null for q in quantities if q.null is not None]

    def ceilings(self, measurement: str, quantity: str, **labels: Label) -> list[float]:
        """Return the largest values that the comparison allows, over seeds."""
        quantities = (q for record in self.of(measurement).values() for q in record.select(quantity, **labels))
        return [q.ceiling for q in quantities if q.ceiling is not None]

    def blinds(self, measurement: str, quantity: str, **labels: Label) -> dict[int, float]:
        """Return seed -> what a blind run gives."""
        found = {seed: [q.blind for q in r.select(quantity, **labels)] for seed, r in self.of(measurement).items()}
        return {seed: values[0] for seed, values in found.items() if values and values[0] is not None}

    def why_no_task(self) -> str | None:
        """Say in which seeds the task was not learned or not lost, or return None: nothing is decided there."""
        reasons: dict[str, list[str]] = {}
        for seed, record in self.of("basis_capture").items():
            where: dict[str, Label] = {"task": self.task, "statistic": "accuracy"}
            trained, damaged = (record.value("evaluation", point=point, **where) for point in (TRAINED, DAMAGED))
            why = None if trained is None or damaged is None else why_not_a_task(trained, damaged)
            if why:
                reasons.setdefault(why, []).append(str(seed))
        return "; ".join(f"seed {', '.join(seeds)}: {why}" for why, seeds in reasons.items()) or None

    def capture(self, basis: str, rank: int | None = None, **labels: Label) -> dict[int, float]:
        """Return seed -> capture by a basis at the headline rank, whole unless labelled otherwise."""
        which = {**WHOLE, **labels, "basis": basis, "rank": rank or self.rank}
        return self.per_seed("basis_capture", "capture", **which)

    def statics(self) -> dict[int, Static]:
        """Return seed -> its best static basis, at the headline rank or at its own full rank below it.

        Seeds whose T is below the headline rank are left out: nothing is compared there.
        """
        long_enough = [
            (seed, record)
            for seed, record in self.of("basis_capture").items()
            if (record.value("recovery_steps") or 0) >= self.rank
        ]
        best = {seed: best_static(record.quantities, self.rank) for seed, record in long_enough}
        return {seed: static for seed, static in best.items() if static is not None}

    def best_static(self) -> dict[int, float]:
        """Return seed -> whole capture by its best static basis."""
        return {seed: static.capture for seed, static in self.statics().items()}


def paired_by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> Interval:
    """Return the interval of first - second over the seeds that have both."""
    seeds = [seed for seed in first if seed in second]
    return paired([first[seed] for seed in seeds], [second[seed] for seed in seeds])


def why_not_divided(denominators: Iterable[float], what: str) -> str | None:
    """Say why nothing is divided by a quantity of every seed: its mean is not told from zero, by its error over seeds.

    None where it is, and for one seed, which has no error and no verdict. `what` begins the sentence.
    """
    values = np.fromiter(denominators, dtype=np.float64)
    if len(values) < 2:
        return None
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    if is_told(mean, error):
        return None
    return (
        f"{what} is {mean:.2g} with a standard error of {error:.2g} over {len(values)} seeds, less than "
        f"{MIN_STDERRS:g} of them: nothing is divided by it"
    )


def mean_or_none(values: Iterable[float]) -> float | None:
    """Return the arithmetic mean, or None of nothing."""
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def why_missing(quantities: Iterable[Quantity]) -> str:
    """Say why seeds have no value: to leave them out because of their result is to select on it."""
    reasons = [quantity.reason or "undefined" for quantity in quantities if quantity.value is None]
    return "; ".join(f"no figure in {reasons.count(why)} seeds: {why}" for why in dict.fromkeys(reasons))
