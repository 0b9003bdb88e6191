"""All claims, and from records over seeds to verdicts.

To add a claim, write its rule in the file of its family and add one line to `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lineament.claims.capture import (
    CAPTURE_PREDICTS_RECOVERY,
    KRYLOV_PREFIX,
    PAPER_FIGURE_IS_BLIND,
    PREFIX_CAPTURES,
    PREFIX_IS_PRIVILEGED,
    STATIC_GAP_IS_METRIC,
    STATIC_PLANE_MISSES,
)
from lineament.claims.drift import BASIS_DRIFTS, DRIFT_FOLLOWS_LOSS
from lineament.claims.evidence import Evidence
from lineament.claims.gradient_rank import GRADIENT_LOW_RANK
from lineament.claims.local_geometry import (
    ACTIVATIONS_ADD,
    GRADIENT_PLANE_ROTATES,
    LOSSES_ADD,
    NO_UNIVERSAL_PAIR_RADIUS,
    ONE_DIRECTION_WINDOW,
    ORDER_DEFECT_PREDICTED,
    ORDER_MATTERS_INSIDE_WINDOW,
    PROBE_PREDICTABLE,
    WEIGHTS_MEET_STEERING,
)
from lineament.claims.random_search import BEST_OF_N_THEOREM, DIMENSION_FREE, SIGNAL_DENSITY
from lineament.claims.rule import ClaimRule
from lineament.claims.steering import STEP_MATCHES_CAA, STEP_STEERS
from lineament.claims.verdict import Claim
from lineament.records import Record

# Claims are listed in this order wherever they are shown.
CLAIMS: dict[str, ClaimRule] = {
    rule.id: rule
    for rule in (
        GRADIENT_LOW_RANK,
        STATIC_PLANE_MISSES,
        PREFIX_CAPTURES,
        PAPER_FIGURE_IS_BLIND,
        BASIS_DRIFTS,
        KRYLOV_PREFIX,
        BEST_OF_N_THEOREM,
        DIMENSION_FREE,
        SIGNAL_DENSITY,
        STEP_MATCHES_CAA,
        STEP_STEERS,
        PREFIX_IS_PRIVILEGED,
        STATIC_GAP_IS_METRIC,
        CAPTURE_PREDICTS_RECOVERY,
        DRIFT_FOLLOWS_LOSS,
        ONE_DIRECTION_WINDOW,
        PROBE_PREDICTABLE,
        LOSSES_ADD,
        NO_UNIVERSAL_PAIR_RADIUS,
        ORDER_DEFECT_PREDICTED,
        ORDER_MATTERS_INSIDE_WINDOW,
        GRADIENT_PLANE_ROTATES,
        ACTIVATIONS_ADD,
        WEIGHTS_MEET_STEERING,
    )
}


def evaluate_claims(records: Iterable[Record], rank: int) -> list[Claim]:
    """Return every claim that the records allow, for every target; a claim not measured is absent.

    Args:
        rank: the headline rank.
    """
    by_target: dict[str, dict[tuple[str, int], Record]] = {}
    for record in records:
        by_target.setdefault(record.target, {})[record.measurement, record.seed] = record
    evidence = [Evidence(task, rank, own) for task, own in by_target.items()]
    claims = [rule.judge(e) for e in evidence for rule in CLAIMS.values()]
    return [claim for claim in claims if claim is not None]
