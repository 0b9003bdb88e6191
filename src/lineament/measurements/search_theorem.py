"""Does the best of N gain what the theorem says, where curvature counts? In the whole space (protocol, section 4).

The step is the one at which curvature should cost a quarter of the linear gain: there the prediction can be wrong. The
gain is the plain mean over draws. With the first-order gains as control variate its linear part would be the
prediction's own, and the ratio could only show curvature.
"""

from __future__ import annotations

import math

from lineament import theory
from lineament.measurements.search_pools import Pool
from lineament.population.best_of_n import Measured
from lineament.population.region import SearchSpace
from lineament.records import Label, Quantity

THEOREM_COST = 0.25


def theorem_sigma(space: SearchSpace, n: int) -> float | None:
    """Return the step of the claim; None where the curvature that sets it is not told from zero."""
    return None if space.why_unknown_curvature(n) else theory.sigma_of_curvature_cost(THEOREM_COST, space.at, n)


def theorem_figure(space: SearchSpace, pool: Pool | None, shuffled_norm: float, n: int) -> Quantity:
    """Divide the plain gain of the best of n by its second-order prediction.

    Args:
        pool: draws at `theorem_sigma`; None without one.
        shuffled_norm: |g| on shuffled labels, from which the null is predicted.
    """
    labels: dict[str, Label] = {"space": space.name, "cost": THEOREM_COST, "n": n}
    if pool is None:
        reason = space.why_unknown_curvature(n) or "the space has no curvature"
        return Quantity("theorem_ratio", None, "ratio", labels=labels, reason=reason)
    labels |= {"sigma": pool.sigma, "draws": len(pool.gains)}
    if len(pool.gains) < 2 * n:
        reason = f"{len(pool.gains)} draws have a finite loss; the best of {n} needs {2 * n}"
        return Quantity("theorem_ratio", None, "ratio", labels=labels, reason=reason)
    measured, predicted = pool.plain(n), theory.second_order_gain(pool.sigma, space.at, n)
    blind = theory.second_order_gain(pool.sigma, theory.Curvature(shuffled_norm, space.at.trace), n)
    return Quantity(
        "theorem_ratio",
        measured.value / predicted,
        "ratio",
        stderr=ratio_error(measured, predicted, pool.sigma, space.trace_stderr),
        null=measured.value / blind if blind > 0 else None,
        labels=labels,
    )


def ratio_error(measured: Measured, predicted: float, sigma: float, trace_stderr: float) -> float:
    """Return the standard error of gain / second-order prediction: that of the draws, and of tr H in the prediction."""
    of_prediction = measured.value / predicted * sigma**2 / 2 * trace_stderr
    return math.hypot(measured.stderr, of_prediction) / abs(predicted)
