"""Where a falling curve first reaches a level: half-lives, and lags at which something should be made anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

# A projection should be made anew when it holds so much of what a fresh one holds.
REFRESH_SHARES = (0.9, 0.5)


def crossing(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, level: float = 0.5) -> float | None:
    """Return where the decreasing isotonic fit of y first falls to a level, linear from (0, 1); None if it never does.

    Args:
        x: increasing and above 0.
        y: one value for each, 1 standing for "as at the start"; larger ones count as 1.
    """
    fitted = isotonic_regression(np.asarray(y, dtype=float), increasing=False).x
    xs, ys = np.concatenate([[0.0], x]), np.concatenate([[1.0], np.minimum(fitted, 1.0)])
    below = np.flatnonzero(ys <= level)
    if len(below) == 0:
        return None
    j = int(below[0])
    return float(xs[j - 1] + (ys[j - 1] - level) / (ys[j - 1] - ys[j]) * (xs[j] - xs[j - 1]))
