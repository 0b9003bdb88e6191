"""Claims about random search (protocol, section 6), from the records of `random_search`."""

from __future__ import annotations

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import Interval, over_seeds
from lineament.claims.verdict import Claim, Condition, above, below, clipped, interval_body, make_claim
from lineament.records import Label

NAME = "random_search"
THEOREM_COST = 0.01
LIMIT_COST = 0.25
RATIO_TOLERANCE, SLOPE_TOLERANCE = 0.1, 0.05


def best_of_n_theorem(e: Evidence) -> Claim | None:
    """The best of N draws in the whole space gains sigma |g| m_N where curvature should cost 1 %."""
    n = _headline_count(e)
    labels: dict[str, Label] = {"space": "full", "cost": THEOREM_COST, "n": n}
    values = e.per_seed(NAME, "ratio_linear", **labels)
    if not values:
        return None
    interval = over_seeds(list(values.values()))
    conditions = [above(interval, 1 - RATIO_TOLERANCE), below(interval, 1 + RATIO_TOLERANCE)]
    return make_claim(
        e,
        "best_of_n_theorem",
        interval,
        conditions,
        "interval within 0.9-1.1",
        f"measured / linear best-of-{n} gain in the whole space, at the sigma where curvature should cost 1 %",
        unit="ratio",
        null=mean_or_none(e.nulls(NAME, "ratio_linear", **labels)),
        details={
            "linear_by_space": _by_space(e, "ratio_linear", THEOREM_COST, n),
            "second_order_by_space_at_half_best_sigma": _by_space(e, "ratio_second_order", LIMIT_COST, n),
            "departure_sigma_by_space": _departures(e, n),
        },
    )


def dimension_free(e: Evidence) -> Claim | None:
    """Measured over second-order gain does not change with the number of parameters."""
    values = e.per_seed(NAME, "dimension_slope", costs="all")
    if not values:
        return None
    interval = over_seeds(list(values.values()))
    conditions = [above(interval, -SLOPE_TOLERANCE), below(interval, SLOPE_TOLERANCE), _holds_zero(interval)]
    costs = ("0.01", "0.1", "0.5")
    per_cost = {cost: list(e.per_seed(NAME, "dimension_slope", costs=cost).values()) for cost in costs}
    return make_claim(
        e,
        "dimension_free",
        interval,
        conditions,
        "interval holds 0 within +- 0.05",
        "slope of log(measured / second order) on log n_params, over adapter ranks and widths, one intercept per cost",
        unit="per log parameter",
        null=mean_or_none(e.nulls(NAME, "dimension_slope", costs="all")),
        details={"slope_by_cost": {c: interval_body(over_seeds(found)) for c, found in per_cost.items() if found}},
    )


def signal_density(e: Evidence) -> Claim | None:
    """Signal density ranks subspaces as their measured gains do."""
    values = e.per_seed(NAME, "density_rank_correlation", subspaces="informed")
    if not values:
        return None
    interval = clipped(over_seeds(list(values.values())), -1.0, 1.0)
    with_random = e.per_seed(NAME, "density_rank_correlation", subspaces="with random")
    return make_claim(
        e,
        "signal_density",
        interval,
        [above(interval, 0.5)],
        "low > 0.5",
        "Spearman correlation over informed subspaces of predicted with measured gain, at one root-mean-square length",
        unit="rank correlation",
        null=mean_or_none(e.nulls(NAME, "density_rank_correlation", subspaces="informed")),
        rank=e.rank,
        details={"with_random": mean_or_none(with_random.values())},
    )


def _headline_count(e: Evidence) -> int:
    found = [f for record in e.records.values() for f in record.select("departure_sigma")]
    return int(found[0].labels["n"]) if found else 0


def _holds_zero(interval: Interval) -> Condition:
    """An interval beside zero shows a slope, however small: that leaves the claim open, and refutes nothing."""
    if interval.low is None or interval.high is None:
        return Condition(None, interval.n_seeds)
    return Condition(True if interval.low <= 0 <= interval.high else None, interval.n_seeds)


def _by_space(e: Evidence, quantity: str, cost: float, n: int) -> dict[str, float | None]:
    spaces = {f.labels["space"] for r in e.records.values() for f in r.select(quantity, cost=cost, n=n)}
    return {
        str(space): mean_or_none(e.per_seed(NAME, quantity, space=space, cost=cost, n=n).values())
        for space in sorted(spaces, key=str)
    }


def _departures(e: Evidence, n: int) -> dict[str, dict[str, float | None]]:
    spaces = {f.labels["space"] for r in e.records.values() for f in r.select("departure_sigma", n=n)}
    return {
        str(space): {
            "measured": mean_or_none(e.per_seed(NAME, "departure_sigma", space=space, n=n).values()),
            "where_curvature_should_cost_10_percent": mean_or_none(e.nulls(NAME, "departure_sigma", space=space, n=n)),
        }
        for space in sorted(spaces, key=str)
    }
