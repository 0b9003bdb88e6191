"""Every rule of every claim on hand-made records: what supports it, what violates it, what leaves it open."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import geometry_cases
import jsonschema
import pytest
from rich.console import Console
from test_schemas import schema

from lineament.claims.claims_file import read_claims, write_claims
from lineament.claims.evidence import Evidence
from lineament.claims.intervals import Interval, over_seeds
from lineament.claims.registry import CLAIMS, evaluate_claims
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds, Claim
from lineament.commands.verdict_tables import claims_table
from lineament.errors import LineamentError
from lineament.files.reading import read_json
from lineament.files.writing import write_json
from lineament.measurements.families import STATIC
from lineament.records import Label, Quantity, Record
from lineament.report.page import render

RANK = 10
# Per-seed values around a level; three of them give an interval of about +- 0.025 around it.
SPREAD = (-0.01, 0.0, 0.01)
Values = Sequence[float | None]


def near(level: float, n: int = 3) -> list[float]:
    return [level + shift for shift in SPREAD[:n]]


def made(figures: Sequence[list[Quantity]], measurement: str, space: str = "lora_factors") -> list[Record]:
    """One record per seed."""
    return [
        Record(measurement, "sort", seed, "synthetic", "toy", space, 1000, "0" * 16, tuple(own), {})
        for seed, own in enumerate(figures)
    ]


def per_seed(make: Callable[..., list[Quantity]], *columns: Values) -> list[list[Quantity]]:
    return [make(*values) for values in zip(*columns, strict=True)]


def figure(quantity: str, value: float | None, null: float | None = None, **labels: Label) -> Quantity:
    return Quantity(
        quantity,
        value,
        "fraction",
        stderr=None,
        null=null,
        labels=labels,
        reason=None if value is not None else "undefined",
    )


# --- one maker of records per measurement ---


def gradient_rank(true: Values, shuffled: Values, smaller: float = 0.9) -> list[Record]:
    """Shares at n = 64, and at n = 32, where nothing is judged."""

    def figures(t: float | None, s: float | None) -> list[Quantity]:
        which: dict[str, Label] = {"gradients": "minibatch", "centred": "False", "unit_norm": "False"}
        found = [
            figure("k90_share", value, point="broken", labels=labels, n=n, **which)
            for labels, n, value in (("true", 64, t), ("shuffled", 64, s), ("true", 32, smaller))
        ]
        centred: dict[str, Label] = {**which, "centred": "True"}
        found += [
            figure("k90_share", value, point="broken", labels=labels, n=64, **centred)
            for labels, value in (("true", t), ("shuffled", s))
        ]
        others = ({"unit_norm": "True"}, {"gradients": "example"})
        found += [
            figure("k90_share", smaller, **{"point": "broken", "labels": "true", "n": 64, **which, **o}) for o in others
        ]
        return [*found, figure("k90_share", smaller, point="star", labels="true", n=64, **which)]

    return made(per_seed(figures, true, shuffled), "gradient_rank")


# Bases that stand beside others in every record.
TWINS = {
    "prefix": ("control_other_data",),
    "null_noise_prefix": ("null_mean_free_prefix",),
    "control_preconditioned": ("null_preconditioned_shuffled",),
}


@dataclass
class Captures:
    """Capture records of three seeds: basis -> level or values, whole; `rest` likewise; anything else in `more`.

    Another run's prefix holds what the prefix does, and a blind run's as much less as `above_blind` says; a prefix
    without the mean gradient holds what the noise prefix does, and a preconditioned plane of shuffled labels 0.05.
    """

    whole: Mapping[str, Any]
    rest: Mapping[str, Any] = field(default_factory=dict)
    more: Callable[[int], list[Quantity]] = lambda seed: []
    steps: Values = (40.0, 40.0, 40.0)
    space: str = "lora_factors"
    above_blind: Values = (0.3, 0.3, 0.3)

    def records(self) -> list[Record]:
        return made([self._figures(seed) for seed in range(len(self.steps))], "basis_capture", self.space)

    def _figures(self, seed: int) -> list[Quantity]:
        steps = self.steps[seed]
        if steps is None:
            return [Quantity("recovery_steps", None, "steps", reason="not recovered within 40 steps")]
        found = [figure("recovery_steps", steps), *self.more(seed)]
        for definition, bases in (("whole", self.whole), ("rest", self.rest)):
            for name, level in bases.items():
                basis, _, rank = name.partition(" at ")
                values = near(level) if isinstance(level, float) else level
                which: dict[str, Label] = {"basis": basis, "rank": int(rank or RANK), "definition": definition}
                own = figure("capture", values[seed], 0.05, at="T", space_of="parameters", **which)
                found.append(
                    replace(own, blind=values[seed] - (self.above_blind[seed] or 0.0)) if basis == "prefix" else own
                )
                for twin in TWINS.get(basis, ()):
                    level = 0.05 if twin == "null_preconditioned_shuffled" else values[seed]
                    labels = {**which, "basis": twin}
                    found.append(figure("capture", level, at="T", space_of="parameters", **labels))
                # Neither of these may be taken for it.
                found.append(figure("capture", 0.5, at="2T", space_of="parameters", **which))
                found.append(figure("capture", 0.5, at="T", space_of="lora_effective", **which))
        return found


def statics(level: Any) -> dict[str, Any]:
    """All static bases at one level."""
    return dict.fromkeys(STATIC, level)


def random_search(
    ratio: Values = (),
    slope: Values = (),
    correlation: Values = (),
    *,
    others: float | None = 0.3,
    easier_slope: float | None = None,
) -> list[Record]:
    """Each figure beside others of its quantity that nothing is judged by.

    Args:
        others: rank correlation that other tasks' gradients predict.
        easier_slope: slope at costs of 1 and 10 %, if not that at 50 %.
    """
    seeds = range(max(map(len, (ratio, slope, correlation))))

    def figures(seed: int) -> list[Quantity]:
        found = [figure("departure_sigma", 0.1, 0.1, space="full", n=64)]
        if ratio:
            # with a control variate in it, this one could only show curvature
            found.append(figure("ratio_second_order", 5.0, space="full", cost=0.25, n=64))
            found.append(figure("theorem_ratio", ratio[seed], 2.5, space="full", cost=0.25, n=64, draws=8192))
        if slope:
            found.append(figure("dimension_slope", 3.0, costs="all"))
            easier = slope[seed] if easier_slope is None else easier_slope
            found += [figure("dimension_slope", easier, -0.5, costs=cost) for cost in ("0.01", "0.1")]
            found.append(figure("dimension_slope", slope[seed], -0.5, costs="0.5"))
        if correlation:
            found.append(figure("density_rank_correlation", 0.0, subspaces="with random"))
            found.append(figure("density_rank_correlation", correlation[seed], others, subspaces="informed"))
        return found

    return made([figures(seed) for seed in seeds], "random_search")


def steering(cosine: Values = (), null: Values = (0.2, 0.2, 0.2), ratio: Values = ()) -> list[Record]:
    """Each figure beside others of its quantity that nothing is judged by; a cosine of None is no reference layer."""
    seeds = range(max(len(cosine), len(ratio)))

    def figures(seed: int) -> list[Quantity]:
        found = [figure("step_cosine", 0.95, 0.1, step="raw", shift="jacobian", layer=9, reference=False)]
        if cosine:
            found.append(figure("best_layer_cosine", 0.95, 0.9, step="adam", layer=3, n_below=0))
            found.append(figure("best_layer_cosine", cosine[seed], null[seed], step="raw", layer=3, n_below=34))
        if ratio:
            found.append(figure("effect_ratio", 5.0, 0.1, layer=2, kl=0.05, best=False))
            found.append(figure("effect_ratio", 5.0, 0.1, layer=3, kl=0.5, best=True))
            found.append(figure("effect_ratio", ratio[seed], 0.1, layer=3, kl=0.05, best=True))
        return found

    return made([figures(seed) for seed in seeds], "steering")


def basis_drift(overlap: Values, before: Values, after: Values) -> list[Record]:
    def figures(o: float | None, b: float | None, a: float | None) -> list[Quantity]:
        return [
            figure("retention_at_claim_lags", o, 0.1, **{"from": "broken"}),
            figure("retention_at_claim_lags", 0.5, 0.1, **{"from": "recovered"}),
            figure("half_life", 7.0, **{"from": "broken"}),
            figure("drift_rate", b, phase="before"),
            figure("drift_rate", a, phase="after"),
        ]

    return made(per_seed(figures, overlap, before, after), "basis_drift")


def drift(overlap: Values = (0.1, 0.1, 0.1)) -> list[Record]:
    return basis_drift(overlap, near(0.02), near(0.02))


def rates(before: Values, after: Values) -> list[Record]:
    return basis_drift([0.1] * len(before), before, after)


def krylov(preconditioned: Values, raw: Values = (0.5, 0.5, 0.5)) -> list[Record]:
    def more(seed: int) -> list[Quantity]:
        levels = {"krylov_preconditioned": preconditioned[seed], "krylov": raw[seed]}
        found = [figure("krylov_prefix_overlap", v, 0.05, basis=name, rank=RANK) for name, v in levels.items()]
        found.append(figure("krylov_prefix_overlap", 0.5, basis="krylov_preconditioned", rank=5))
        return [replace(overlap, ceiling=1.0) for overlap in found]

    return Captures({}, more=more).records()


ORDER = (
    "prefix", "control_random_times", "control_frozen_run", "static_star", "static_broken", "krylov", "task_vectors",
    "static_start",
)  # fmt: skip


def inside(losses: Sequence[Sequence[float]]) -> list[Record]:
    """Captures fall along ORDER; `losses` (per seed) are those after training inside the same bases."""

    def more(seed: int) -> list[Quantity]:
        return [
            figure("trained_inside", value, basis=basis, rank=rank, statistic=statistic)
            for basis, loss in zip(ORDER, losses[seed], strict=False)
            for rank, statistic, value in ((RANK, "loss", loss), (RANK, "accuracy", loss), (5, "loss", -loss))
        ]

    return Captures({name: 0.9 - 0.1 * i for i, name in enumerate(ORDER)}, more=more).records()


RISING = tuple(map(float, range(1, 9)))
FALLING = RISING[::-1]
MIDDLING = (4.0, 3.0, 2.0, 1.0, 8.0, 6.0, 7.0, 5.0)  # rank correlation 0.55
LOOSE = (5.0, 4.0, 3.0, 2.0, 1.0, 8.0, 7.0, 6.0)  # rank correlation 0.43
WIDE = (0.1, 0.5, 0.9)


def windows(first: Values, later: Values) -> list[Record]:
    """Windows of updates from step 1, 11 and 21; beside them others that nothing is judged by."""

    def more(seed: int) -> list[Quantity]:
        which: dict[str, Label] = {"basis": "control_windows", "rank": RANK, "definition": "whole", "at": "T"}
        levels = {1: first[seed], 11: later[seed], 21: later[seed]}
        found = [figure("window_capture", value, **{**which, "from_step": s}) for s, value in levels.items()]
        found.append(figure("window_capture", 0.9, **{**which, "from_step": 1, "definition": "rest"}))
        return [replace(window, blind=0.1) for window in found]

    return Captures({}, more=more).records()


def prefix(level: Any, static: Any, noise: Any, **more: Any) -> list[Record]:
    return Captures({"prefix": level, **statics(static), "null_noise_prefix": noise}, **more).records()


def blind(above: Values) -> list[Record]:
    return Captures({"prefix": 0.7, **statics(0.2), "null_noise_prefix": 0.1}, above_blind=above).records()


def gap(preconditioned: Any, prefix: Any = 0.6, static: Any = 0.2) -> list[Record]:
    levels = {"prefix": prefix, **statics(static), "control_preconditioned": preconditioned}
    return Captures({**levels, "null_noise_prefix": 0.1}).records()


YES, NO, OPEN = "supported", "not_supported", "inconclusive"
TABLE: dict[str, dict[str, tuple[list[Record], str]]] = {
    "gradient_low_rank": {
        "few, fewer than shuffled": (gradient_rank(near(0.2), near(0.6)), YES),
        "just below half": (gradient_rank(near(0.46), near(0.6)), YES),
        "few, but as many as shuffled": (gradient_rank(near(0.2), near(0.2)[::-1]), OPEN),
        "few, but more than shuffled": (gradient_rank(near(0.2), near(0.1)), NO),
        "many, though fewer than shuffled": (gradient_rank(near(0.6), near(0.9)), NO),
        "around half": (gradient_rank(near(0.5), near(0.9)), OPEN),
        "wide": (gradient_rank(WIDE, near(0.99)), OPEN),
        "pairing decides": (gradient_rank((0.1, 0.15, 0.2), (0.12, 0.171, 0.222)), YES),
    },
    "static_plane_misses": {
        "low": (Captures(statics(0.2)).records(), YES),
        "just below half": (Captures(statics(0.46)).records(), YES),
        "high": (Captures(statics(0.6)).records(), NO),
        "around half": (Captures(statics(0.5)).records(), OPEN),
        "wide": (Captures(statics(WIDE)).records(), OPEN),
        "wide, mostly low": (Captures(statics((0.3, 0.4, 0.55))).records(), OPEN),
        "wide, mostly high": (Captures(statics((0.45, 0.6, 0.7))).records(), OPEN),
        "one of six is high": (Captures({**statics(0.2), "task_vectors": 0.6}).records(), NO),
        "another of six in each seed": (
            Captures(
                {"static_star": (0.9, 0.1, 0.1), "static_start": (0.1, 0.9, 0.1), "task_vectors": (0.1, 0.1, 0.9)}
            ).records(),
            NO,
        ),
        "one of fewer directions is high": (Captures({**statics(0.2), "task_vectors at 6": 0.6}).records(), YES),
        "one of fewer directions is high and has no more": (
            Captures({"static_star": 0.2, "task_vectors at 6": 0.6}).records(),
            NO,
        ),
        "only above the headline rank": (Captures({**statics(0.2), "static_star at 20": 0.9}).records(), YES),
        "other bases do not count": (
            Captures({**statics(0.2), "control_preconditioned": 0.9, "prefix": 0.9}).records(),
            YES,
        ),
    },
    "prefix_captures": {
        "above both": (prefix(0.7, 0.2, 0.1), YES),
        "low, but above both": (prefix(0.1, 0.03, 0.03), YES),
        "above static, not above noise": (prefix(0.7, 0.2, 0.8), NO),
        "above noise, not above static": (prefix(0.7, 0.8, 0.1), NO),
        "above static, noise straddles": (prefix(near(0.7), 0.2, near(0.7)[::-1]), OPEN),
        "above noise, static straddles": (prefix(near(0.7), near(0.7)[::-1], 0.1), OPEN),
        "above all static but the best": (
            Captures({"prefix": 0.7, **statics(0.2), "static_hessian_top": 0.8, "null_noise_prefix": 0.1}).records(),
            NO,
        ),
        "pairing decides": (prefix((0.3, 0.5, 0.9), (0.28, 0.479, 0.878), (0.27, 0.471, 0.872)), YES),
        "the best static of each seed": (
            Captures(
                {
                    "prefix": 0.5,
                    "static_star": (0.8, 0.1, 0.1),
                    "static_broken": (0.1, 0.8, 0.1),
                    "task_vectors": (0.1, 0.1, 0.8),
                    "null_noise_prefix": 0.1,
                }
            ).records(),
            NO,
        ),
        "no noise prefix": (Captures({"prefix": 0.7, **statics(0.2)}).records(), OPEN),
    },
    "paper_figure_is_blind": {
        "as a blind run": (blind(near(0.0)), YES),
        "a little above": (blind((0.02, 0.03, 0.025)), YES),
        "far above": (blind(near(0.3)), NO),
        "far below": (blind(near(-0.3)), NO),
        "around the bound": (blind(near(0.05)), OPEN),
        "wide": (blind((-0.2, 0.0, 0.2)), OPEN),
    },
    "basis_drifts": {
        "low": (drift(near(0.2)), YES),
        "just below half": (drift(near(0.46)), YES),
        "high": (drift(near(0.8)), NO),
        "around half": (drift(near(0.5)), OPEN),
        "wide": (drift(WIDE), OPEN),
    },
    "krylov_prefix": {
        "high": (krylov(near(0.8)), YES),
        "just above half": (krylov(near(0.54)), YES),
        "low": (krylov(near(0.2)), NO),
        "low, though high in the raw metric": (krylov(near(0.2), near(0.9)), NO),
        "around half": (krylov(near(0.5)), OPEN),
        "wide": (krylov(WIDE), OPEN),
        "wide, mostly low": (krylov((0.3, 0.4, 0.55)), OPEN),
        "wide, mostly high": (krylov((0.45, 0.6, 0.7)), OPEN),
    },
    "best_of_n_theorem": {
        "one": (random_search(near(1.0)), YES),
        "just inside": (random_search(near(0.93)), YES),
        "too small": (random_search(near(0.8)), NO),
        "too large": (random_search(near(1.2)), NO),
        "at the lower edge": (random_search(near(0.9)), OPEN),
        "at the upper edge": (random_search(near(1.1)), OPEN),
        "wide": (random_search((0.8, 1.0, 1.2)), OPEN),
        "in two of three seeds": (random_search((1.0, 1.01, None)), OPEN),
    },
    "dimension_free": {
        "flat": (random_search(slope=near(0.0)), YES),
        "steep": (random_search(slope=near(0.2)), NO),
        "falling": (random_search(slope=near(-0.2)), NO),
        "around the bound": (random_search(slope=near(0.05)), OPEN),
        "flat but not zero": (random_search(slope=(0.030, 0.031, 0.032)), OPEN),
        "wide": (random_search(slope=(-0.2, 0.0, 0.2)), OPEN),
        "steep at small steps alone": (random_search(slope=near(0.0), easier_slope=0.2), NO),
        "in two of three seeds": (random_search(slope=(0.0, 0.0, None)), OPEN),
    },
    "signal_density": {
        "ranks them": (random_search(correlation=near(0.9)), YES),
        "perfectly": (random_search(correlation=(1.0, 1.0, 1.0)), YES),
        "does not": (random_search(correlation=near(0.1)), NO),
        "half": (random_search(correlation=near(0.5)), OPEN),
        "as another task's gradient does": (random_search(correlation=near(0.9), others=0.9), OPEN),
        "less than another task's gradient does": (random_search(correlation=near(0.8), others=0.95), NO),
        "one task": (random_search(correlation=near(0.9), others=None), OPEN),
    },
    "step_matches_caa": {
        "above every null draw": (steering(near(0.6)), YES),
        "just above both": (steering(near(0.34), near(0.3)), YES),
        "above the paper's figure": (steering(near(0.9), near(0.58)), YES),
        "below the largest null draw": (steering(near(0.6), near(0.7)), NO),
        "as large as the largest null draw": (steering(near(0.6), near(0.6)), NO),
        "above null draws, but small": (steering(near(0.25), near(0.1)), NO),
        "opposite, though long": (steering(near(-0.8)), NO),
        "above null draws in two of three seeds": (steering(near(0.6), (0.2, 0.2, 0.7)), OPEN),
        "above null draws in one of three seeds": (steering(near(0.6), (0.2, 0.8, 0.8)), OPEN),
        "above null draws on average, though not in every seed": (steering((0.5, 0.9, 0.9), (0.6, 0.1, 0.1)), OPEN),
        "above null draws in every seed, though not by an interval": (
            steering((0.50, 0.55, 0.60), (0.49, 0.10, 0.50)),
            YES,
        ),
        "around 0.3": (steering(near(0.3)), OPEN),
        "wide": (steering(WIDE, (0.0, 0.0, 0.0)), OPEN),
        "small, and above null draws in one seed": (steering(near(0.2), (0.1, 0.5, 0.5)), NO),
        "one seed without a null": (steering(near(0.6), (0.2, 0.2, None)), OPEN),
        "one seed without a reference layer": (steering((0.60, 0.61, None)), OPEN),
        "two seeds without a reference layer": (steering((0.6, None, None)), OPEN),
        "no reference layer": (steering((None, None, None)), OPEN),
    },
    "step_steers": {
        "as the vector does": (steering(ratio=near(0.9)), YES),
        "more than the vector": (steering(ratio=near(1.5)), YES),
        "just above half": (steering(ratio=near(0.54)), YES),
        "little": (steering(ratio=near(0.2)), NO),
        "the other way": (steering(ratio=near(-0.9)), NO),
        "around half": (steering(ratio=near(0.5)), OPEN),
        "wide": (steering(ratio=WIDE), OPEN),
        "one seed cannot reach the KL": (steering(near(0.6), ratio=(0.9, 0.91, None)), OPEN),
        "one seed without a reference layer": (steering((0.6, 0.6, None), ratio=(0.9, 0.91, None)), OPEN),
        "two seeds without a reference layer": (steering((0.6, None, None), ratio=(0.9, None, None)), OPEN),
        "no reference layer": (steering((None, None, None)), OPEN),
    },
    "prefix_is_privileged": {
        "first above later": (windows(near(0.7), near(0.4)), YES),
        "later above first": (windows(near(0.4), near(0.7)), NO),
        "equal": (windows(near(0.5), near(0.5)[::-1]), OPEN),
        "pairing decides": (windows((0.3, 0.5, 0.9), (0.28, 0.47, 0.87)), YES),
    },
    "static_gap_is_metric": {
        "half of the gap": (gap(0.4), YES),
        "a little more than a quarter": (gap((0.31, 0.32, 0.33)), YES),
        "none of it": (gap(0.21), NO),
        "less than none": (gap(0.1), NO),
        "a quarter": (gap((0.28, 0.30, 0.32)), OPEN),
        "a seed without a gap": (gap((0.4, 0.41, 0.3), (0.6, 0.61, 0.1)), OPEN),
        "a seed with exactly none": (gap((0.4, 0.41, 0.3), (0.6, 0.61, 0.2), (0.2, 0.2, 0.2)), OPEN),
        "no seed with a gap": (gap(0.4, 0.1), OPEN),
        "of the best static": (
            Captures(
                {
                    "prefix": 0.6,
                    **statics(0.0 + 0.02),
                    "static_star": 0.5,
                    "control_preconditioned": 0.45,
                    "null_noise_prefix": 0.1,
                }
            ).records(),
            NO,
        ),
    },
    "capture_predicts_recovery": {
        "less capture, more loss": (inside([RISING] * 2 + [(2.0, 1.0, *RISING[2:])]), YES),
        "less capture, less loss": (inside([FALLING] * 2 + [RISING[::-1]]), NO),
        "about half": (inside([MIDDLING, RISING, LOOSE]), OPEN),
        "contradicting seeds": (inside([RISING, FALLING, RISING]), OPEN),
        "just above half in every seed": (inside([MIDDLING] * 3), YES),
        "just below half in every seed": (inside([LOOSE] * 3), NO),
    },
    "drift_follows_loss": {
        "faster before": (rates(near(0.10), near(0.02)), YES),
        "faster after": (rates(near(0.02), near(0.10)), NO),
        "equal": (rates(near(0.05), near(0.05)[::-1]), OPEN),
        "pairing decides": (rates((0.1, 0.2, 0.3), (0.08, 0.179, 0.278)), YES),
    },
    **geometry_cases.TABLE,
}


def claim_of(records: list[Record], id: str) -> Claim | None:
    return next((claim for claim in evaluate_claims(records, RANK) if claim.id == id), None)


def test_every_claim_has_all_three_verdicts_in_the_table() -> None:
    for id in CLAIMS:
        assert {verdict for _, verdict in TABLE[id].values()} == {YES, NO, OPEN}, id


@pytest.mark.parametrize(("id", "case"), [(id, case) for id, cases in TABLE.items() for case in cases])
def test_verdicts(id: str, case: str) -> None:
    records, verdict = TABLE[id][case]
    claim = claim_of(records, id)
    assert claim is not None
    assert claim.verdict == verdict, claim
    assert not (verdict != OPEN and claim.reason), "a decided claim needs no excuse"


@pytest.mark.parametrize("id", TABLE)
def test_one_seed_decides_nothing(id: str) -> None:
    for records, verdict in TABLE[id].values():
        claim = claim_of([r for r in records if r.seed == 0], id)
        assert claim is not None
        assert (claim.verdict, claim.low, claim.high) == (OPEN, None, None)
        assert claim.reason == "one seed" or (verdict == OPEN and claim.details.get("dropped_seeds"))


@pytest.mark.parametrize("id", TABLE)
def test_a_claim_that_was_not_measured_is_absent(id: str) -> None:
    other = gradient_rank(near(0.2), near(0.6)) if id != "gradient_low_rank" else drift()
    assert claim_of(other, id) is None
    assert evaluate_claims([], RANK) == []


@pytest.mark.parametrize(("id", "case"), [(id, case) for id, cases in TABLE.items() for case in cases])
def test_every_case_fits_the_schema(id: str, case: str, tmp_path: Path) -> None:
    write_claims(tmp_path, TABLE[id][case][0], RANK)
    jsonschema.validate(read_json(tmp_path / "claims.json"), schema("claims"))


# --- conditions, and the rule's text that is made of them ---


def judged(rule: ClaimRule, records: list[Record]) -> Claim:
    """The claim that a rule, perhaps a changed one, makes of records of one target."""
    claim = rule.judge(Evidence("sort", RANK, {(r.measurement, r.seed): r for r in records}))
    assert claim is not None
    return claim


def bounds_of(rule: ClaimRule) -> list[tuple[int, str, float]]:
    """(place of the requirement, which bound, its number) of every bound in a rule."""
    named = [(i, vars(part.bounds)) for i, part in enumerate(rule.requirements)]
    return [(i, which, limit) for i, own in named for which, limit in own.items() if limit is not None]


def with_bounds(rule: ClaimRule, place: int, bounds: Bounds) -> ClaimRule:
    parts = list(rule.requirements)
    parts[place] = replace(parts[place], bounds=bounds)
    return replace(rule, requirements=tuple(parts))


@pytest.mark.parametrize("id", CLAIMS)
def test_the_rule_s_text_names_every_condition_and_bound(id: str) -> None:
    rule = CLAIMS[id]
    for part in rule.requirements:
        assert part.name in rule.text
    for _, _, limit in bounds_of(rule):
        assert re.search(rf"(?<![\d.]){re.escape(f'{limit:g}')}(?![\d.])", rule.text), limit
    for records, _ in TABLE[id].values():
        claim = judged(rule, records)
        assert claim.rule == rule.text
        assert [(c.name, c.bounds) for c in claim.conditions] == [(p.name, p.bounds) for p in rule.requirements]


@pytest.mark.parametrize(("id", "bound"), [(id, bound) for id, rule in CLAIMS.items() for bound in bounds_of(rule)])
def test_a_moved_bound_changes_verdict_and_text(id: str, bound: tuple[int, str, float]) -> None:
    """Moved beyond every value, a bound refutes (or leaves open what it must contain) a claim that was supported."""
    place, which, _ = bound
    rule, records = CLAIMS[id], next(records for records, verdict in TABLE[id].values() if verdict == YES)
    far = {"above": Bounds(above=9.0), "below": Bounds(below=-9.0), "contains": Bounds(contains=9.0)}[which]
    moved = with_bounds(rule, place, far)
    before, after = judged(rule, records), judged(moved, records)
    assert (before.verdict, after.verdict) == (YES, OPEN if which == "contains" else NO)
    assert after.rule != before.rule
    assert "9" in after.rule


@pytest.mark.parametrize(("id", "case"), [(id, case) for id, cases in TABLE.items() for case in cases])
def test_conditions_explain_the_verdict(id: str, case: str) -> None:
    claim = judged(CLAIMS[id], TABLE[id][case][0])
    held = [condition.holds for condition in claim.conditions]
    if claim.verdict == NO:
        assert False in held
    elif claim.verdict == YES:
        assert held == [True] * len(held)
    else:
        assert claim.reason or None in held


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 3)


@pytest.mark.parametrize(
    ("bounds", "ends", "holds"),
    [
        (Bounds(above=0.5), (0.6, 0.7), True),
        (Bounds(above=0.5), (0.3, 0.5), False),
        (Bounds(above=0.5), (0.5, 0.7), None),
        (Bounds(below=0.5), (0.3, 0.4), True),
        (Bounds(below=0.5), (0.5, 0.7), False),
        (Bounds(below=0.5), (0.3, 0.5), None),
        (Bounds(above=0.9, below=1.1), (0.95, 1.05), True),
        (Bounds(above=0.9, below=1.1), (0.8, 0.9), False),
        (Bounds(above=0.9, below=1.1), (1.1, 1.2), False),
        (Bounds(above=0.9, below=1.1), (0.8, 1.0), None),
        (Bounds(above=0.9, below=1.1), (0.8, 1.2), None),
        (Bounds(contains=0.0), (-0.1, 0.0), True),
        (Bounds(contains=0.0), (0.1, 0.2), None),
    ],
)
def test_bounds_are_judged_by_the_whole_interval(bounds: Bounds, ends: tuple[float, float], holds: bool | None) -> None:
    assert bounds.hold_for(interval(*ends)) is holds
    assert bounds.hold_for(over_seeds([0.5])) is None


@pytest.mark.parametrize("limits", [{}, {"above": 0.0, "contains": 0.0}, {"above": 1.0, "below": 0.0}])
def test_bounds_that_say_nothing_or_cannot_hold_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"give one of the two|leaves no room"):
        Bounds(**limits)


# --- a claim of one's own, and claims.json of this and of the first schema ---


def test_a_new_claim_is_one_rule_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in claims.json, the terminal's table and the report, as docs/how-to/add-a-claim.md says."""
    rule = ClaimRule(
        id="random_misses",
        title="Random directions miss the recovery",
        holds="Random directions hold almost nothing of the recovery.",
        fails="Random directions hold a share of the recovery.",
        definition="whole capture by random directions",
        requirements=(Requirement("capture by random directions", Bounds(below=0.1)),),
        measure=lambda e: Measured(over_seeds(e.capture("random").values(), fraction=True)),
        at_rank=True,
    )
    monkeypatch.setitem(CLAIMS, rule.id, rule)
    records = Captures({"random": 0.05}).records()
    for record in records:
        record.save(tmp_path / "records")
    write_claims(tmp_path, records, RANK)
    body = read_json(tmp_path / "claims.json")
    jsonschema.validate(body, schema("claims"))
    (claim,) = read_claims(tmp_path)
    assert (claim.id, claim.verdict, claim.rule) == (rule.id, YES, "capture by random directions < 0.1")
    console = Console(file=io.StringIO(), width=100)
    console.print(claims_table([claim]))
    assert rule.id in console.file.getvalue()  # type: ignore[attr-defined]
    page = render(tmp_path)
    assert rule.title in page
    assert rule.holds in page


