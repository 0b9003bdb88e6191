"""What stands beside the verdicts on weight steps and steering vectors, from hand-made records that follow a law."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from steering_records import (
    KL,
    LAYERS,
    NULL,
    PEAK,
    RANDOM_RATIO,
    RATIO,
    SEEDS,
    SIZES,
    STRENGTH,
    best_of,
    cosine_at,
    steering_records,
    without_reference,
)

from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Claim
from lineament.commands.verdict_tables import claims_table
from lineament.records import Record
from lineament.report.verdicts import meaning

FACTOR = float(np.mean([1 + shift for _, shift in SEEDS]))


def claim_of(records: list[Record], id: str) -> Claim:
    return next(claim for claim in evaluate_claims(records, 10) if claim.id == id)


def test_the_law_supports_both_claims() -> None:
    claims = {claim.id: claim for claim in evaluate_claims(steering_records(), 10)}
    assert list(claims) == ["step_matches_caa", "step_steers"]
    matches, steers = claims.values()
    assert (matches.verdict, steers.verdict) == ("supported", "supported")
    assert (matches.measured, matches.null, matches.paper) == pytest.approx((PEAK, NULL, 0.58))
    assert (steers.measured, steers.null, steers.paper) == (pytest.approx(RATIO), pytest.approx(RANDOM_RATIO), None)


@pytest.mark.parametrize("words", [False, True])
def test_the_ratio_is_that_of_the_best_layer_however_yes_is_written(words: bool) -> None:
    claim = claim_of(steering_records(words=words), "step_steers")
    assert claim.measured == pytest.approx(RATIO)
    assert claim.details["layer"] == {str(seed): best_of(seed) for seed in range(len(SEEDS))}


def test_a_weak_or_drowned_step_is_refused() -> None:
    weak = steering_records(step=STRENGTH["step"] / 3)
    assert claim_of(weak, "step_steers").verdict == "not_supported"
    drowned = claim_of(steering_records(null=0.7), "step_matches_caa")
    assert drowned.verdict == "not_supported"
    assert drowned.details["minus_largest_null"]["high"] < 0


def test_a_step_that_steers_no_more_than_weight_noise_is_refused() -> None:
    """0.75 of the vector's effect would do, if noise did not have as much."""

    def noisy(null: float | None) -> list[Record]:
        changed = [
            [replace(q, null=null) if q.name == "effect_ratio" else q for q in record.quantities]
            for record in steering_records()
        ]
        return [
            replace(record, quantities=tuple(found)) for record, found in zip(steering_records(), changed, strict=True)
        ]

    assert claim_of(noisy(0.4), "step_steers").verdict == "supported"
    loud = claim_of(noisy(0.9), "step_steers")
    assert loud.verdict == "not_supported"
    assert loud.details["minus_random"]["high"] < 0
    assert claim_of(noisy(RATIO), "step_steers").verdict == "inconclusive"
    assert claim_of(noisy(None), "step_steers").verdict == "inconclusive"


def test_details_of_the_cosine_are_taken_at_each_seed_s_best_layer() -> None:
    details = claim_of(steering_records(), "step_matches_caa").details
    for step, factor in (("raw", 1.0), ("adam", 0.5)):
        expected = {
            str(layer): pytest.approx(factor * np.mean([cosine_at(layer, best, PEAK + shift) for best, shift in SEEDS]))
            for layer in range(1, LAYERS + 1)
        }
        assert details["cosine_by_layer"][step] == expected
    assert details["best_layer"] == {str(seed): best_of(seed) for seed in range(len(SEEDS))}
    assert details["null_draws_below"] == dict.fromkeys("012", 36)
    by_kind = {"random_weights": NULL, "shuffled_labels": 0.9 * NULL, "other_tasks": 0.95 * NULL}
    assert details["largest_null_by_kind"] == pytest.approx(by_kind)
    assert details["split_half_agreement"] == dict.fromkeys("012", 0.99)
    assert details["finite_shift"]["mean"] == pytest.approx(0.9 * PEAK)
    assert details["adam_best_layer"] == pytest.approx(0.5 * PEAK)
    assert details["linearity_by_size"] == {f"{s:g}": pytest.approx(1 / np.sqrt(1 + s * s)) for s in SIZES}
    lead = details["minus_largest_null"]
    shifts = [shift for _, shift in SEEDS]
    assert (lead["low"], lead["high"]) == pytest.approx((PEAK + min(shifts) - NULL, PEAK + max(shifts) - NULL))


