"""Claims about weight steps and steering vectors, from the records of `steering`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lineament.claims.evidence import Evidence, mean_or_none
from lineament.claims.intervals import Interval, clipped, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.steering_details import best_cosines, best_ratios, effect_details, kl_budget, match_details
from lineament.claims.verdict import Bounds
from lineament.records import Quantity


def _defined(quantities: Mapping[int, Quantity]) -> dict[int, float]:
    return {seed: q.value for seed, q in quantities.items() if q.value is not None}


def _why_dropped(quantities: Mapping[int, Quantity], dropped: Iterable[int]) -> str:
    """Say which seeds have no value, by reason."""
    seeds: dict[str, list[str]] = {}
    for seed in dropped:
        seeds.setdefault((quantities[seed].reason or "undefined").rstrip("."), []).append(str(seed))
    return "; ".join(f"no figure in seed {', '.join(which)}: {why}" for why, which in seeds.items())


def _lead_over_nulls(e: Evidence) -> Interval:
    """Return the cosine minus the largest null draw's: mean, and as ends the least and the largest over seeds.

    The rule asks for every seed, so these ends, and not an interval of the mean, are what must lie above 0.
    """
    defined = [q for q in best_cosines(e).values() if q.value is not None]
    leads = [q.value - q.null for q in defined if q.value is not None and q.null is not None]
    if not leads or len(leads) < len(defined):
        return over_seeds([])
    return Interval(sum(leads) / len(leads), min(leads), max(leads), len(leads), level=1.0)


def _measure_match(e: Evidence) -> Measured | None:
    cosines = best_cosines(e)
    if not cosines:
        return None
    defined = _defined(cosines)
    dropped = [seed for seed in cosines if seed not in defined]
    nulls = (cosines[seed].null for seed in defined)
    return Measured(
        clipped(over_seeds(defined.values()), -1.0, 1.0),
        null=mean_or_none(null for null in nulls if null is not None),
        undecided=_why_dropped(cosines, dropped) if dropped and len(defined) < 2 else None,
        details={
            **match_details(e),
            "minus_largest_null": interval_body(_lead_over_nulls(e)),
            "dropped_seeds": dropped,
        },
    )


STEP_MATCHES_CAA = ClaimRule(
    id="step_matches_caa",
    title="One gradient step moves activations along the steering vector",
    holds="The step's activation shift points along the contrast vector, beyond weight noise, steps on shuffled labels "
    "and steps towards the same label on other tasks' prompts.",
    fails="The step's activation shift is not close to the contrast vector, or weight noise, steps on shuffled labels "
    "or steps towards the same label on other tasks' prompts are as close.",
    definition="signed cosine of one gradient step's activation shift (Jacobian) with the CAA vector, "
    "at the best layer of each seed",
    requirements=(
        Requirement("cosine minus the largest null draw's (seed by seed)", Bounds(above=0.0), _lead_over_nulls),
        Requirement("cosine", Bounds(above=0.3)),
    ),
    measure=_measure_match,
    unit="cosine",
    # Between activations, whatever weights moved: it stands beside runs on adapters and on all weights.
    paper=0.58,
)


def _lead_over_random(e: Evidence) -> Interval:
    """Return the step's effect ratio minus the mean size of random directions', paired by seed."""
    ratios = [q for q in best_ratios(e, kl_budget(e)).values() if q.value is not None]
    leads = [q.value - q.null for q in ratios if q.value is not None and q.null is not None]
    return over_seeds(leads if len(leads) == len(ratios) else [])


def _measure_effect(e: Evidence) -> Measured | None:
    kl = kl_budget(e)
    ratios, no_reference = best_ratios(e, kl), {s: q for s, q in best_cosines(e).items() if q.value is None}
    if not ratios and not no_reference:
        return None
    asked = dict(sorted({**ratios, **no_reference}.items()))
    defined = {seed: value for seed, value in _defined(ratios).items() if seed not in no_reference}
    dropped = [seed for seed in asked if seed not in defined]
    # Where a vector cannot reach the budget its effect is unknown: to leave such seeds out is to select on the result.
    unreached = [seed for seed in dropped if seed not in no_reference]
    nulls = (ratios[seed].null for seed in defined)
    return Measured(
        over_seeds(defined.values()),
        null=mean_or_none(null for null in nulls if null is not None),
        setting=None if kl is None else f"KL = {kl:g} nats per token",
        undecided=_why_dropped(asked, dropped) if unreached or (dropped and len(defined) < 2) else None,
        details={
            **effect_details(e, {seed: ratios[seed] for seed in defined}, kl),
            "minus_random": interval_body(_lead_over_random(e)),
            "dropped_seeds": dropped,
        },
    )


STEP_STEERS = ClaimRule(
    id="step_steers",
    title="The step's shift steers like the steering vector",
    holds="At equal disturbance of neutral text, the step's shift has at least half of the vector's effect, and more "
    "than shifts by weight noise.",
    fails="At equal disturbance of neutral text, the step's shift has less than half of the vector's effect, or no "
    "more than shifts by weight noise.",
    definition="change of logit difference by the step's shift / by the CAA vector, at equal KL on neutral text, "
    "at each seed's best layer",
    requirements=(
        Requirement("share of the CAA vector's effect", Bounds(above=0.5)),
        Requirement("that share minus weight noise's", Bounds(above=0.0), _lead_over_random),
    ),
    measure=_measure_effect,
    unit="ratio",
)
