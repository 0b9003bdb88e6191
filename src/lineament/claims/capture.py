"""Claims about where the recovery lies, from the records of `basis_capture`.

Captures are whole, at T and at the headline rank unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lineament.claims.capture_details import capture_details, rank_correlation
from lineament.claims.evidence import WHOLE, Evidence, mean_or_none, paired_by_seed, why_not_divided
from lineament.claims.intervals import Interval, clipped, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label, Quantity

NAME = "basis_capture"
OTHER_DATA = "control_other_data"
# The paper's captures (arXiv 2606.10929) were measured on LoRA factors and stand beside no other space.
PAPER_SPACE = "lora_factors"


def _measure_static(e: Evidence) -> Measured | None:
    best = e.best_static()
    if not best:
        return None
    which = {str(seed): {"basis": static.basis, "rank": static.rank} for seed, static in e.statics().items()}
    return Measured(
        over_seeds(best.values(), fraction=True),
        null=mean_or_none(e.capture("null_other_task").values()),
        details={**capture_details(e), "best_static": which},
    )


STATIC_PLANE_MISSES = ClaimRule(
    id="static_plane_misses",
    title="A plane fixed beforehand misses most of the recovery",
    holds="Even the best plane fixed beforehand holds less than half of the recovery.",
    fails="The best plane fixed beforehand holds half of the recovery or more.",
    definition="whole capture by the best static basis of each seed",
    requirements=(Requirement("capture by the best fixed plane", Bounds(below=0.5)),),
    measure=_measure_static,
    measurement=NAME,
    needs_lost_task=True,
    paper=0.15,
    paper_space=PAPER_SPACE,
    at_rank=True,
)


def _prefix_over_blind(e: Evidence) -> Interval:
    """Return the prefix's capture minus that of a blind run: the prefix holds its own noise."""
    return paired_by_seed(e.capture("prefix"), _blind_prefix(e))


def _blind_prefix(e: Evidence) -> dict[int, float]:
    return e.blinds(NAME, "capture", **WHOLE, basis="prefix", rank=e.rank)


def _other_over_static(e: Evidence) -> Interval:
    return paired_by_seed(e.capture(OTHER_DATA), e.best_static())


def _other_over_mean_free(e: Evidence) -> Interval:
    return paired_by_seed(e.capture(OTHER_DATA), e.capture("null_mean_free_prefix"))


def _measure_prefix(e: Evidence) -> Measured | None:
    prefix = e.capture("prefix")
    if not prefix:
        return None
    rest = {kind: e.capture("prefix", definition=kind) for kind in ("rest", "rest_gap")}
    shuffled = paired_by_seed(e.capture(OTHER_DATA), e.capture("null_noise_prefix"))
    return Measured(
        over_seeds(prefix.values(), fraction=True),
        null=mean_or_none(e.capture("null_mean_free_prefix").values()),
        blind=mean_or_none(_blind_prefix(e).values()),
        details={
            **capture_details(e),
            "rest_interval": interval_body(over_seeds(rest["rest"].values(), fraction=True)),
            "rest_gap_interval": interval_body(over_seeds(rest["rest_gap"].values(), fraction=True)),
            "other_data_minus_shuffled_labels": interval_body(shuffled),
        },
    )


PREFIX_CAPTURES = ClaimRule(
    id="prefix_captures",
    title="The first updates hold more of the recovery than a blind run's, and than any fixed plane",
    holds="The first updates hold more of the recovery than a blind run's would. Those of a recovery on other data "
    "hold more than any plane fixed beforehand, and than updates without the task's mean gradient.",
    fails="The first updates hold no more than a blind run's, or those of another run no more than a fixed plane.",
    definition="whole capture by the prefix",
    requirements=(
        Requirement("first updates minus a blind run's", Bounds(above=0.0), _prefix_over_blind),
        Requirement("another run's first updates minus best fixed plane", Bounds(above=0.0), _other_over_static),
        Requirement("another run's first updates minus mean-free ones", Bounds(above=0.0), _other_over_mean_free),
    ),
    measure=_measure_prefix,
    measurement=NAME,
    needs_lost_task=True,
    paper=0.77,
    paper_space=PAPER_SPACE,
    at_rank=True,
)


