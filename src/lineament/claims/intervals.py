"""Intervals over independent seeds (protocol, section 0): Student t, on logit values for fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
# A fraction of exactly 0 or 1 has no finite logit; it is moved this far inside before the transform.
LOGIT_MARGIN = 1e-6


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with its two-sided Student t interval.

    `low` and `high` are None for fewer than two seeds; `mean` is nan for none.
    """

    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    level: float = LEVEL


def over_seeds(values: Sequence[float], *, fraction: bool = False, level: float = LEVEL) -> Interval:
    """Interval of a figure measured once per seed.

    Args:
        values: one number per seed; all must be finite.
        fraction: the figure lies in [0, 1]; the interval is made on logit values and mapped back.
        level: coverage.

    Returns:
        The arithmetic mean, and the interval (of the mean, or of the logit mean mapped back).
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean()) if len(x) else math.nan
    if len(x) < 2:
        return Interval(mean, None, None, len(x), level)
    y = _logit(x) if fraction else x
    half = float(stats.t.ppf(0.5 + level / 2, len(y) - 1) * y.std(ddof=1) / math.sqrt(len(y)))
    low, high = float(y.mean()) - half, float(y.mean()) + half
    return Interval(mean, *((_expit(low), _expit(high)) if fraction else (low, high)), len(x), level)


def paired(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """Interval of the per-seed differences first - second, on the raw scale."""
    return over_seeds([a - b for a, b in zip(first, second, strict=True)], level=level)


def _logit(x: np.ndarray) -> np.ndarray:
    inside = np.clip(x, LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return np.asarray(np.log(inside / (1 - inside)))


def _expit(y: float) -> float:
    return 1 / (1 + math.exp(-y)) if y > -700 else 0.0
