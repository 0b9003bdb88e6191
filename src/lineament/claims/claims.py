"""Claims: from records over seeds to verdicts, by the rules that the protocol fixed before any result (section 6).

"low" and "high" are interval ends. `supported`: the whole interval satisfies the rule; `not_supported`: the whole
interval violates it; `inconclusive`: it straddles, there are fewer than two seeds, or seeds were left out because of
their result. A claim that does not hold is a finding.
To add a claim, write one function `(Evidence) -> Claim | None` and one line in `CLAIMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from lineament.claims.evidence import Evidence, capture_details, mean_or_none, paired_by_seed, rank_correlation
from lineament.claims.intervals import over_seeds
from lineament.claims.random_search import best_of_n_theorem, dimension_free, signal_density
from lineament.claims.steering import step_matches_caa, step_steers
from lineament.claims.verdict import Claim, above, below, clipped, interval_body, make_claim
from lineament.records import Label, Record, write_json

# Figures of the paper's LoRA study (arXiv 2606.10929); they apply to LoRA runs only.
PAPER_PREFIX, PAPER_STATIC = 0.77, 0.15


def evaluate(records: Iterable[Record], rank: int) -> list[Claim]:
    """Every claim that the records allow, for every target; a claim not measured is absent."""
    by_target: dict[str, dict[tuple[str, int], Record]] = {}
    for record in records:
        by_target.setdefault(record.target, {})[record.measurement, record.seed] = record
    claims = [make(Evidence(task, rank, found)) for task, found in by_target.items() for make in CLAIMS.values()]
    return [claim for claim in claims if claim is not None]


def write_claims(run: Path, records: Sequence[Record], rank: int) -> list[Claim]:
    """Write RUN/claims.json; returns the claims."""
    claims = evaluate(records, rank)
    body = {
        "schema": 1,
        "problem": records[0].problem if records else None,
        "model": records[0].model if records else None,
        "n_seeds": len({record.seed for record in records}),
        "claims": [asdict(claim) for claim in claims],
    }
    write_json(run / "claims.json", body)
    return claims


def gradient_low_rank(e: Evidence) -> Claim | None:
    """Strong local low-rank structure: k90 / n of minibatch gradients at theta_broken."""
    labels: dict[str, Label] = {
        "point": "broken",
        "gradients": "minibatch",
        "centred": "False",
        "unit_norm": "False",
    }
    n = max((int(f.labels["n"]) for r in e.records.values() for f in r.select("k90_share", **labels)), default=0)
    share = e.per_seed("gradient_rank", "k90_share", labels="true", n=n, **labels)
    shuffled = e.per_seed("gradient_rank", "k90_share", labels="shuffled", n=n, **labels)
    if not share:
        return None
    interval = over_seeds(list(share.values()), fraction=True)
    difference = paired_by_seed(share, shuffled)
    return make_claim(
        e,
        "gradient_low_rank",
        interval,
        [below(interval, 0.5), below(difference, 0.0)],
        "high < 0.5 and below shuffled labels (paired)",
        f"k90 / n of uncentred minibatch gradients at theta_broken, n = {n}",
        null=mean_or_none(shuffled.values()),
        details={"n": n, "difference_to_shuffled": interval_body(difference)},
    )


def static_plane_misses(e: Evidence) -> Claim | None:
    """No fixed task plane holds the recovery."""
    best = e.best_static()
    if not best:
        return None
    interval = over_seeds(list(best.values()), fraction=True)
    return make_claim(
        e,
        "static_plane_misses",
        interval,
        [below(interval, 0.5)],
        "high < 0.5",
        "whole capture by the best static basis of each seed",
        paper=PAPER_STATIC if e.space == "lora_factors" else None,
        null=mean_or_none(e.capture("null_other_task").values()),
        rank=e.rank,
        details={
            **capture_details(e),
            "best_static": {str(seed): {"basis": s.basis, "rank": s.rank} for seed, s in e.statics().items()},
        },
    )


def prefix_captures(e: Evidence) -> Claim | None:
    """The first updates span much of the recovery."""
    prefix, best, noise = e.capture("prefix"), e.best_static(), e.capture("null_noise_prefix")
    if not prefix:
        return None
    interval = over_seeds(list(prefix.values()), fraction=True)
    over_static, over_noise = paired_by_seed(prefix, best), paired_by_seed(prefix, noise)
    rest = e.capture("prefix", definition="rest")
    return make_claim(
        e,
        "prefix_captures",
        interval,
        [above(over_static, 0.0), above(over_noise, 0.0)],
        "prefix - best static paired low > 0 and above noise prefix",
        "whole",
        paper=PAPER_PREFIX if e.space == "lora_factors" else None,
        null=mean_or_none(noise.values()),
        rank=e.rank,
        details={
            **capture_details(e),
            "rest_interval": interval_body(over_seeds(list(rest.values()), fraction=True)),
            "minus_best_static": interval_body(over_static),
            "minus_noise_prefix": interval_body(over_noise),
            "share_of_steps": mean_or_none(e.per_seed("basis_capture", "prefix_share_of_steps", rank=e.rank).values()),
        },
    )


def basis_drifts(e: Evidence) -> Claim | None:
    """The useful basis changes within the recovery."""
    labels: dict[str, Label] = {"from": "broken"}
    values = e.per_seed("basis_drift", "overlap_at_claim_lag", **labels)
    if not values:
        return None
    interval = over_seeds(list(values.values()))
    life = e.per_seed("basis_drift", "half_life", **labels)
    return make_claim(
        e,
        "basis_drifts",
        interval,
        [below(interval, 0.5)],
        "high < 0.5",
        "rescaled overlap with the plane at theta_broken at lag min(100, T / 2)",
        null=mean_or_none(e.nulls("basis_drift", "overlap_at_claim_lag", **labels)),
        details={"half_life_steps": {str(seed): value for seed, value in life.items()}},
    )


def krylov_prefix(e: Evidence) -> Claim | None:
    """The prefix is a Krylov-like space of the local quadratic model, in the optimizer's metric."""
    labels: dict[str, Label] = {"basis": "krylov_preconditioned", "rank": e.rank}
    values = e.per_seed("basis_capture", "krylov_prefix_overlap", **labels)
    if not values:
        return None
    interval = over_seeds(list(values.values()), fraction=True)
    raw = e.per_seed("basis_capture", "krylov_prefix_overlap", basis="krylov", rank=e.rank)
    return make_claim(
        e,
        "krylov_prefix",
        interval,
        [above(interval, 0.5)],
        "low > 0.5",
        "overlap of K_k(P^-1 H, P^-1 g) with the prefix",
        null=mean_or_none(e.nulls("basis_capture", "krylov_prefix_overlap", **labels)),
        rank=e.rank,
        details={"raw_metric": mean_or_none(raw.values())},
    )