def test_claims_come_back_as_they_were_written(tmp_path: Path) -> None:
    for cases in TABLE.values():
        records = next(iter(cases.values()))[0]
        written = write_claims(tmp_path, records, RANK)
        assert [asdict(claim) for claim in read_claims(tmp_path)] == [
            {**asdict(claim), "details": json.loads(json.dumps(claim.details))} for claim in written
        ]


def test_claims_of_the_first_schema_are_read(tmp_path: Path) -> None:
    records = TABLE["krylov_prefix"]["around half"][0]
    (now,) = write_claims(tmp_path, records, RANK)
    body = read_json(tmp_path / "claims.json")
    for claim in body["claims"]:
        del claim["conditions"]
    write_json(tmp_path / "claims.json", {**body, "schema": 1})
    assert read_claims(tmp_path) == [replace(now, conditions=())]
    for record in records:
        record.save(tmp_path / "records")
    assert now.rule in html.unescape(render(tmp_path))


def test_claims_of_an_unknown_schema_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "claims.json", {"schema": 3, "claims": []})
    with pytest.raises(LineamentError, match="has schema 3; this version reads schemas 1 and 2"):
        read_claims(tmp_path)


def test_judging_needs_no_torch() -> None:
    code = "import sys, lineament.claims.claims_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- seeds that are missing ---


