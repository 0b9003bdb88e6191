"""From records to numbers over seeds: selection by name and labels, means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lineament.claims.advice import SCALES
from lineament.claims.intervals import FEW_SEEDS, over_seeds
from lineament.records import Label, Quantity, Record
from lineament.records import label_values as values_of_label

# A half-width counts with two digits below the first and from the second on, where it rounds up to 1.
ONE_DIGIT, ROUNDED_UP = 3.55, 9.5


@dataclass(frozen=True)
class Estimate:
    """A quantity over seeds.

    Attributes:
        mean: None if no seed has a value.
        low, high: ends of the interval; None for fewer than three seeds.
        pair: the values of two seeds, which stand in for an interval.
        reason: what is missing, in words.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 0
    reason: str | None = None
    pair: tuple[float, float] | None = None

    @property
    def value_text(self) -> str:
        """Return the mean, or why there is none."""
        if self.mean is None:
            return f"undefined: {self.reason or 'not measured'}"
        return with_digits(self.mean, self.low, self.high)

    @property
    def interval_text(self) -> str:
        """Return `[low, high]`, or why there is none; of two seeds their values."""
        if self.low is not None and self.high is not None:
            return interval_text(self.low, self.high)
        if self.pair is not None:
            return f"(two seeds: {number(self.pair[0])} and {number(self.pair[1])})"
        return f"{FEW_SEEDS[self.n_seeds]}: no interval" if self.n_seeds in FEW_SEEDS else "none"

    @property
    def text(self) -> str:
        """Return the mean with its interval."""
        return self.value_text if self.mean is None else f"{self.value_text} {self.interval_text}"

    @property
    def hover(self) -> str:
        """Return the mean with its interval, where there is one."""
        return self.text if self.low is not None or self.pair is not None else self.value_text

    def clipped(self, low: float, high: float) -> Estimate:
        """Return the estimate with its interval cut to the bounds of the quantity."""
        low_end, high_end = (None if end is None else min(high, max(low, end)) for end in (self.low, self.high))
        return replace(self, low=low_end, high=high_end)

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate times a positive number."""
        mean, low, high = (None if x is None else factor * x for x in (self.mean, self.low, self.high))
        pair = None if self.pair is None else (factor * self.pair[0], factor * self.pair[1])
        return replace(self, mean=mean, low=low, high=high, pair=pair)


def number(value: float) -> str:
    """Write a number with three significant digits, large whole ones with separators."""
    if abs(value) >= 1000 and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value + 0.0:.3g}"  # -0 is 0


def with_digits(value: float, low: float | None, high: float | None) -> str:
    """Write a number with as many digits as its interval leaves certain, by the rule of the Particle Data Group.

    The half-width counts with two digits where it begins with 1.0 to 3.54, otherwise with one (Review of Particle
    Physics, introduction, section 5.3). At least two significant digits and at most three; three without an interval.
    """
    half = 0.0 if low is None or high is None else (high - low) / 2
    if not (value and half > 0 and math.isfinite(half) and math.isfinite(value)):
        return number(value)
    place = math.floor(math.log10(half))
    begins = half / 10.0**place
    last = place + (begins >= ROUNDED_UP) - (begins < ONE_DIGIT or begins >= ROUNDED_UP)
    digits = max(2, min(3, math.floor(math.log10(abs(value))) - last + 1))
    if 100 <= abs(value) < 1000:
        return f"{float(f'{value:.{digits}g}'):.0f}"
    return number(value) if abs(value) >= 1000 else f"{value:.{digits}g}"


def interval_text(low: float, high: float) -> str:
    """Write the ends of an interval."""
    return f"[{with_digits(low, low, high)}, {with_digits(high, low, high)}]"


def percent(share: float) -> str:
    """Write a share as a percentage that no line breaks before its sign."""
    return f"{number(100 * share)}\u00a0%"


def select(records: Iterable[Record], name: str, **labels: Label) -> list[Quantity]:
    """Return the matching quantities of all records; if every label is given, one per seed."""
    return [quantity for record in records for quantity in record.select(name, **labels)]


def values_of(quantities: Iterable[Quantity]) -> list[float]:
    """Return the values that are defined."""
    return [quantity.value for quantity in quantities if quantity.value is not None]


def nulls_of(quantities: Iterable[Quantity]) -> list[float]:
    """Return the nulls that stand beside quantities."""
    return [quantity.null for quantity in quantities if quantity.null is not None]


def label_values(records: Iterable[Record], name: str, label: str) -> list[Label]:
    """Return the values that a label takes: numbers sorted, texts in the order of appearance."""
    unique = values_of_label(records, name, label)
    texts = any(isinstance(value, str) for value in unique)
    return unique if texts else sorted(unique)


def label_texts(records: Iterable[Record], name: str, label: str) -> list[str]:
    """Return the values that a label takes as texts."""
    return [str(value) for value in label_values(records, name, label)]


def label_integers(records: Iterable[Record], name: str, label: str) -> list[int]:
    """Return the values that a label takes as whole numbers."""
    return [int(value) for value in label_values(records, name, label)]


def label_numbers(records: Iterable[Record], name: str, label: str) -> list[float]:
    """Return the values that a label takes as numbers."""
    return [float(value) for value in label_values(records, name, label)]


def estimate(quantities: Iterable[Quantity], *, fraction: bool) -> Estimate:
    """Return the mean of one quantity per seed with its Student t interval; on logits if it is a fraction."""
    given = list(quantities)
    values = values_of(given)
    reason = _reasons(given)
    if not values:
        return Estimate(None, reason=reason or "not measured")
    if len(values) < len(given):
        reason = f"{len(given) - len(values)} of {len(given)} seeds: {reason or 'undefined'}"
    return replace(_over_seeds(values, fraction), reason=reason)


def estimate_values(values: Sequence[float], *, fraction: bool) -> Estimate:
    """Return the mean of one number per seed with its Student t interval."""
    finite = [value for value in values if np.isfinite(value)]
    return _over_seeds(finite, fraction) if finite else Estimate(None, reason="not measured")


def estimate_geometric(values: Sequence[float]) -> Estimate:
    """Return the geometric mean of one positive number per seed, its interval made on logarithms."""
    if not values:
        return Estimate(None, reason="not measured")
    if min(values) <= 0:
        return Estimate(None, reason=f"not positive in {sum(v <= 0 for v in values)} of {len(values)} seeds")
    interval = over_seeds(values, log=True)
    return Estimate(interval.mean, interval.low, interval.high, interval.n_seeds, pair=interval.pair)


def estimate_positive(quantities: Iterable[Quantity]) -> Estimate:
    """Return the geometric mean of a quantity that cannot be negative, its interval made on logarithms.

    Where a seed has exactly 0, which has no logarithm, the arithmetic mean, its interval cut at 0.
    """
    given = list(quantities)
    values = values_of(given)
    if not values or min(values) <= 0:
        return estimate(given, fraction=False).clipped(0.0, math.inf)
    return estimate_known(given, [quantity.value for quantity in given])


def range_text(quantities: Iterable[Quantity]) -> str:
    """Return the mean over seeds with the lowest and the highest seed; equal values, or one seed's, alone."""
    given = list(quantities)
    values = values_of(given)
    if not values:
        return estimate(given, fraction=False).value_text
    ends = min(values), max(values)
    mean, low, high = (with_digits(value, *ends) for value in (sum(values) / len(values), *ends))
    return mean if low == high else f"{mean} ({low} to {high})"