def _measure_blindness(e: Evidence) -> Measured | None:
    difference = _prefix_over_blind(e)
    if not difference.n_seeds:
        return None
    own, blind = e.capture("prefix"), _blind_prefix(e)
    details = {"prefix": mean_or_none(own.values()), "blind": mean_or_none(blind.values())}
    return Measured(difference, blind=0.0, details=details)


PAPER_FIGURE_IS_BLIND = ClaimRule(
    id="paper_figure_is_blind",
    title="The first updates hold what a blind run's hold",
    holds="The capture by the first updates is that of an optimizer whose gradients know nothing: it says nothing "
    "about the task.",
    fails="The capture by the first updates is not that of an optimizer whose gradients know nothing.",
    definition="whole capture by the prefix minus that of a blind run at the same T",
    requirements=(Requirement("first updates minus a blind run's", Bounds(above=-0.05, below=0.05)),),
    measure=_measure_blindness,
    measurement=NAME,
    needs_lost_task=True,
    at_rank=True,
)


def _krylov(e: Evidence, basis: str, part: Callable[[Quantity], float | None]) -> dict[int, float]:
    """Return seed -> a part of the Krylov overlap over its ceiling, the overlap of two other runs' prefixes."""
    shares = {}
    for seed, record in e.of(NAME).items():
        for q in record.select("krylov_prefix_overlap", basis=basis, rank=e.rank):
            value = part(q)
            if value is not None and q.ceiling:
                shares[seed] = value / q.ceiling
    return shares


def _why_no_krylov_ceiling(e: Evidence) -> str | None:
    """Say why there is no share of the ceiling: two other runs' prefixes share no more than two random planes."""
    room = [
        q.ceiling - e.rank / record.n_params
        for record in e.of(NAME).values()
        for q in record.select("krylov_prefix_overlap", basis="krylov_preconditioned", rank=e.rank)
        if q.ceiling is not None
    ]
    return why_not_divided(room, "the ceiling above two random planes")


def _krylov_over_null(e: Evidence) -> Interval:
    own, null = (_krylov(e, "krylov_preconditioned", part) for part in (_value, _null))
    return paired_by_seed(own, null)


def _value(quantity: Quantity) -> float | None:
    return quantity.value


def _null(quantity: Quantity) -> float | None:
    return quantity.null


def _measure_krylov(e: Evidence) -> Measured | None:
    shares = _krylov(e, "krylov_preconditioned", _value)
    if not shares:
        return None
    labels: dict[str, Label] = {"basis": "krylov_preconditioned", "rank": e.rank}
    overlap = mean_or_none(e.per_seed(NAME, "krylov_prefix_overlap", **labels).values())
    if reason := _why_no_krylov_ceiling(e):
        return Measured(over_seeds([]), undecided=reason, details={"overlap": overlap})
    return Measured(
        # Not on logit values: an overlap may exceed its estimated ceiling.
        over_seeds(shares.values()),
        null=mean_or_none(_krylov(e, "krylov_preconditioned", _null).values()),
        ceiling=1.0,
        details={
            "overlap": overlap,
            "raw_metric": mean_or_none(_krylov(e, "krylov", _value).values()),
            "capture": mean_or_none(e.capture("krylov_preconditioned").values()),
        },
    )


KRYLOV_PREFIX = ClaimRule(
    id="krylov_prefix",
    title="The first updates span the Krylov space of the damaged point",
    holds="Curvature and gradient at the damaged point predict most of what two runs' first updates share.",
    fails="Curvature and gradient at the damaged point do not predict the first updates' span.",
    definition="overlap of K_k(P^-1 H, P^-1 g) with the prefix, over that of two other runs' prefixes",
    requirements=(
        Requirement("overlap over its ceiling", Bounds(above=0.5)),
        Requirement("that share minus the noise prefix's", Bounds(above=0.0), _krylov_over_null),
    ),
    measure=_measure_krylov,
    measurement=NAME,
    needs_lost_task=True,
    at_rank=True,
)


def _window_excess(e: Evidence) -> tuple[dict[int, float], dict[int, float]]:
    """Return seed -> excess over blind of the first window of updates, and its mean over the later windows."""
    first, later = {}, {}
    for seed, record in e.of(NAME).items():
        windows = list(record.select("window_capture", definition="whole", at="T", rank=e.rank))
        excesses = {int(q.labels["from_step"]): q.excess for q in windows if q.excess is not None}
        if 1 in excesses and len(excesses) > 1:
            first[seed] = excesses.pop(1)
            later[seed] = float(np.mean(list(excesses.values())))
    return first, later


