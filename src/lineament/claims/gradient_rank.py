"""The claim about how many directions gradients use, from the records of `gradient_rank`."""

from __future__ import annotations

from lineament.claims.evidence import Evidence, mean_or_none, paired_by_seed
from lineament.claims.intervals import Interval, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label

NAME = "gradient_rank"
WHERE: dict[str, Label] = {"point": "broken", "gradients": "minibatch", "unit_norm": "False"}
LABELS: dict[str, Label] = {**WHERE, "centred": "False"}


def _largest_sample(e: Evidence) -> int:
    """Return the largest number of gradients that a share was taken of; only that one is judged."""
    shares = (q for record in e.of(NAME).values() for q in record.select("k90_share", **LABELS))
    return max((int(q.labels["n"]) for q in shares), default=0)


def _shares(e: Evidence, labels: str, centred: str = "False") -> dict[int, float]:
    return e.per_seed(NAME, "k90_share", labels=labels, n=_largest_sample(e), centred=centred, **WHERE)


def _centred_minus_shuffled(e: Evidence) -> Interval:
    """Return the difference of centred shares: uncentred ones mostly measure the mean gradient."""
    return paired_by_seed(_shares(e, "true", "True"), _shares(e, "shuffled", "True"))


def _measure_low_rank(e: Evidence) -> Measured | None:
    shares, n = _shares(e, "true"), _largest_sample(e)
    if not shares:
        return None
    return Measured(
        over_seeds(shares.values(), fraction=True),
        null=mean_or_none(_shares(e, "shuffled").values()),
        setting=f"n = {n}",
        details={"n": n, "centred_minus_shuffled": interval_body(_centred_minus_shuffled(e))},
    )


GRADIENT_LOW_RANK = ClaimRule(
    id="gradient_low_rank",
    title="The task's gradients lie in few directions",
    holds="Few directions hold 90 % of the gradients' energy, fewer than when the labels are shuffled.",
    fails="The gradients need many directions, or no fewer than gradients for shuffled labels do.",
    measurement=NAME,
    definition="k90 / n of uncentred minibatch gradients at theta_broken",
    requirements=(
        Requirement("share of directions k90 / n", Bounds(below=0.5)),
        Requirement("centred share minus the one for shuffled labels", Bounds(below=0.0), _centred_minus_shuffled),
    ),
    measure=_measure_low_rank,
)