def test_seeds_that_did_not_recover_are_counted_in_the_reason() -> None:
    claims = {c.id: c for c in evaluate_claims(prefix(0.7, 0.2, 0.1, steps=(40.0, None, None)), RANK)}
    for id in ("prefix_captures", "static_plane_misses"):
        assert (claims[id].verdict, claims[id].reason) == (OPEN, "1 of 3 seeds recovered")
    assert claims["prefix_captures"].details["n_seeds"] == 1


def test_two_seeds_that_recovered_do_not_decide_without_the_third() -> None:
    claim = claim_of(prefix(0.7, 0.2, 0.1, steps=(40.0, None, 40.0)), "prefix_captures")
    assert claim is not None
    assert (claim.verdict, claim.reason, claim.details["n_seeds"]) == (OPEN, "2 of 3 seeds recovered", 2)


def test_a_figure_that_two_of_three_seeds_lack_is_named_as_that() -> None:
    claim = claim_of(drift((0.1, None, None)), "basis_drifts")
    assert claim is not None
    assert (claim.verdict, claim.reason) == (OPEN, "this figure in 1 of 3 seeds")


def test_a_null_that_most_seeds_lack_leaves_the_claim_open_with_a_reason() -> None:
    claim = claim_of(prefix(0.7, 0.2, (0.1, None, None)), "prefix_captures")
    assert claim is not None
    assert (claim.verdict, claim.reason) == (OPEN, "this figure in 1 of 3 seeds")
    assert claim.low is not None