def estimate_known(quantities: Sequence[Quantity], values: Sequence[float | None]) -> Estimate:
    """Return the geometric mean over the seeds that have a value, with the reason why others have none.

    Args:
        quantities: where the reasons stand.
        values: one per seed, made from the quantities.
    """
    known = [value for value in values if value is not None]
    reason = _reasons(quantities) or "not measured"
    if not known:
        return Estimate(None, reason=reason)
    mean, without = estimate_geometric(known), len(values) - len(known)
    return replace(mean, reason=f"{without} of {len(values)} seeds: {reason}") if without and mean.mean else mean


def correlation(quantities: Iterable[Quantity]) -> Estimate:
    """Return the estimate of a cosine or correlation, its interval within -1 and 1."""
    return estimate(quantities, fraction=False).clipped(-1.0, 1.0)


def cosine_over_recordings(quantities: Iterable[Quantity]) -> Estimate:
    """Return the mean of one cosine per recording, its interval made on Fisher's z as `advise` makes it."""
    given = list(quantities)
    mean, (to_z, from_z) = estimate(given, fraction=False), SCALES["cosine"]
    interval = over_seeds([to_z(value) for value in values_of(given)])
    if interval.low is None or interval.high is None:
        return mean
    return replace(mean, low=from_z(interval.low), high=from_z(interval.high))


def null_of(quantities: Sequence[Quantity]) -> Estimate:
    """Return the estimate of the nulls that stand beside quantities."""
    nulls = nulls_of(quantities)
    return _over_seeds(nulls, fraction=False) if nulls else Estimate(None, reason="none")


def blind_of(quantities: Sequence[Quantity]) -> Estimate:
    """Return the estimate of the blind values that stand beside quantities, on logits if these are fractions."""
    known = [quantity for quantity in quantities if quantity.blind is not None]
    fraction = all(quantity.unit == "fraction" for quantity in known)
    values = [quantity.blind for quantity in known if quantity.blind is not None]
    return _over_seeds(values, fraction) if values else Estimate(None, reason="none")


def mean_null(quantities: Sequence[Quantity]) -> float | None:
    """Return the arithmetic mean of the nulls; None where there are none."""
    nulls = nulls_of(quantities)
    return sum(nulls) / len(nulls) if nulls else None


def _reasons(quantities: Iterable[Quantity]) -> str | None:
    reasons = {quantity.reason for quantity in quantities if quantity.value is None and quantity.reason}
    return "; ".join(sorted(reasons)) or None


def _over_seeds(values: Sequence[float], fraction: bool) -> Estimate:
    interval = over_seeds(values, fraction=fraction)
    return Estimate(interval.mean, interval.low, interval.high, interval.n_seeds, pair=interval.pair)