def _measure_privilege(e: Evidence) -> Measured | None:
    first, later = _window_excess(e)
    if not first:
        return None
    return Measured(
        paired_by_seed(first, later),
        blind=0.0,
        details={"first": mean_or_none(first.values()), "later": mean_or_none(later.values())},
    )


PREFIX_IS_PRIVILEGED = ClaimRule(
    id="prefix_is_privileged",
    title="The first updates are better than later ones",
    holds="What comes first matters: as many successive updates from later on hold less beyond a blind run.",
    fails="As many successive updates from later on hold as much beyond a blind run: coming first is nothing special.",
    definition="excess over blind of whole capture by the first window of updates, minus the mean of the later windows",
    requirements=(Requirement("first window's excess minus the later windows'", Bounds(above=0.0)),),
    measure=_measure_privilege,
    measurement=NAME,
    needs_lost_task=True,
    at_rank=True,
)


def _metric_over_shuffled(e: Evidence) -> Interval:
    return paired_by_seed(e.capture("control_preconditioned"), e.capture("null_preconditioned_shuffled"))


def _measure_metric_share(e: Evidence) -> Measured | None:
    other, static, preconditioned = e.capture(OTHER_DATA), e.best_static(), e.capture("control_preconditioned")
    seeds = [seed for seed in other if seed in static and seed in preconditioned]
    if not seeds:
        return None
    # Without a gap there is no share of it. To leave such seeds out is to select on the result, so nothing is decided.
    dropped = [seed for seed in seeds if other[seed] <= static[seed]]
    gaps = {seed: other[seed] - static[seed] for seed in seeds if seed not in dropped}
    shuffled = e.capture("null_preconditioned_shuffled")
    reason = f"no gap to explain in seed {', '.join(map(str, dropped))}: the best static basis holds no less"
    if untold := why_not_divided(gaps.values(), "the gap"):
        return Measured(over_seeds([]), undecided=reason if dropped else untold, details={"dropped_seeds": dropped})
    return Measured(
        over_seeds((preconditioned[seed] - static[seed]) / gap for seed, gap in gaps.items()),
        null=mean_or_none((shuffled[seed] - static[seed]) / gap for seed, gap in gaps.items() if seed in shuffled),
        undecided=reason if dropped else None,
        details={"dropped_seeds": dropped, "minus_shuffled_plane": interval_body(_metric_over_shuffled(e))},
    )


STATIC_GAP_IS_METRIC = ClaimRule(
    id="static_gap_is_metric",
    title="Fixed planes miss the recovery because they ignore the optimizer's metric",
    holds="Rescaling the fixed plane as the optimizer does closes more than a quarter of the gap, and more than the "
    "same rescaling of a plane of shuffled labels.",
    fails="Rescaling the fixed plane as the optimizer does closes little of the gap, or no more than shuffled labels.",
    definition="(preconditioned - best static) / (another run's prefix - best static), whole",
    requirements=(
        Requirement("closed share of the gap", Bounds(above=0.25)),
        Requirement("rescaled plane minus that of shuffled labels", Bounds(above=0.0), _metric_over_shuffled),
    ),
    measure=_measure_metric_share,
    measurement=NAME,
    needs_lost_task=True,
    at_rank=True,
)


def _measure_prediction(e: Evidence) -> Measured | None:
    correlations = [rank_correlation(record, e.rank) for record in e.of(NAME).values()]
    defined = [correlation for correlation in correlations if correlation is not None]
    return Measured(clipped(over_seeds(defined), -1.0, 1.0)) if defined else None


CAPTURE_PREDICTS_RECOVERY = ClaimRule(
    id="capture_predicts_recovery",
    title="A subspace that captures more also recovers more",
    holds="Ranking subspaces by capture ranks them by what training inside them recovers.",
    fails="Capture does not tell what training inside a subspace recovers.",
    definition="Spearman correlation over bases: whole capture with minus the held-out loss after training inside",
    requirements=(Requirement("rank correlation", Bounds(above=0.5)),),
    measure=_measure_prediction,
    needs_lost_task=True,
    unit="rank correlation",
    at_rank=True,
)
