"""Every rule can hold, can fail, and never holds for a blind run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import geometry_cases
import numpy as np
import pytest
from geometry_records import summaries

from lineament.claims.intervals import over_seeds
from lineament.claims.registry import CLAIMS, evaluate_claims
from lineament.measurements.captures import definitions, own_candidates
from lineament.records import Label, Quantity, Record
from lineament.streams import Streams
from lineament.vectors.blind import UpdateRule, blind_gram

RANK, SEEDS, N_PARAMS = 10, range(5), 18_432
ADAMW = UpdateRule("adamw", momentum=0.9)


def record(measurement: str, seed: int, quantities: list[Quantity]) -> Record:
    return Record(
        measurement, "sort", seed, "synthetic", "toy", "lora_factors", N_PARAMS, "0" * 16, tuple(quantities), {}
    )


def wobble(seed: int, size: float = 0.01) -> float:
    return size * (seed - 2)


def capture(basis: str, value: float, blind: float | None = None, **labels: Label) -> Quantity:
    which: dict[str, Label] = {"basis": basis, "rank": RANK, "definition": "whole", "at": "T", "space_of": "parameters"}
    return Quantity("capture", value, "fraction", blind=blind, labels={**which, **labels})


CAPTURES = {
    "prefix": 0.7,
    "control_other_data": 0.7,
    "static_broken": 0.2,
    "control_preconditioned": 0.5,
    "null_preconditioned_shuffled": 0.3,
    "null_noise_prefix": 0.3,
    "null_mean_free_prefix": 0.05,
}


def captures(seed: int, values: Mapping[str, float], blind: float = 0.2) -> list[Quantity]:
    own = {**CAPTURES, **values}
    found = [capture(name, value + wobble(seed), blind if name == "prefix" else None) for name, value in own.items()]
    return [Quantity("recovery_steps", 100.0, "steps"), *found]


def windows(seed: int, first: float, later: float) -> list[Quantity]:
    labels: dict[str, Label] = {"basis": "control_windows", "rank": RANK, "definition": "whole", "at": "T"}
    values = {1: first, 11: later, 21: later}
    return [
        Quantity("window_capture", v + wobble(seed), "fraction", blind=0.1, labels={**labels, "from_step": s})
        for s, v in values.items()
    ]


def krylov(seed: int, overlap: float, null: float) -> list[Quantity]:
    labels: dict[str, Label] = {"basis": "krylov_preconditioned", "rank": RANK}
    value = overlap + wobble(seed)
    return [Quantity("krylov_prefix_overlap", value, "fraction", null=null, ceiling=0.2, labels=labels)]


def drift(kept: float) -> Callable[[int], list[Quantity]]:
    return lambda seed: [
        Quantity("retention_at_claim_lags", kept + wobble(seed), "fraction", null=0.1, labels={"from": "broken"})
    ]


def rates(before: float, after: float) -> Callable[[int], list[Quantity]]:
    return lambda seed: [
        Quantity("drift_rate", value + wobble(seed, 1e-4), "per step", labels={"phase": phase})
        for phase, value in (("before", before), ("after", after + wobble(seed, 2e-4)))
    ]


def spectrum(uncentred: float, centred: float, shuffled: float) -> Callable[[int], list[Quantity]]:
    def at(seed: int) -> list[Quantity]:
        where: dict[str, Label] = {"point": "broken", "gradients": "minibatch", "unit_norm": "False", "n": 64}
        values = {("True", "true"): centred, ("True", "shuffled"): shuffled, ("False", "true"): uncentred}
        return [
            Quantity("k90_share", v + wobble(seed), "fraction", labels={**where, "centred": c, "labels": labels})
            for (c, labels), v in values.items()
        ]

    return at


def trained_inside(sign: float) -> Callable[[int], list[Quantity]]:
    def at(seed: int) -> list[Quantity]:
        found = []
        for number in range(9):
            name = f"basis_{number}"
            labels: dict[str, Label] = {"basis": name, "rank": RANK, "statistic": "loss"}
            swapped = number + 0.6 * ((number + seed) % 2)
            found.append(capture(name, 0.1 * number))
            found.append(Quantity("trained_inside", -sign * swapped, "nats per target token", labels=labels))
        return found

    return at


def theorem(ratio: float) -> Callable[[int], list[Quantity]]:
    labels: dict[str, Label] = {"space": "full", "cost": 0.25, "n": 64, "draws": 8192}
    return lambda seed: [Quantity("theorem_ratio", ratio + wobble(seed), "ratio", stderr=0.02, labels=labels)]


def slopes(small_steps: float, large_steps: float) -> Callable[[int], list[Quantity]]:
    by_cost = {"0.01": small_steps, "0.1": small_steps, "0.5": large_steps}
    return lambda seed: [
        Quantity("dimension_slope", slope + wobble(seed), "per log parameter", labels={"costs": cost})
        for cost, slope in by_cost.items()
    ]


def density(correlation: float, others: float) -> Callable[[int], list[Quantity]]:
    labels: dict[str, Label] = {"subspaces": "informed", "other_tasks": 5}
    return lambda seed: [
        Quantity("density_rank_correlation", correlation + wobble(seed), "rank correlation", null=others, labels=labels)
    ]


def cosines(step: float, nulls: Mapping[str, float]) -> Callable[[int], list[Quantity]]:
    def at(seed: int) -> list[Quantity]:
        best: dict[str, Label] = {"step": "raw", "layer": 2, "n_below": 36}
        draws = [
            Quantity("null_best_layer_cosine", value, "cosine", labels={"null": kind, "draw": 0})
            for kind, value in nulls.items()
        ]
        largest = max(nulls.values())
        return [Quantity("best_layer_cosine", step + wobble(seed), "cosine", null=largest, labels=best), *draws]

    return at


def effects(ratio: float, noise: float) -> Callable[[int], list[Quantity]]:
    labels: dict[str, Label] = {"layer": 2, "kl": 0.05, "best": "True"}
    return lambda seed: [Quantity("effect_ratio", ratio + wobble(seed), "ratio", null=noise, labels=labels)]


Make = Callable[[int], list[Quantity]]
# claim -> measurement, records of a truth, records of a falsehood
CASES: dict[str, tuple[str, Make, Make]] = {
    "gradient_low_rank": ("gradient_rank", spectrum(0.1, 0.3, 0.5), spectrum(0.1, 0.5, 0.4)),
    "static_plane_misses": (
        "basis_capture",
        lambda seed: captures(seed, {}),
        lambda seed: captures(seed, {"static_broken": 0.6}),
    ),
    "prefix_captures": (
        "basis_capture",
        lambda seed: captures(seed, {}),
        lambda seed: captures(seed, {"control_other_data": 0.1}),
    ),
    "paper_figure_is_blind": (
        "basis_capture",
        lambda seed: captures(seed, {"prefix": 0.7}, blind=0.69),
        lambda seed: captures(seed, {"prefix": 0.7}, blind=0.2),
    ),
    "krylov_prefix": ("basis_capture", lambda seed: krylov(seed, 0.15, 0.05), lambda seed: krylov(seed, 0.05, 0.01)),
    "prefix_is_privileged": (
        "basis_capture",
        lambda seed: windows(seed, 0.6, 0.3),
        lambda seed: windows(seed, 0.3, 0.4),
    ),
    "static_gap_is_metric": (
        "basis_capture",
        lambda seed: captures(seed, {}),
        lambda seed: captures(seed, {"null_preconditioned_shuffled": 0.6}),
    ),
    "capture_predicts_recovery": ("basis_capture", trained_inside(1.0), trained_inside(-1.0)),
    "basis_drifts": ("basis_drift", drift(0.2), drift(0.8)),
    "best_of_n_theorem": ("random_search", theorem(1.0), theorem(1.3)),
    "dimension_free": ("random_search", slopes(0.0, 0.0), slopes(0.0, -0.2)),
    "signal_density": ("random_search", density(0.9, 0.2), density(0.8, 0.95)),
    "step_matches_caa": (
        "steering",
        cosines(0.9, {"random_weights": 0.8, "shuffled_labels": 0.3, "other_tasks": 0.7}),
        cosines(0.9, {"random_weights": 0.5, "shuffled_labels": 0.3, "other_tasks": 0.97}),
    ),
    "step_steers": ("steering", effects(0.8, 0.4), effects(0.8, 0.95)),
    "drift_follows_loss": ("basis_drift", rates(0.02, 0.005), rates(0.005, 0.02)),
    **geometry_cases.CASES,
}


def verdict(id: str, measurement: str, make: Make) -> str:
    found = {c.id: c for c in evaluate_claims([record(measurement, seed, make(seed)) for seed in SEEDS], RANK)}
    return found[id].verdict


@pytest.mark.parametrize("id", CASES)
def test_a_truth_is_supported_and_a_falsehood_is_not(id: str) -> None:
    measurement, truth, falsehood = CASES[id]
    assert verdict(id, measurement, truth) == "supported"
    assert verdict(id, measurement, falsehood) == "not_supported"


def test_every_claim_has_its_cases() -> None:
    assert set(CASES) == set(CLAIMS)


# --- blind runs ---


def blind_record(n_steps: int, seed: int) -> Record:
    """What basis_capture records of an AdamW run on noise: real captures of its Gram matrix, and chance elsewhere."""
    run, expected = (blind_gram(ADAMW, n_steps, n_coordinates=N_PARAMS, seed=s) for s in (seed + 1, 0))
    generator = np.random.default_rng(seed)
    quantities = [Quantity("recovery_steps", float(n_steps), "steps")]
    both = [own_candidates(g, n_steps, 5, lambda k: Streams(seed).generator("t", k)) for g in (run, expected)]
    for name in ("prefix", "control_random_times"):
        values = []
        for gram, made in zip((run, expected), both, strict=True):
            labels, weights_of = next(iter(definitions(gram, RANK, {"T": n_steps})))
            values.append(np.mean([gram.capture(c.coefficients, weights_of(c)) for c in made[name](RANK)]))
        quantities.append(capture(name, float(values[0]), float(values[1])))
    # bases that are not made of this run's updates are random directions to it
    chance = RANK / N_PARAMS
    for name in ("control_other_data", "static_broken", "control_preconditioned", "null_preconditioned_shuffled",
                 "null_noise_prefix", "null_mean_free_prefix"):  # fmt: skip
        quantities.append(capture(name, chance * generator.uniform(0.5, 1.5)))
    whole = run.displacement(1, n_steps)
    for start in range(1, n_steps - RANK + 2, RANK):
        steps = range(start, start + RANK)
        labels = {"basis": "control_windows", "rank": RANK, "definition": "whole", "at": "T", "from_step": start}
        value, blind = (g.capture(g.span(steps), whole) for g in (run, expected))
        quantities.append(Quantity("window_capture", value, "fraction", blind=blind, labels=labels))
    labels = {"basis": "krylov_preconditioned", "rank": RANK}
    draws = [chance * generator.uniform(0.5, 1.5) for _ in range(3)]
    quantities.append(
        Quantity("krylov_prefix_overlap", draws[0], "fraction", null=draws[1], ceiling=draws[2], labels=labels)
    )
    return record("basis_capture", seed, quantities)


@pytest.mark.parametrize("n_steps", [35, 100])
def test_a_blind_run_supports_nothing_but_its_blindness(n_steps: int) -> None:
    claims = {c.id: c for c in evaluate_claims([blind_record(n_steps, seed) for seed in SEEDS], RANK)}
    assert {"prefix_captures", "paper_figure_is_blind", "prefix_is_privileged", "krylov_prefix"} <= set(claims)
    assert claims["paper_figure_is_blind"].verdict == "supported"
    # a fixed plane does miss a path of noise: that is no sign of structure, and says so of noise as of anything
    harmless = {"paper_figure_is_blind", "static_plane_misses"}
    assert {c.id for c in claims.values() if c.verdict == "supported"} <= harmless
    assert claims["prefix_captures"].blind == pytest.approx(claims["prefix_captures"].measured, abs=0.03)


def test_a_search_or_step_that_knows_nothing_supports_nothing() -> None:
    """Gains of any size, ranks and cosines as other gradients have them: what blind draws and steps would record."""

    def blind(seed: int) -> list[Quantity]:
        generator = np.random.default_rng(seed)
        found = theorem(float(np.exp(generator.normal())))(seed) + slopes(0.0, float(generator.normal()))(seed)
        ranks = generator.uniform(-0.6, 0.6, size=2)
        return found + density(float(ranks[0]), float(ranks[1]))(seed)

    def blind_step(seed: int) -> list[Quantity]:
        """One more draw of weight noise among 24 others, and its effect."""
        draws = np.random.default_rng(seed).uniform(0.5, 0.9, size=26)
        nulls = {f"draw {i}": float(draw) for i, draw in enumerate(draws[1:])}
        return cosines(float(draws[0]), nulls)(seed) + effects(float(draws[0]), float(draws[1:4].mean()))(seed)

    records = [record("random_search", seed, blind(seed)) for seed in SEEDS]
    records += [record("steering", seed, blind_step(seed)) for seed in SEEDS]
    claims = evaluate_claims(records, RANK)
    assert len(claims) == 5
    assert not [claim.id for claim in claims if claim.verdict == "supported"]


def blind_geometry(seed: int) -> list[Quantity]:
    """What gradients that know nothing give: no window, no prediction, pairs of tasks as pairs of batches of one task,
    shifts of measurement noise, whose sums do not add up at any scale."""
    generator = np.random.default_rng(seed)
    inside = generator.uniform(0.1, 0.9)
    shares = generator.normal(1.0, 0.3, size=3)
    return summaries(
        {
            "window": 1e-5,
            "slope": float(generator.normal()),
            "r2": float(generator.uniform(0.0, 0.5)),
            "additive": float(generator.uniform(0.1, 0.4)),
            "decades": float(generator.uniform(0.3, 0.9)),
            "order_ratio": float(np.exp(generator.normal(2.0))),
            "onset_kappa": float(np.exp(generator.normal())),
            "inside": inside,
            "inside_within": inside + float(generator.normal(0.0, 0.1)),
            "half_life": None,  # two planes of noise agree as little at lag 0
            "defect": float(generator.uniform(0.5, 1.0)),
            "defect_full": float(generator.uniform(0.5, 1.0)),
            "steering": float(shares[0]),
            "steering_other": float(shares[1]),
            "steering_random": float(shares[2]),
        }
    )


def test_a_geometry_that_knows_nothing_supports_nothing() -> None:
    claims = evaluate_claims([record("local_geometry", seed, blind_geometry(seed)) for seed in SEEDS], RANK)
    assert {claim.id for claim in claims} == set(geometry_cases.CASES)
    assert not [claim.id for claim in claims if claim.verdict == "supported"]


# --- seeds that drop out, tasks that decide nothing ---


def test_a_seed_without_a_figure_leaves_the_verdict_open() -> None:
    records = [record("basis_capture", seed, captures(seed, {})) for seed in SEEDS]
    lost = [q for q in records[3].quantities if q.labels.get("basis") != "prefix"]
    records[3] = replace(records[3], quantities=tuple(lost))
    claim = next(c for c in evaluate_claims(records, RANK) if c.id == "prefix_captures")
    assert claim.verdict == "inconclusive"
    assert claim.reason == "this figure in 4 of 5 seeds"


@pytest.mark.parametrize(("trained", "damaged", "words"), [(0.7, 0.1, "not learned"), (0.9, 0.8, "not lost")])
def test_a_task_that_was_not_learned_or_not_lost_decides_nothing(trained: float, damaged: float, words: str) -> None:
    where: dict[str, Label] = {"task": "sort", "statistic": "accuracy"}
    accuracy = [
        Quantity("evaluation", value, "fraction", labels={**where, "point": point})
        for point, value in (("star", trained), ("broken", damaged))
    ]
    records = [record("basis_capture", seed, [*captures(seed, {}), *accuracy]) for seed in SEEDS]
    claim = next(c for c in evaluate_claims(records, RANK) if c.id == "prefix_captures")
    assert claim.verdict == "inconclusive"
    assert words in str(claim.reason)


# --- point and interval of one parameter ---


def test_point_and_interval_of_a_fraction_are_of_its_logit_mean() -> None:
    interval = over_seeds([0.9, 0.99, 0.999], fraction=True)
    logits = np.log(np.array([0.9, 0.99, 0.999]) / np.array([0.1, 0.01, 0.001]))
    assert interval.mean == pytest.approx(1 / (1 + np.exp(-logits.mean())))


@pytest.mark.parametrize("smallest", [1e-2, 1e-4])
def test_an_exact_end_follows_the_other_seeds_and_no_constant(smallest: float) -> None:
    nearest = min(smallest / 2, 1e-3)
    expected = over_seeds([nearest, smallest, 2 * smallest], fraction=True)
    assert over_seeds([0.0, smallest, 2 * smallest], fraction=True) == expected


@pytest.mark.parametrize("n_seeds", [3, 5, 8])
@pytest.mark.parametrize("center", [0.05, 0.5, 0.95])
def test_intervals_cover_the_parameter_that_they_are_printed_with(n_seeds: int, center: float) -> None:
    """Seeds drawn on the logit scale, and as clipped normals: at least 93 % of intervals hold what they estimate."""
    generator = np.random.default_rng(n_seeds)
    logit = np.log(center / (1 - center))
    for spread in (0.3, 1.0):
        draws = 1 / (1 + np.exp(-(logit + spread * generator.standard_normal((2000, n_seeds)))))
        held = [(i := over_seeds(row, fraction=True)).low <= center <= i.high for row in draws]  # type: ignore[operator]
        assert np.mean(held) >= 0.93


# --- what is positive and spans decades ---


def test_point_and_interval_of_a_positive_quantity_are_of_its_geometric_mean() -> None:
    interval = over_seeds([0.01, 0.1, 1.0], log=True)
    half = 4.302652729696142 * np.log(10) / np.sqrt(3)  # Student's t with two degrees of freedom
    ends = [0.1 * np.exp(-half), 0.1, 0.1 * np.exp(half)]
    assert [interval.low, interval.mean, interval.high] == pytest.approx(ends)
    assert over_seeds([0.01] * 3, log=True) == over_seeds([0.01] * 3)
    assert over_seeds([0.1, 0.2], log=True).pair == (0.1, 0.2)
    with pytest.raises(ValueError, match="0 has no logarithm"):
        over_seeds([0.0, 1.0], log=True)
