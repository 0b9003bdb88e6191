"""Intervals over independent seeds (protocol, section 0): Student t, on logit values for fractions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

LEVEL = 0.95
# Student's t has one degree of freedom for two seeds: its intervals of fractions are 0.57 to 1.0 wide and say nothing.
FEWEST_SEEDS = 3
# Number of seeds -> why there is no interval.
FEW_SEEDS = {1: "one seed", 2: "two seeds"}
# A fraction of exactly 0 or 1 has no finite logit. It counts as half as far from that end as the nearest other seed,
# at most this far, so that no constant decides the interval.
MAX_END_DISTANCE = 1e-3


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with its two-sided Student t interval.

    `low` and `high` are None for fewer than three seeds; `mean` is nan for none. `pair` holds the values of two seeds.
    """

    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    level: float = LEVEL
    pair: tuple[float, float] | None = None


def over_seeds(values: Iterable[float], *, fraction: bool = False, log: bool = False, level: float = LEVEL) -> Interval:
    """Return the interval of a quantity measured once per seed.

    Args:
        values: one number per seed; all must be finite, and above 0 with `log`.
        fraction: the quantity lies in [0, 1]; the interval is made on logit values and mapped back.
        log: the quantity is positive and may span decades; the interval is made on logarithms and mapped back.
        level: coverage.

    Returns:
        Point and interval of one parameter: the arithmetic mean, or for fractions the logit mean mapped back, or with
        `log` the geometric mean.
    """
    from scipy import special, stats  # takes most of a second to import, and who reads verdicts needs none of it

    x = np.fromiter(values, dtype=np.float64)
    if not len(x):
        return Interval(math.nan, None, None, 0, level)
    if log:
        return _on_logarithms(x, level)
    logits = fraction and np.ptp(x) > 0  # a logit of 0 or 1 is not finite, and equal seeds need none
    y = special.logit(_off_the_ends(x)) if logits else x
    mean = float(special.expit(y.mean())) if logits else float(x.mean())
    if len(x) < FEWEST_SEEDS:
        pair = (float(x[0]), float(x[1])) if len(x) == 2 else None
        return Interval(mean, None, None, len(x), level, pair)
    if fraction and not logits:
        return Interval(mean, mean, mean, len(x), level)
    half = float(stats.t.ppf(0.5 + level / 2, len(y) - 1) * y.std(ddof=1) / math.sqrt(len(y)))
    ends = float(y.mean()) - half, float(y.mean()) + half
    low, high = (float(special.expit(end)) if fraction else end for end in ends)
    return Interval(mean, low, high, len(x), level)


def _on_logarithms(x: np.ndarray, level: float) -> Interval:
    if np.any(x <= 0):
        raise ValueError(f"{float(x.min()):g} has no logarithm; give values above 0.")
    equal = np.ptp(x) == 0  # mapping to logarithms and back would round

    def mapped(end: float) -> float:
        return float(x[0] if equal else np.exp(end))

    logs = over_seeds(np.log(x), level=level)
    low, high = (None if end is None else mapped(end) for end in (logs.low, logs.high))
    pair = (float(x[0]), float(x[1])) if len(x) == 2 else None
    return Interval(mapped(logs.mean), low, high, len(x), level, pair)


def _off_the_ends(x: np.ndarray) -> np.ndarray:
    """Move fractions of exactly 0 and 1 inside, by half the distance of the nearest other value from that end."""
    inside = x.copy()
    for end in (0.0, 1.0):
        distances = np.abs(x - end)
        others = distances[distances > 0]
        nearest = float(others.min()) / 2 if len(others) else MAX_END_DISTANCE
        inside[distances == 0] = abs(end - min(nearest, MAX_END_DISTANCE))
    return np.asarray(np.clip(inside, np.finfo(float).tiny, 1 - np.finfo(float).eps))


def paired(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the interval of the per-seed differences first - second, on the raw scale."""
    return over_seeds([a - b for a, b in zip(first, second, strict=True)], level=level)


def clipped(interval: Interval, lowest: float, highest: float) -> Interval:
    """Cut an interval of a bounded statistic at its bounds; no verdict depends on what lies outside."""
    if interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(lowest, interval.low), high=min(highest, interval.high))


def interval_body(interval: Interval) -> dict[str, Any] | None:
    """Return an interval as claims.json holds it, or None where no seed has a value."""
    return asdict(interval) if interval.n_seeds else None