def prefix_is_privileged(e: Evidence) -> Claim | None:
    """Early updates hold more of the recovery than updates at random times."""
    whole = paired_by_seed(e.capture("prefix"), e.capture("control_random_times"))
    rest = paired_by_seed(e.capture("prefix", definition="rest"), e.capture("control_random_times", definition="rest"))
    if not whole.n_seeds or not rest.n_seeds:
        return None
    noise = paired_by_seed(e.capture("null_noise_prefix"), e.capture("control_random_times"))
    return make_claim(
        e,
        "prefix_is_privileged",
        whole,
        [above(whole, 0.0), above(rest, 0.0)],
        "prefix - random times, whole and rest, paired: both low > 0",
        "whole; difference of captures at equal rank",
        null=noise.mean if noise.n_seeds else None,
        rank=e.rank,
        details={"whole": interval_body(whole), "rest": interval_body(rest)},
    )


def static_gap_is_metric(e: Evidence) -> Claim | None:
    """How much of the gap between static plane and prefix the optimizer's metric explains."""
    prefix, static, preconditioned = e.capture("prefix"), e.best_static(), e.capture("control_preconditioned")
    seeds = [seed for seed in prefix if seed in static and seed in preconditioned]
    if not seeds:
        return None
    # Without a gap there is no share of it. To leave such seeds out is to select on the result, so nothing is decided.
    dropped = [seed for seed in seeds if prefix[seed] <= static[seed]]
    gaps = {seed: prefix[seed] - static[seed] for seed in seeds if seed not in dropped}
    interval = over_seeds([(preconditioned[seed] - static[seed]) / gap for seed, gap in gaps.items()])
    noise = e.capture("null_noise_prefix")
    reason = f"no gap to explain in seed {', '.join(map(str, dropped))}: the best static basis holds no less"
    return make_claim(
        e,
        "static_gap_is_metric",
        interval,
        [above(interval, 0.25)],
        "low > 0.25",
        "(preconditioned - best static) / (prefix - best static), whole",
        null=mean_or_none((noise[seed] - static[seed]) / gap for seed, gap in gaps.items() if seed in noise),
        rank=e.rank,
        undecided=reason if dropped else None,
        details={"dropped_seeds": dropped},
    )


def capture_predicts_recovery(e: Evidence) -> Claim | None:
    """Bases that capture more also allow a lower loss when training inside them."""
    correlations = {}
    for (name, seed), record in sorted(e.records.items()):
        if name == "basis_capture" and (found := rank_correlation(record, e.rank)) is not None:
            correlations[seed] = found
    if not correlations:
        return None
    interval = clipped(over_seeds(list(correlations.values())), -1.0, 1.0)
    return make_claim(
        e,
        "capture_predicts_recovery",
        interval,
        [above(interval, 0.5)],
        "low > 0.5",
        "Spearman correlation over bases: whole capture with minus the held-out loss after training inside",
        unit="rank correlation",
        null=0.0,
        rank=e.rank,
    )


def drift_follows_loss(e: Evidence) -> Claim | None:
    """The basis drifts while the loss falls and settles once it is low."""
    before = e.per_seed("basis_drift", "drift_rate", phase="before")
    after = e.per_seed("basis_drift", "drift_rate", phase="after")
    difference = paired_by_seed(before, after)
    if not difference.n_seeds:
        return None
    return make_claim(
        e,
        "drift_follows_loss",
        difference,
        [above(difference, 0.0)],
        "low > 0",
        "drift rate before minus after 90 % of the loss is recovered",
        unit="per step",
        null=0.0,
        details={"before": mean_or_none(before.values()), "after": mean_or_none(after.values())},
    )


CLAIMS: dict[str, Callable[[Evidence], Claim | None]] = {
    make.__name__: make
    for make in (
        gradient_low_rank,
        static_plane_misses,
        prefix_captures,
        basis_drifts,
        krylov_prefix,
        best_of_n_theorem,
        dimension_free,
        signal_density,
        step_matches_caa,
        step_steers,
        prefix_is_privileged,
        static_gap_is_metric,
        capture_predicts_recovery,
        drift_follows_loss,
    )
}
