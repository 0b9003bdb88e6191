"""Claims about where the recovery lies, from the records of `basis_capture`.

Captures are whole, at T and at the headline rank unless said otherwise.
"""

from __future__ import annotations

from lineament.claims.capture_details import capture_details, rank_correlation
from lineament.claims.evidence import Evidence, mean_or_none, paired_by_seed
from lineament.claims.intervals import Interval, clipped, interval_body, over_seeds
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label

NAME = "basis_capture"
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
    paper=0.15,
    paper_space=PAPER_SPACE,
    at_rank=True,
)


def _over_static(e: Evidence) -> Interval:
    return paired_by_seed(e.capture("prefix"), e.best_static())


def _over_noise(e: Evidence) -> Interval:
    return paired_by_seed(e.capture("prefix"), e.capture("null_noise_prefix"))


def _measure_prefix(e: Evidence) -> Measured | None:
    prefix = e.capture("prefix")
    if not prefix:
        return None
    rest = over_seeds(e.capture("prefix", definition="rest").values(), fraction=True)
    return Measured(
        over_seeds(prefix.values(), fraction=True),
        null=mean_or_none(e.capture("null_noise_prefix").values()),
        details={
            **capture_details(e),
            "rest_interval": interval_body(rest),
            "minus_best_static": interval_body(_over_static(e)),
            "minus_noise_prefix": interval_body(_over_noise(e)),
            "share_of_steps": mean_or_none(e.per_seed(NAME, "prefix_share_of_steps", rank=e.rank).values()),
        },
    )


PREFIX_CAPTURES = ClaimRule(
    id="prefix_captures",
    title="The first updates hold more of the recovery than any fixed plane",
    holds="The span of the first updates holds more of the recovery than fixed planes and than updates on noise.",
    fails="The span of the first updates is no better than the best fixed plane or than updates on noise.",
    definition="whole capture by the prefix",
    requirements=(
        Requirement("first updates minus best fixed plane", Bounds(above=0.0), _over_static),
        Requirement("first updates minus updates on shuffled labels", Bounds(above=0.0), _over_noise),
    ),
    measure=_measure_prefix,
    paper=0.77,
    paper_space=PAPER_SPACE,
    at_rank=True,
)


def _measure_krylov(e: Evidence) -> Measured | None:
    labels: dict[str, Label] = {"basis": "krylov_preconditioned", "rank": e.rank}
    overlaps = e.per_seed(NAME, "krylov_prefix_overlap", **labels)
    if not overlaps:
        return None
    raw = e.per_seed(NAME, "krylov_prefix_overlap", basis="krylov", rank=e.rank)
    return Measured(
        over_seeds(overlaps.values(), fraction=True),
        null=mean_or_none(e.nulls(NAME, "krylov_prefix_overlap", **labels)),
        details={"raw_metric": mean_or_none(raw.values())},
    )


KRYLOV_PREFIX = ClaimRule(
    id="krylov_prefix",
    title="The first updates span the Krylov space of the damaged point",
    holds="Curvature and gradient at the damaged point predict most of the first updates' span.",
    fails="Curvature and gradient at the damaged point do not predict the first updates' span.",
    definition="overlap of K_k(P^-1 H, P^-1 g) with the prefix",
    requirements=(Requirement("overlap", Bounds(above=0.5)),),
    measure=_measure_krylov,
    at_rank=True,
)


def _over_random_times(e: Evidence, definition: str) -> Interval:
    bases = ("prefix", "control_random_times")
    return paired_by_seed(*(e.capture(basis, definition=definition) for basis in bases))


def _whole_over_random_times(e: Evidence) -> Interval:
    return _over_random_times(e, "whole")


def _rest_over_random_times(e: Evidence) -> Interval:
    return _over_random_times(e, "rest")


def _measure_privilege(e: Evidence) -> Measured | None:
    whole, rest = _whole_over_random_times(e), _rest_over_random_times(e)
    if not whole.n_seeds or not rest.n_seeds:
        return None
    noise = paired_by_seed(e.capture("null_noise_prefix"), e.capture("control_random_times"))
    return Measured(
        whole,
        null=noise.mean if noise.n_seeds else None,
        details={"whole": interval_body(whole), "rest": interval_body(rest)},
    )


PREFIX_IS_PRIVILEGED = ClaimRule(
    id="prefix_is_privileged",
    title="The first updates are better than updates at random times",
    holds="What comes first matters: as many updates from random times hold less of the recovery.",
    fails="As many updates from random times hold as much of the recovery: coming first is nothing special.",
    definition="whole capture by the prefix minus that by as many updates at random times",
    requirements=(
        Requirement("first updates minus random times (whole)", Bounds(above=0.0), _whole_over_random_times),
        Requirement("first updates minus random times (rest)", Bounds(above=0.0), _rest_over_random_times),
    ),
    measure=_measure_privilege,
    at_rank=True,
)


def _measure_metric_share(e: Evidence) -> Measured | None:
    prefix, static, preconditioned = e.capture("prefix"), e.best_static(), e.capture("control_preconditioned")
    seeds = [seed for seed in prefix if seed in static and seed in preconditioned]
    if not seeds:
        return None
    # Without a gap there is no share of it. To leave such seeds out is to select on the result, so nothing is decided.
    dropped = [seed for seed in seeds if prefix[seed] <= static[seed]]
    gaps = {seed: prefix[seed] - static[seed] for seed in seeds if seed not in dropped}
    noise = e.capture("null_noise_prefix")
    reason = f"no gap to explain in seed {', '.join(map(str, dropped))}: the best static basis holds no less"
    return Measured(
        over_seeds((preconditioned[seed] - static[seed]) / gap for seed, gap in gaps.items()),
        null=mean_or_none((noise[seed] - static[seed]) / gap for seed, gap in gaps.items() if seed in noise),
        undecided=reason if dropped else None,
        details={"dropped_seeds": dropped},
    )


STATIC_GAP_IS_METRIC = ClaimRule(
    id="static_gap_is_metric",
    title="Fixed planes miss the recovery because they ignore the optimizer's metric",
    holds="Rescaling the fixed plane as the optimizer does closes more than a quarter of the gap.",
    fails="Rescaling the fixed plane as the optimizer does closes little of the gap.",
    definition="(preconditioned - best static) / (prefix - best static), whole",
    requirements=(Requirement("closed share of the gap", Bounds(above=0.25)),),
    measure=_measure_metric_share,
    at_rank=True,
)


def _measure_prediction(e: Evidence) -> Measured | None:
    correlations = [rank_correlation(record, e.rank) for record in e.of(NAME).values()]
    defined = [correlation for correlation in correlations if correlation is not None]
    return Measured(clipped(over_seeds(defined), -1.0, 1.0), null=0.0) if defined else None


CAPTURE_PREDICTS_RECOVERY = ClaimRule(
    id="capture_predicts_recovery",
    title="A subspace that captures more also recovers more",
    holds="Ranking subspaces by capture ranks them by what training inside them recovers.",
    fails="Capture does not tell what training inside a subspace recovers.",
    definition="Spearman correlation over bases: whole capture with minus the held-out loss after training inside",
    requirements=(Requirement("rank correlation", Bounds(above=0.5)),),
    measure=_measure_prediction,
    unit="rank correlation",
    at_rank=True,
)
