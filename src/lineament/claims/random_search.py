"""Claims about random search, from the records of `random_search`."""

from __future__ import annotations

from collections.abc import Iterator

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import clipped, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label, Quantity

NAME = "random_search"
# The step sigma is named by the share of the gain that curvature should take there.
THEOREM_COST, LIMIT_COST = 0.01, 0.25
SLOPE_COSTS = ("0.01", "0.1", "0.5")


def _quantities(e: Evidence, name: str, **labels: Label) -> Iterator[Quantity]:
    return (quantity for record in e.of(NAME).values() for quantity in record.select(name, **labels))


def _headline_count(e: Evidence) -> int:
    """Return the N of the claims, as the records label it."""
    return next((int(quantity.labels["n"]) for quantity in _quantities(e, "departure_sigma")), 0)


def _spaces(e: Evidence, name: str, **labels: Label) -> list[Label]:
    return sorted({quantity.labels["space"] for quantity in _quantities(e, name, **labels)}, key=str)


def _by_space(e: Evidence, name: str, cost: float, n: int) -> dict[str, float | None]:
    return {
        str(space): mean_or_none(e.per_seed(NAME, name, space=space, cost=cost, n=n).values())
        for space in _spaces(e, name, cost=cost, n=n)
    }


def _departures(e: Evidence, n: int) -> dict[str, dict[str, float | None]]:
    return {
        str(space): {
            "measured": mean_or_none(e.per_seed(NAME, "departure_sigma", space=space, n=n).values()),
            "where_curvature_should_cost_10_percent": mean_or_none(e.nulls(NAME, "departure_sigma", space=space, n=n)),
        }
        for space in _spaces(e, "departure_sigma", n=n)
    }


def _measure_theorem(e: Evidence) -> Measured | None:
    n = _headline_count(e)
    labels: dict[str, Label] = {"space": "full", "cost": LIMIT_COST, "n": n}
    ratios = e.per_seed(NAME, "ratio_second_order", **labels)
    if not ratios:
        return None
    return Measured(
        over_seeds(ratios.values()),
        null=mean_or_none(e.nulls(NAME, "ratio_second_order", **labels)),
        setting=f"N = {n}",
        details={
            "linear_by_space": _by_space(e, "ratio_linear", THEOREM_COST, n),
            "second_order_by_space_at_half_best_sigma": _by_space(e, "ratio_second_order", LIMIT_COST, n),
            "departure_sigma_by_space": _departures(e, n),
        },
    )


BEST_OF_N_THEOREM = ClaimRule(
    id="best_of_n_theorem",
    title="The best of N random steps gains what the theorem predicts",
    holds="Measured and predicted gain agree within 10 % where curvature should cost 25 % of it.",
    fails="Measured and predicted gain differ by more than 10 %.",
    definition="measured / second-order best-of-N gain in the whole space, where curvature should cost 25 %",
    requirements=(Requirement("measured over predicted gain", Bounds(above=0.9, below=1.1)),),
    measure=_measure_theorem,
    unit="ratio",
)


def _measure_slope(e: Evidence) -> Measured | None:
    slopes = e.per_seed(NAME, "dimension_slope", costs="all")
    if not slopes:
        return None
    per_cost = {cost: e.per_seed(NAME, "dimension_slope", costs=cost).values() for cost in SLOPE_COSTS}
    return Measured(
        over_seeds(slopes.values()),
        null=mean_or_none(e.nulls(NAME, "dimension_slope", costs="all")),
        details={"slope_by_cost": {c: interval_body(over_seeds(values)) for c, values in per_cost.items() if values}},
    )


DIMENSION_FREE = ClaimRule(
    id="dimension_free",
    title="The gain of random search does not depend on the number of parameters",
    holds="The ratio of measured to predicted gain does not change with the number of parameters.",
    fails="The ratio of measured to predicted gain changes with the number of parameters.",
    definition="slope of log(measured / second order) on log n_params, over adapter ranks and widths, "
    "one intercept per cost",
    requirements=(
        Requirement("slope", Bounds(above=-0.05, below=0.05)),
        Requirement("slope", Bounds(contains=0.0)),
    ),
    measure=_measure_slope,
    unit="per log parameter",
)


def _measure_density(e: Evidence) -> Measured | None:
    correlations = e.per_seed(NAME, "density_rank_correlation", subspaces="informed")
    if not correlations:
        return None
    with_random = e.per_seed(NAME, "density_rank_correlation", subspaces="with random")
    return Measured(
        clipped(over_seeds(correlations.values()), -1.0, 1.0),
        null=mean_or_none(e.nulls(NAME, "density_rank_correlation", subspaces="informed")),
        details={"with_random": mean_or_none(with_random.values())},
    )


SIGNAL_DENSITY = ClaimRule(
    id="signal_density",
    title="Signal density tells which subspace is worth searching",
    holds="Subspaces with the larger predicted gain are those with the larger measured gain.",
    fails="The predicted gain does not rank the subspaces as the measured gain does.",
    definition="Spearman correlation over informed subspaces of predicted with measured gain, at one root-mean-square "
    "length",
    requirements=(Requirement("rank correlation", Bounds(above=0.5)),),
    measure=_measure_density,
    unit="rank correlation",
    at_rank=True,
)
