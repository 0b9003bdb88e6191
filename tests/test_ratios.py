"""No ratio is given where its denominator is not told from zero: pure noise has no shares, gaps or ceilings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_rules import RANK, SEEDS, captures, krylov, record

from lineament.bases import top_directions
from lineament.claims.registry import evaluate_claims
from lineament.claims.verdict import Claim
from lineament.measurements.gradient_planes import PARTS, Compared, FreshPlanes, compare, retained
from lineament.measurements.recovery_captures import LEAST_GAP, NO_BLIND_TOP, CaptureSite, site_captures
from lineament.parameters import Space, Vectors
from lineament.records import MIN_STDERRS, Record, is_told
from lineament.streams import Streams
from lineament.vectors.blind import UpdateRule, blind_gram

N_PARAMS, PLANE_RANK = 400, 4
FLOOR = PLANE_RANK / N_PARAMS


def claim_of(id: str, records: list[Record]) -> Claim:
    return next(claim for claim in evaluate_claims(records, RANK) if claim.id == id)


def planes(generator: np.random.Generator, signal: float) -> tuple[FreshPlanes, list[Vectors]]:
    """Planes of gradients that share `signal` along a few axes, and are noise beside that."""
    space = Space("full", N_PARAMS, "noise")
    sets = []
    for _ in range(PARTS):
        rows = generator.standard_normal((8, N_PARAMS))
        rows[:, :PLANE_RANK] += signal * generator.standard_normal((8, PLANE_RANK))
        sets.append(Vectors(torch.from_numpy(rows).float(), space))
    made = tuple(top_directions(vectors, PLANE_RANK, "plane") for vectors in sets)
    return FreshPlanes(made, retained(made, sets)), sets


def compared(seed: int, signal: float) -> Compared:
    generator = np.random.default_rng(seed)
    (first, _), (second, later) = planes(generator, signal), planes(generator, signal)
    return compare(first, second, retained(first.planes, later))


def test_a_plane_of_noise_has_no_retention_share() -> None:
    """With two degrees of freedom, noise passes the rule in some 5 of 100 comparisons; it had a share of about 1."""
    noise, signal = ([compared(seed, level) for seed in range(60)] for level in (0.0, 30.0))
    plain = [pair.retained[0] / pair.fresh_retained[0] for pair in noise]
    assert np.mean(plain) == pytest.approx(1.0, abs=0.1)
    assert sum(pair.retained_share(FLOOR) is not None for pair in noise) <= 9
    shares = [pair.retained_share(FLOOR) for pair in signal]
    assert all(share is not None for share in shares)
    assert np.mean([share[0] for share in shares if share]) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (1.0, 0.3, True),
        (1.0, 0.34, False),
        (0.0, 0.0, False),
        (-1.0, 0.1, False),
        (float("nan"), 0.1, False),
        (1.0, float("inf"), False),
    ],
)
def test_three_standard_errors_tell_a_number_from_zero(value: float, error: float, told: bool) -> None:
    assert is_told(value, error) is told
    assert MIN_STDERRS == 3


def test_the_ceiling_of_the_krylov_overlap_must_be_above_two_random_planes() -> None:
    def records(ceilings: Sequence[float]) -> list[Record]:
        found = []
        for seed, ceiling in zip(SEEDS, ceilings, strict=True):
            figures = [replace(q, ceiling=ceiling) for q in krylov(seed, 0.19, 0.05)]
            found.append(record("basis_capture", seed, figures))
        return found

    by_chance = RANK / record("x", 0, []).n_params
    noise = claim_of("krylov_prefix", records(tuple(by_chance * f for f in (0.8, 1.1, 0.9, 1.3, 1.0))))
    assert noise.verdict == "inconclusive"
    assert noise.measured is None
    assert "nothing is divided by it" in (noise.reason or "")
    told = claim_of("krylov_prefix", records((0.2, 0.21, 0.19, 0.2, 0.2)))
    assert told.measured == pytest.approx(0.95, abs=0.02)


def test_a_gap_that_is_not_told_from_zero_has_no_share() -> None:
    def share(prefixes: Sequence[float]) -> Claim:
        levels = ({"control_other_data": p, "control_preconditioned": 0.3} for p in prefixes)
        records = [record("basis_capture", s, captures(s, own)) for s, own in zip(SEEDS, levels, strict=True)]
        return claim_of("static_gap_is_metric", records)

    vague = share((0.21, 0.9, 0.205, 0.22, 0.21))
    assert vague.measured is None
    assert "the gap is 0.15 with a standard error of 0.1" in (vague.reason or "")
    clear = share((0.6, 0.62, 0.58, 0.6, 0.6))
    assert clear.measured == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("rule", "stands_out"),
    [
        (UpdateRule("sgd"), False),
        (UpdateRule("adamw"), False),
        (UpdateRule("sgd", momentum=0.9), True),
        (UpdateRule("adamw", momentum=0.9), True),
    ],
)
def test_blind_updates_have_strongest_directions_under_momentum_alone(rule: UpdateRule, stands_out: bool) -> None:
    for n_steps in (60, 200):
        gram = blind_gram(rule, n_steps)
        for rank in (2, 5, 10, 20):
            assert (gram.top_gap(rank, n_steps) > LEAST_GAP) is stands_out, (n_steps, rank, gram.top_gap(rank, n_steps))
        assert gram.top_gap(n_steps, n_steps) == float("inf")


class _Curve:
    n_steps, loss_step = 40, None


class _Recovery:
    def __init__(self, momentum: float) -> None:
        self.curve, self.blind_gram = _Curve(), blind_gram(UpdateRule("sgd", momentum=momentum), 48)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_blind_top_is_left_out_where_it_is_arbitrary(momentum: float) -> None:
    recovery = _Recovery(momentum)
    site = CaptureSite(recovery, blind_gram(UpdateRule("sgd", momentum=0.9), 48), Streams(0), 2)  # type: ignore[arg-type]
    figures = [q for q in site_captures(site, [5]) if q.labels["at"] == "T" and q.labels["definition"] == "whole"]
    by_name = {str(q.labels["basis"]): q for q in figures}
    assert by_name["prefix"].blind is not None
    top = by_name["trajectory_top"]
    assert top.value is not None
    assert (top.blind is None) is (momentum == 0)
    assert top.reason == (NO_BLIND_TOP if momentum == 0 else None)