def test_a_recovery_shorter_than_the_headline_rank_is_in_no_claim() -> None:
    """Its static bases stand at lower ranks, where they capture less: that would support that they miss."""
    records = Captures({"static_star": 0.2, "static_star at 5": 0.1}, steps=(40.0, 40.0, 7.0)).records()
    claim = claim_of(records, "static_plane_misses")
    assert claim is not None
    assert claim.details["n_seeds"] == 2
    assert set(claim.details["best_static"]) == {"0", "1"}


def test_seeds_without_a_gap_are_listed() -> None:
    claim = claim_of(TABLE["static_gap_is_metric"]["a seed without a gap"][0], "static_gap_is_metric")
    assert claim is not None
    assert claim.details["dropped_seeds"] == [2]
    assert claim.details["n_seeds"] == 2
    assert claim.reason == "no gap to explain in seed 2: the best static basis holds no less"
    without = claim_of(gap(0.4, 0.1), "static_gap_is_metric")
    assert without is not None
    assert (without.measured, without.details["dropped_seeds"]) == (None, [0, 1, 2])


# --- what is reported beside a verdict ---


@pytest.mark.parametrize(
    ("id", "case", "measured", "null"),
    [
        ("gradient_low_rank", "few, fewer than shuffled", 0.2, 0.6),
        ("static_plane_misses", "high", 0.6, None),
        ("prefix_captures", "above both", 0.7, 0.1),
        ("basis_drifts", "low", 0.2, 0.1),
        ("krylov_prefix", "high", 0.8, 0.05),
        ("step_matches_caa", "above every null draw", 0.6, 0.2),
        ("step_matches_caa", "opposite, though long", -0.8, 0.2),
        ("step_steers", "as the vector does", 0.9, 0.1),
        ("prefix_is_privileged", "first above later", 1 / 3, None),
        ("static_gap_is_metric", "half of the gap", 0.5, -0.375),
        ("capture_predicts_recovery", "less capture, less loss", -1.0, None),
        ("drift_follows_loss", "faster before", 0.08, None),
    ],
)
def test_measured_and_null_are_means_over_seeds(id: str, case: str, measured: float, null: float | None) -> None:
    claim = claim_of(TABLE[id][case][0], id)
    assert claim is not None
    assert claim.measured == pytest.approx(measured, rel=1e-3)  # a logit mean is no arithmetic one
    assert claim.null == (null if null is None else pytest.approx(null))


