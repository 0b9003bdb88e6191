"""From records to numbers over seeds: selection by name and labels, means with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lineament.claims.intervals import over_seeds
from lineament.records import Label, Quantity, Record


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds. `mean` is None if no seed has it; `low`, `high` are None for fewer than two seeds.

    `reason` says what is missing, in words.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    reason: str | None = None

    @property
    def value_text(self) -> str:
        """The mean, or why there is none."""
        return number(self.mean) if self.mean is not None else f"undefined: {self.reason or 'not measured'}"

    @property
    def interval_text(self) -> str:
        """`[low, high]`, or why there is none."""
        if self.low is not None and self.high is not None:
            return f"[{number(self.low)}, {number(self.high)}]"
        return "one seed: no interval" if self.n_seeds == 1 else "none"

    @property
    def text(self) -> str:
        """Mean and interval in one."""
        return self.value_text if self.mean is None else f"{self.value_text} {self.interval_text}"

    def clipped(self, low: float, high: float) -> Estimate:
        """Return the estimate with its interval cut to the bounds of what was measured."""
        low_end, high_end = (None if end is None else min(high, max(low, end)) for end in (self.low, self.high))
        return replace(self, low=low_end, high=high_end)


def number(value: float) -> str:
    """Three significant digits, whole numbers with separators."""
    if abs(value) >= 1000 and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    return f"{number(100 * share)}\u00a0%"  # never broken before the sign


def estimate(figures: Iterable[Quantity], *, fraction: bool) -> Estimate:
    """One figure per seed -> mean with Student t interval; on logit values if `fraction`."""
    found = list(figures)
    reasons = sorted({f.reason for f in found if f.value is None and f.reason})
    values = [f.value for f in found if f.value is not None]
    why = "; ".join(reasons) or None
    if not values:
        return Estimate(None, reason=why or "not measured")
    if len(values) < len(found):
        why = f"{len(found) - len(values)} of {len(found)} seeds: {why or 'undefined'}"
    return _of_values(values, fraction, why)


def estimate_values(values: Sequence[float], *, fraction: bool) -> Estimate:
    """One number per seed -> mean with Student t interval."""
    return _of_values([v for v in values if np.isfinite(v)], fraction, None)


def correlation(quantities: Iterable[Quantity]) -> Estimate:
    """Return the estimate of a cosine or correlation, its interval within -1 and 1."""
    return estimate(quantities, fraction=False).clipped(-1.0, 1.0)


def estimate_geometric(values: Sequence[float]) -> Estimate:
    """One positive number per seed -> geometric mean, interval on logarithms; undefined if one is not positive."""
    if not values:
        return Estimate(None, reason="not measured")
    if min(values) <= 0:
        return Estimate(None, reason=f"not positive in {sum(v <= 0 for v in values)} of {len(values)} seeds")
    found = over_seeds([float(np.log(value)) for value in values])
    low, high = (None if end is None else float(np.exp(end)) for end in (found.low, found.high))
    return Estimate(float(np.exp(found.mean)), low, high, found.n_seeds)


def select(records: Iterable[Record], quantity: str, **labels: Label) -> list[Quantity]:
    """Matching figures of all records (with fully given labels: one per seed)."""
    return [figure for record in records for figure in record.select(quantity, **labels)]


def label_values(records: Iterable[Record], quantity: str, label: str) -> list[Label]:
    """Values of a label over the figures of a quantity: numbers sorted, texts in the order of appearance."""
    found = [f.labels[label] for record in records for f in record.select(quantity) if label in f.labels]
    unique = list(dict.fromkeys(found))
    texts = any(isinstance(value, str) for value in unique)
    return unique if texts else sorted(unique)


def label_texts(records: Iterable[Record], name: str, label: str) -> list[str]:
    """Return the values of a label as texts."""
    return [str(value) for value in label_values(records, name, label)]


def label_integers(records: Iterable[Record], name: str, label: str) -> list[int]:
    """Return the values of a label as whole numbers."""
    return [int(value) for value in label_values(records, name, label)]


def label_numbers(records: Iterable[Record], name: str, label: str) -> list[float]:
    """Return the values of a label as numbers."""
    return [float(value) for value in label_values(records, name, label)]


def null_of(found: Sequence[Quantity]) -> Estimate:
    """Mean of the nulls that stand beside some figures."""
    nulls = [Quantity(f.name, f.null, f.unit) for f in found if f.null is not None]
    if not nulls:
        return Estimate(None, reason="none")
    return estimate(nulls, fraction=False)


def _of_values(values: Sequence[float], fraction: bool, why: str | None) -> Estimate:
    if not values:
        return Estimate(None, reason=why or "not measured")
    found = over_seeds(values, fraction=fraction)
    return Estimate(found.mean, found.low, found.high, found.n_seeds, why)
