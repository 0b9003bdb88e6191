"""Claims about how long directions last, from the records of `basis_drift`."""

from __future__ import annotations

from lineament.claims.evidence import Evidence, mean_or_none, paired_by_seed
from lineament.claims.intervals import over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label

NAME = "basis_drift"
FROM_DAMAGED: dict[str, Label] = {"from": "broken"}


def _measure_drift(e: Evidence) -> Measured | None:
    overlaps = e.per_seed(NAME, "overlap_at_claim_lag", **FROM_DAMAGED)
    if not overlaps:
        return None
    half_lives = e.per_seed(NAME, "half_life", **FROM_DAMAGED)
    return Measured(
        # Not on logit values: noise may put a rescaled overlap above 1.
        over_seeds(overlaps.values()),
        null=mean_or_none(e.nulls(NAME, "overlap_at_claim_lag", **FROM_DAMAGED)),
        details={"half_life_steps": {str(seed): steps for seed, steps in half_lives.items()}},
    )


BASIS_DRIFTS = ClaimRule(
    id="basis_drifts",
    title="The plane of gradients goes stale during the recovery",
    holds="Before the recovery ends, less than half of the plane is left: a projection must be refreshed.",
    fails="At least half of the plane is still there: it stays useful over the recovery.",
    definition="rescaled overlap with the plane at theta_broken at lag min(100, T / 2)",
    requirements=(Requirement("share of the plane that is left", Bounds(below=0.5)),),
    measure=_measure_drift,
)


def _measure_drift_rates(e: Evidence) -> Measured | None:
    before, after = (e.per_seed(NAME, "drift_rate", phase=phase) for phase in ("before", "after"))
    difference = paired_by_seed(before, after)
    if not difference.n_seeds:
        return None
    details = {"before": mean_or_none(before.values()), "after": mean_or_none(after.values())}
    return Measured(difference, null=0.0, details=details)


DRIFT_FOLLOWS_LOSS = ClaimRule(
    id="drift_follows_loss",
    title="The plane drifts fastest while the loss falls",
    holds="The plane turns faster before 90 % of the loss is recovered than after.",
    fails="The plane turns as fast after 90 % of the loss is recovered as before.",
    definition="drift rate before minus after 90 % of the loss is recovered",
    requirements=(Requirement("drift rate before minus after", Bounds(above=0.0)),),
    measure=_measure_drift_rates,
    unit="per step",
)