@pytest.mark.parametrize(
    ("id", "records", "bounded"),
    [
        ("gradient_low_rank", gradient_rank((0.02, 0.5, 0.98), near(0.99)), True),
        ("static_plane_misses", Captures(statics((0.02, 0.5, 0.98))).records(), True),
        ("prefix_captures", prefix((0.02, 0.5, 0.98), 0.2, 0.1), True),
        ("krylov_prefix", krylov((0.02, 0.5, 0.98)), False),
        ("basis_drifts", drift((0.02, 0.5, 0.98)), False),  # noise may put a rescaled overlap above 1
        ("capture_predicts_recovery", inside([RISING, FALLING, RISING]), None),
        ("step_matches_caa", steering((-0.9, 0.0, 0.9)), None),
    ],
)
def test_intervals_of_bounded_figures_stay_within_their_bounds(id: str, records: list[Record], bounded: bool) -> None:
    claim = claim_of(records, id)
    assert claim is not None
    assert claim.low is not None
    assert claim.high is not None
    if bounded is None:
        assert (claim.low, claim.high) == (-1, 1)
    else:
        assert (claim.low > 0 and claim.high < 1) == bounded
    if id == "prefix_captures":
        rest = claim_of(Captures({"prefix": 0.7}, {"prefix": (0.02, 0.5, 0.98)}).records(), id)
        assert rest is not None
        assert rest.details["rest_interval"]["mean"] == pytest.approx(0.5)
        assert 0 < rest.details["rest_interval"]["low"] < rest.details["rest_interval"]["high"] < 1


