"""Claims about random search, from the records of `random_search`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lineament.claims.evidence import Evidence, mean_or_none, why_missing
from lineament.claims.intervals import Interval, clipped, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label, Quantity

NAME = "random_search"
# A step sigma is named by the share of the gain that curvature should take there.
SMALL_COST = 0.01
# Where curvature costs half of the gain a prediction has most to be wrong about: this slope is the claim's own.
SLOPE_COSTS = ("0.5", "0.1", "0.01")


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
    ratios = e.per_seed(NAME, "theorem_ratio", space="full")
    figures = list(_quantities(e, "theorem_ratio", space="full"))
    if not figures:
        return None
    draws = sorted({int(q.labels["draws"]) for q in figures if "draws" in q.labels})
    cost = float(figures[0].labels["cost"])  # of the step at which the ratio was measured
    errors = [q.stderr for q in figures if q.stderr is not None]
    return Measured(
        over_seeds(ratios.values()),
        null=mean_or_none(e.nulls(NAME, "theorem_ratio", space="full")),
        setting=f"N = {n}",
        undecided=why_missing(figures) if len(ratios) < len(figures) else None,
        details={
            "draws": draws,
            "standard_error_within_a_seed": mean_or_none(errors),
            "linear_by_space": _by_space(e, "ratio_linear", SMALL_COST, n),
            "second_order_by_space_at_half_best_sigma": _by_space(e, "ratio_second_order", cost, n),
            "departure_sigma_by_space": _departures(e, n),
        },
    )


BEST_OF_N_THEOREM = ClaimRule(
    id="best_of_n_theorem",
    title="The best of N random steps gains what the theorem predicts",
    holds="Measured and predicted gain agree within 10 % where curvature should cost 25 % of it.",
    fails="Measured and predicted gain differ by more than 10 %.",
    definition="measured / second-order best-of-N gain in the whole space, where curvature should cost 25 %, "
    "without control variate",
    requirements=(Requirement("measured over predicted gain", Bounds(above=0.9, below=1.1)),),
    measure=_measure_theorem,
    measurement=NAME,
    unit="ratio",
)


def _slope_at(cost: str) -> Callable[[Evidence], Interval]:
    return lambda e: over_seeds(e.per_seed(NAME, "dimension_slope", costs=cost).values())


def _measure_slope(e: Evidence) -> Measured | None:
    hardest, *easier = SLOPE_COSTS
    slopes = e.per_seed(NAME, "dimension_slope", costs=hardest)
    if not slopes:
        return None
    by_cost = {cost: interval_body(_slope_at(cost)(e)) for cost in ("all", *easier)}
    return Measured(
        over_seeds(slopes.values()),
        null=mean_or_none(e.nulls(NAME, "dimension_slope", costs=hardest)),
        details={"slope_by_cost": {cost: body for cost, body in by_cost.items() if body}},
    )


def _slope_requirements() -> Iterator[Requirement]:
    for cost in SLOPE_COSTS:
        name, of = f"slope at a cost of {float(cost):.0%}", None if cost == SLOPE_COSTS[0] else _slope_at(cost)
        yield Requirement(name, Bounds(above=-0.05, below=0.05), of)
        yield Requirement(name, Bounds(contains=0.0), of)


DIMENSION_FREE = ClaimRule(
    id="dimension_free",
    title="The gain of random search does not depend on the number of parameters",
    holds="The ratio of measured to predicted gain does not change with the number of parameters.",
    fails="The ratio of measured to predicted gain changes with the number of parameters.",
    definition="slope of log(measured / second order) on log n_params, over adapter ranks and widths, where curvature "
    "should cost 50 %",
    requirements=tuple(_slope_requirements()),
    measure=_measure_slope,
    measurement=NAME,
    unit="per log parameter",
)


def _correlations(e: Evidence) -> dict[int, Quantity]:
    """Return seed -> rank correlation over informed subspaces, also where it has no value."""
    first = {s: next(r.select("density_rank_correlation", subspaces="informed"), None) for s, r in e.of(NAME).items()}
    return {seed: quantity for seed, quantity in first.items() if quantity is not None}


def _lead_over_other_tasks(e: Evidence) -> Interval:
    """Return the correlation minus the one that other tasks' gradients predict, paired by seed."""
    pairs = [(q.value, q.null) for q in _correlations(e).values()]
    return over_seeds([value - null for value, null in pairs if value is not None and null is not None])


def _measure_density(e: Evidence) -> Measured | None:
    correlations = e.per_seed(NAME, "density_rank_correlation", subspaces="informed")
    if not correlations:
        return None
    with_random = e.per_seed(NAME, "density_rank_correlation", subspaces="with random")
    alone = all(q.labels.get("other_tasks") == 0 for q in _correlations(e).values())
    return Measured(
        clipped(over_seeds(correlations.values()), -1.0, 1.0),
        null=mean_or_none(e.nulls(NAME, "density_rank_correlation", subspaces="informed")),
        undecided="one task: there is no other task's gradient to compare with" if alone else None,
        details={
            "with_random": mean_or_none(with_random.values()),
            "minus_other_tasks": interval_body(_lead_over_other_tasks(e)),
        },
    )


SIGNAL_DENSITY = ClaimRule(
    id="signal_density",
    title="The gradient inside a subspace tells whether it is worth searching",
    holds="Subspaces with the larger predicted gain are those with the larger measured gain.",
    fails="The predicted gain does not rank the subspaces as the measured gain does, or no better than another "
    "task's gradient.",
    definition="Spearman correlation over informed subspaces of predicted with measured gain, each at its own best or "
    "probed sigma",
    requirements=(
        Requirement("rank correlation", Bounds(above=0.5)),
        Requirement("rank correlation minus other tasks'", Bounds(above=0.0), _lead_over_other_tasks),
    ),
    measure=_measure_density,
    measurement=NAME,
    unit="rank correlation",
    at_rank=True,
)