def test_details_of_the_effect_hold_doses_collateral_and_ratios_by_layer() -> None:
    details = claim_of(steering_records(), "step_steers").details
    assert details["kl"] == KL
    assert details["dose"] == pytest.approx({"caa": 0.25, "step": 0.25, "random": 0.125})
    # the signs of random directions mean nothing: sizes are averaged
    expected = {name: FACTOR * STRENGTH[name] * details["dose"][name] for name in STRENGTH}
    assert details["effect"] == pytest.approx(expected)
    harm = {
        name: float(np.mean([h * best_of(s) for s in range(len(SEEDS))])) for name, h in (("caa", 0.01), ("step", 0.02))
    }
    for task in ("copy", "reverse"):
        assert details["collateral_loss"][task] == pytest.approx({name: 2 * h for name, h in harm.items()})
        assert details["collateral_accuracy"][task] == pytest.approx({name: -h for name, h in harm.items()})
    assert set(details["ratio_by_layer"]) == {"2", "3", "4"}
    assert details["ratio_by_layer"]["2"] == pytest.approx(0.75 * 0.98)


def test_without_a_reference_both_claims_say_why() -> None:
    claims = evaluate_claims([without_reference(0), without_reference(1)], 10)
    assert [claim.id for claim in claims] == ["step_matches_caa", "step_steers"]
    for claim in claims:
        assert (claim.verdict, claim.measured, claim.low) == ("inconclusive", None, None)
        assert claim.reason == "no figure in seed 0, 1: no layer's CAA vector agrees with itself to 0.95"
        assert claim.details["dropped_seeds"] == [0, 1]
        assert "agrees with itself" in meaning(claim)


def test_three_seeds_with_a_reference_decide_without_the_fourth() -> None:
    """What makes a reference is known before any step is looked at, so leaving a seed out selects on no result."""
    records = [*steering_records(), without_reference(3)]
    for id in ("step_matches_caa", "step_steers"):
        claim = claim_of(records, id)
        assert (claim.verdict, claim.details["n_seeds"], claim.details["dropped_seeds"]) == ("supported", 3, [3])


def test_a_seed_that_cannot_reach_the_price_leaves_the_effect_open() -> None:
    """How far its vector would steer is unknown, and it may be left out for being weak."""
    records = steering_records()
    figures = [
        replace(f, value=None, reason="a vector does not reach this KL") if f.name == "effect_ratio" else f
        for f in records[1].quantities
    ]
    records[1] = replace(records[1], quantities=tuple(figures))
    claim = claim_of(records, "step_steers")
    assert (claim.verdict, claim.reason) == ("inconclusive", "no figure in seed 1: a vector does not reach this KL")
    assert claim.measured is not None


def test_one_seed_decides_nothing() -> None:
    for claim in evaluate_claims(steering_records()[:1], 10):
        assert (claim.verdict, claim.reason, claim.low) == ("inconclusive", "one seed", None)


def test_the_paper_s_cosine_stands_beside_runs_on_all_weights_too() -> None:
    records = [replace(record, space="full") for record in steering_records()]
    assert claim_of(records, "step_matches_caa").paper == 0.58


def test_words_name_the_part_of_the_rule_that_is_open_or_fails() -> None:
    mixed = meaning(claim_of(steering_records(null=0.59), "step_matches_caa"))
    undecided, holds = mixed.split("Holds: ")
    assert "largest null draw" in undecided
    assert "reaches both sides of 0" in undecided
    assert "is above 0.3" in holds
    small = meaning(claim_of(steering_records(peak=0.2, null=0.1), "step_matches_caa"))
    assert small.split("Fails: ")[1].startswith("cosine, 0.2 [")
    drowned = meaning(claim_of(steering_records(null=0.7), "step_matches_caa"))
    assert "largest null draw" in drowned.split("Fails: ")[1]


def test_a_long_reason_leaves_room_for_every_column_at_80_characters() -> None:
    claims = [
        replace(
            step_matches_caa_of("words"),
            reason="no figure in seed 0: no layer agrees with itself",
            id=name,
        )
        for name in ("step_matches_caa", "prefix_captures")
    ]
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(claims_table([*claims, replace(claims[0], task="numbers")]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("prefix_captures", "step_matches_caa", "inconclusive", "numbers", "no figure in ..."):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80


def step_matches_caa_of(task: str) -> Claim:
    """A claim without an interval."""
    words = {"space": "lora_factors", "definition": "d", "unit": "cosine", "rule": "r", "verdict": "inconclusive"}
    numbers = dict.fromkeys(("rank", "paper", "measured", "low", "high", "null"))
    return Claim(id="x", task=task, **words, **numbers)  # type: ignore[arg-type]