def test_the_paper_s_figures_stand_beside_adapters_only() -> None:
    levels = {"prefix": 0.7, **statics(0.2), "null_noise_prefix": 0.1}
    for space, expected in (("lora_factors", (0.77, 0.15)), ("full", (None, None))):
        records = Captures(levels, space=space).records()
        found = [claim_of(records, id) for id in ("prefix_captures", "static_plane_misses")]
        assert tuple(claim.paper for claim in found if claim) == expected


def test_details_hold_every_basis_at_every_rank_and_name_the_best_static() -> None:
    records = Captures({"static_star": 0.2, "task_vectors at 6": 0.4, "prefix at 5": 0.3}).records()
    claim = claim_of(records, "static_plane_misses")
    assert claim is not None
    assert claim.details["whole"]["task_vectors"] == {"6": pytest.approx(0.4)}
    assert claim.details["whole"]["prefix"] == {"5": pytest.approx(0.3)}
    assert claim.details["best_static"] == {key: {"basis": "task_vectors", "rank": 6} for key in "012"}


def test_targets_are_judged_apart() -> None:
    other = [Record(**{**vars(r), "target": "copy"}) for r in Captures(statics(0.6)).records()]
    found = {c.task: c.verdict for c in evaluate_claims([*Captures(statics(0.2)).records(), *other], RANK)}
    assert found == {"sort": YES, "copy": NO}
