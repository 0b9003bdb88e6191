"""The JSON schemas in the package describe what records, claims and sweeps are written as, and refuse all else."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from geometry_records import READ, summaries
from sweep_records import write_sweep

from lineament.claims.advice_line import Advice
from lineament.claims.advice_tests import Condition as AdviceCondition
from lineament.claims.advice_tests import Tested as WasTested
from lineament.claims.claims_file import write_claims
from lineament.claims.registry import CLAIMS
from lineament.files.reading import read_json
from lineament.measurements.families import STATIC
from lineament.records import Quantity, Record
from lineament.runs.sweep.results import write_results

RANK = 10
CAPTURES = {
    **dict.fromkeys((*STATIC, "null_other_task"), 0.2),
    "prefix": 0.7,
    "control_random_times": 0.5,
    "control_preconditioned": 0.4,
    "control_other_data": 0.65,
    "null_noise_prefix": 0.1,
    "null_mean_free_prefix": 0.05,
    "null_preconditioned_shuffled": 0.2,
}


def schema(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((resources.files("lineament") / "schemas" / f"{name}.schema.json").read_text())
    return body


def valid(name: str, body: Any) -> bool:
    return jsonschema.Draft202012Validator(schema(name)).is_valid(body)


def record(measurement: str, seed: int, figures: list[Quantity], **arrays: np.ndarray) -> Record:
    return Record(
        measurement=measurement,
        target="sort",
        seed=seed,
        problem="synthetic",
        model="synthetic transformer 2x64",
        space="lora_factors",
        n_params=1000,
        config_hash="0123456789abcdef",
        quantities=tuple(figures),
        definitions={figure.name: "what it is" for figure in figures},
        arrays=arrays,
    )


def gradient_rank(seed: int) -> Record:
    which = {"point": "broken", "gradients": "minibatch", "centred": "False", "unit_norm": "False", "n": 64}
    shares = {"true": 0.2, "shuffled": 0.6}
    figures = [
        Quantity("k90_share", share + 0.01 * seed, "fraction", labels={**which, "labels": labels})
        for labels, share in shares.items()
    ]
    return record("gradient_rank", seed, figures, energy=np.linspace(1, 0, 4))


def basis_capture(seed: int) -> Record:
    figures = [Quantity("recovery_steps", 40.0, "steps")]
    for definition in ("whole", "rest"):
        for basis, value in CAPTURES.items():
            labels = {"basis": basis, "rank": RANK, "definition": definition, "at": "T", "space_of": "parameters"}
            blind = 0.2 if basis == "prefix" else None
            level = value + 0.01 * seed
            figures.append(Quantity("capture", level, "fraction", stderr=0.01, null=0.1, blind=blind, labels=labels))
    for start in (1, 11, 21):
        labels = {"basis": "control_windows", "rank": RANK, "definition": "whole", "at": "T", "from_step": start}
        level = 0.3 + 0.01 * seed + 0.1 / start
        figures.append(Quantity("window_capture", level, "fraction", blind=0.1, labels=labels))
    for basis in ("krylov", "krylov_preconditioned"):
        labels = {"basis": basis, "rank": RANK}
        overlap = 0.6 + 0.01 * seed
        figures.append(Quantity("krylov_prefix_overlap", overlap, "fraction", null=0.1, ceiling=0.9, labels=labels))
    for loss, basis in enumerate(list(CAPTURES)[:9]):
        labels = {"basis": basis, "rank": RANK, "statistic": "loss"}
        figures.append(Quantity("trained_inside", loss + 0.1 * seed, "nats per target token", labels=labels))
    figures.append(Quantity("capture", float("nan"), "fraction", labels={"basis": "task_vectors", "rank": 20}))
    return record("basis_capture", seed, figures)


def basis_drift(seed: int) -> Record:
    figures = [
        Quantity(
            "retention_at_claim_lags",
            0.3 + 0.01 * seed,
            "fraction",
            stderr=None,
            null=0.1,
            labels={"from": "broken", "lag": 20},
        ),
        Quantity("half_life", 7.0 + seed, "steps", labels={"from": "broken"}),
        Quantity("half_life", None, "steps", labels={"from": "recovered"}, reason="> 40 (largest lag)"),
        Quantity("drift_rate", 0.02 + 0.001 * seed, "per step", labels={"phase": "before"}),
        Quantity("drift_rate", 0.01, "per step", labels={"phase": "after"}),
    ]
    return record("basis_drift", seed, figures)


def random_search(seed: int) -> Record:
    which = {"space": "full", "n": 64}
    figures = [
        Quantity(
            "theorem_ratio",
            0.99 + 0.001 * seed,
            "ratio",
            stderr=0.01,
            null=2.5,
            labels={**which, "cost": 0.25, "sigma": 1e-3, "draws": 8192},
        ),
        Quantity("departure_sigma", 0.01, "per parameter", null=0.01, labels=which),
        Quantity("dimension_slope", 0.01 * (seed - 1), "per log parameter", null=-0.5, labels={"costs": "0.5"}),
        Quantity("density_rank_correlation", 0.9, "rank correlation", null=0.5, labels={"subspaces": "informed"}),
    ]
    return record("random_search", seed, figures)


def steering(seed: int) -> Record:
    best = {"step": "raw", "layer": 2, "n_below": 34}
    figures = [
        Quantity("best_layer_cosine", 0.6 + 0.01 * seed, "cosine", stderr=0.01, null=0.3, labels=best),
        Quantity(
            "effect_ratio",
            0.8 + 0.01 * seed,
            "ratio",
            stderr=0.02,
            null=0.1,
            labels={"layer": 2, "kl": 0.05, "best": "True"},
        ),
    ]
    return record("steering", seed, figures)


def local_geometry(seed: int) -> Record:
    return record("local_geometry", seed, summaries(dict.fromkeys(READ, 0.5 + 0.01 * seed)))


def records(n_seeds: int) -> list[Record]:
    makers = (gradient_rank, basis_capture, basis_drift, random_search, steering, local_geometry)
    return [make(seed) for seed in range(n_seeds) for make in makers]


@pytest.fixture(params=[1, 3], ids=["one seed", "three seeds"])
def claims(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    write_claims(tmp_path, records(request.param), RANK)
    return read_json(tmp_path / "claims.json")


def test_schemas_are_schemas() -> None:
    for file in (resources.files("lineament") / "schemas").iterdir():
        name = file.name.removesuffix(".schema.json")
        jsonschema.Draft202012Validator.check_schema(schema(name))


def test_every_claim_is_described(claims: dict[str, Any]) -> None:
    assert {claim["id"] for claim in claims["claims"]} == set(CLAIMS)
    jsonschema.validate(claims, schema("claims"))


def test_no_records_give_valid_claims(tmp_path: Path) -> None:
    write_claims(tmp_path, [], RANK)
    jsonschema.validate(read_json(tmp_path / "claims.json"), schema("claims"))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("stages/recovery-*.json", "curve"),
        ("recording/*/index.json", "recording"),
        ("state.json", "state"),
        ("provenance.json", "provenance"),
    ],
)
def test_files_of_a_run_are_described(pattern: str, name: str, finished: Path) -> None:
    files = list(finished.glob(pattern))
    assert files
    for file in files:
        jsonschema.validate(read_json(file), schema(name))


@pytest.mark.parametrize("make", [gradient_rank, basis_capture, basis_drift])
def test_saved_records_are_described(make: Any, tmp_path: Path) -> None:
    jsonschema.validate(read_json(make(0).save(tmp_path)), schema("record"))


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "supported", "low": None, "high": None},
        {"low": None, "high": None, "verdict": "inconclusive", "reason": None},
        {"low": None},
        {"measured": None},
        {"verdict": "holds"},
        {"details": {}},
        {"space": "activations"},
        {"extra": 1},
    ],
)
def test_wrong_claims_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    write_claims(tmp_path, records(3), RANK)
    body = read_json(tmp_path / "claims.json")
    assert valid("claims", body)
    body["claims"][0] |= change
    assert not valid("claims", body)


def test_a_missing_field_is_refused(tmp_path: Path) -> None:
    write_claims(tmp_path, records(3), RANK)
    body = read_json(tmp_path / "claims.json")
    for field in body["claims"][0]:
        torn = copy.deepcopy(body)
        del torn["claims"][0][field]
        assert not valid("claims", torn), field


@pytest.mark.parametrize(
    "change",
    [{"value": None, "reason": None}, {"unit": ""}, {"labels": {"rank": [1]}}, {"value": "0.5"}, {"extra": 1}],
)
def test_wrong_figures_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    body = read_json(basis_drift(0).save(tmp_path))
    assert valid("record", body)
    body["figures"][0] |= change
    assert not valid("record", body)


def told(**change: Any) -> dict[str, Any]:
    """What advice.json holds: a line that was tested, one that was not, and one without a value."""
    parts = (AdviceCondition("more than random directions", 0.1, 0.2, True), AdviceCondition("more", None, None, None))
    test = WasTested(None, "20 numbers", 0.9, None, None, "2 recordings", 0.1, 0.2, "span_returned", parts)
    line = Advice("Span", "50 %", 20.0, 1.0, 30.0, "3 recordings", None, "steps", "steps_to_span(share=0.5)", **{
        "quantity": "steps_to_span", "labels": {"share": 0.5, "basis": "prefix"}, "tested": test, "testable": True,
        "says": "the first 20 steps span 50 %", "blind": 40.0,
    })  # fmt: skip
    censored = replace(line, value=None, low=None, high=None, reason="> 40 (largest lag)", tested=None)
    described = replace(line, tested=None, testable=False)
    lines = (replace(line, **change), replace(line, tested=None, no_test="none can be made"), censored, described)
    bodies = [{"target": "sort", **asdict(one), "standing": one.standing} for one in lines]
    return {"schema": 2, "advice": json.loads(json.dumps(bodies))}


def test_advice_is_described() -> None:
    jsonschema.validate(told(), schema("advice"))
    known = {field.name for field in fields(Advice)} | {"target", "standing"}
    assert known == set(schema("advice")["$defs"]["line"]["required"])
    assert {field.name for field in fields(WasTested)} == set(schema("advice")["$defs"]["tested"]["required"])
    for field in known:
        torn = told()
        del torn["advice"][0][field]
        assert not valid("advice", torn), field


@pytest.mark.parametrize(
    "change",
    [
        {"standing": "passed", "tested": None},
        {"standing": "held"},
        {"testable": False},
        {"value": None},
        {"value": "20"},
        {"labels": {"share": [1]}},
        {"tested": {}},
        {"extra": 1},
    ],
)
def test_wrong_advice_is_refused(change: dict[str, Any]) -> None:
    body = told()
    body["advice"][0] |= change
    assert not valid("advice", body)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("tested", {"value": None}),
        ("tested", {"passed": "yes"}),
        ("tested", {"conditions": []}),
        ("conditions", {"holds": True, "low": None}),
        ("conditions", {"extra": 1}),
    ],
)
def test_wrong_tests_of_advice_are_refused(part: str, change: dict[str, Any]) -> None:
    body = told()
    tested = body["advice"][0]["tested"]
    (tested if part == "tested" else tested["conditions"][0]).update(change)
    assert not valid("advice", body)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "sweep")
    write_results(folder)
    body: dict[str, Any] = read_json(folder.results)
    return body


def test_a_sweep_is_described(sweep: dict[str, Any]) -> None:
    jsonschema.validate(sweep, schema("sweep"))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("cells", {"model": 3}),
        ("cells", {"extra": 1}),
        ("differences", {"n_seeds": 0}),
        ("differences", {"low": None, "high": None, "reason": None}),
        ("differences", {"low": 0.1}),
        ("failed", {"message": ""}),
        ("vary", {"values": []}),
    ],
)
def test_wrong_sweeps_are_refused(part: str, change: dict[str, Any], sweep: dict[str, Any]) -> None:
    body = copy.deepcopy(sweep)
    body[part][0] |= change
    assert not valid("sweep", body)


def test_a_sweep_s_claims_follow_the_rules_of_claims(sweep: dict[str, Any]) -> None:
    of_sweep, of_claims = (schema(name)["$defs"]["claim"] for name in ("sweep", "claims"))
    assert of_sweep["allOf"] == of_claims["allOf"]
    assert set(of_claims["properties"]) - {"details"} == set(of_sweep["properties"]) - {"n_seeds", "per_seed"}
