"""Claims about how long directions last, from the records of `basis_drift`."""

from __future__ import annotations

from lineament.claims.evidence import Evidence, mean_or_none, paired_by_seed
from lineament.claims.intervals import interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label

NAME = "basis_drift"
FROM_DAMAGED: dict[str, Label] = {"from": "broken"}


def _measure_drift(e: Evidence) -> Measured | None:
    kept = e.per_seed(NAME, "retention_at_claim_lags", **FROM_DAMAGED)
    if not any(q for record in e.of(NAME).values() for q in record.select("retention_at_claim_lags", **FROM_DAMAGED)):
        return None
    overlaps = e.per_seed(NAME, "overlap_at_claim_lags", **FROM_DAMAGED)
    half_lives = e.per_seed(NAME, "half_life", **FROM_DAMAGED)
    return Measured(
        # Not on logit values: noise may put a share of what a fresh plane holds above 1.
        over_seeds(kept.values()),
        null=mean_or_none(e.nulls(NAME, "retention_at_claim_lags", **FROM_DAMAGED)),
        details={
            "rescaled_overlap": interval_body(over_seeds(overlaps.values())),
            "half_life_steps": {str(seed): steps for seed, steps in half_lives.items()},
        },
    )


BASIS_DRIFTS = ClaimRule(
    id="basis_drifts",
    title="The plane of gradients goes stale during the recovery",
    holds="Before the recovery ends, an old plane holds less than half of what a fresh one holds of the gradients.",
    fails="An old plane still holds at least half of what a fresh one holds: it stays useful over the recovery.",
    definition="energy of fresh gradients inside the plane of theta_broken, over what a fresh plane holds; mean over "
    "lags of T / 4 to T / 2",
    requirements=(Requirement("share of a fresh plane's gradient energy", Bounds(below=0.5)),),
    measure=_measure_drift,
    measurement=NAME,
    needs_lost_task=True,
)


def _measure_drift_rates(e: Evidence) -> Measured | None:
    before, after = (e.per_seed(NAME, "drift_rate", phase=phase) for phase in ("before", "after"))
    difference = paired_by_seed(before, after)
    if not difference.n_seeds:
        return None
    details = {"before": mean_or_none(before.values()), "after": mean_or_none(after.values())}
    return Measured(difference, details=details)


DRIFT_FOLLOWS_LOSS = ClaimRule(
    id="drift_follows_loss",
    title="The plane drifts fastest while the loss falls",
    holds="The plane turns faster before 90 % of the loss is recovered than after.",
    fails="The plane turns as fast after 90 % of the loss is recovered as before.",
    definition="drift rate before minus after 90 % of the loss is recovered",
    requirements=(Requirement("drift rate before minus after", Bounds(above=0.0)),),
    measure=_measure_drift_rates,
    measurement=NAME,
    needs_lost_task=True,
    unit="per step",
)
