"""Figures at ranks that a short recovery or a basis of few directions does not have: why, and what stands instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import oracles
import pytest
import torch
from test_measurements import WHOLE, make_study, updates
from test_schemas import schema

from lineament.claims.registry import evaluate_claims
from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.measurements import basis_capture, random_search, sensitivity
from lineament.measurements.capture_bases import Workbench, make_bases
from lineament.measurements.capture_ranks import compared_ranks
from lineament.measurements.families import STATIC, best_static
from lineament.measurements.inside import functional_figures
from lineament.measurements.recovery_captures import CaptureSite, site_captures
from lineament.records import Quantity, Record
from lineament.report.sections.basis_capture.captures import best_statics, capture_picture
from lineament.report.sections.basis_capture.inside import recover_picture
from lineament.report.sections.basis_capture.tables import space_table
from lineament.report.sections.section import missing_reasons
from lineament.report.series import data_table, undefined_notes
from lineament.study.study import Study

CAPTURE_CLAIMS = {
    "static_plane_misses",
    "prefix_captures",
    "krylov_prefix",
    "prefix_is_privileged",
    "static_gap_is_metric",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("study"))


def with_ranks(study: Study, ranks: tuple[int, ...], headline: int) -> Study:
    measurement = replace(study.settings.measurement, ranks=ranks, headline_rank=headline, inside_all=False)
    return replace(study, settings=replace(study.settings, measurement=measurement))


def reasons(record: Record, quantity: str, **labels: str | int) -> set[str | None]:
    found = list(record.select(quantity, **labels))
    assert found
    assert all(figure.value is None for figure in found)
    return {figure.reason for figure in found}


def require_valid(record: Record, folder: Path) -> None:
    jsonschema.validate(read_json(record.save(folder)), schema("record"))


# --- ranks above T ---


def test_a_recovery_shorter_than_every_rank_says_so(study: Study, tmp_path: Path) -> None:
    end = study.recovered_at
    record = basis_capture.measure(with_ranks(study, (end + 1, end + 9), end + 9))
    why = {f"T = {end} is below every rank ({end + 1}, {end + 9})"}
    for quantity in ("krylov_prefix_overlap", "prefix_share_of_steps", "trained_inside", "projected"):
        assert reasons(record, quantity) == why
    none = {f"T = {end} is below rank {rank}" for rank in (end + 1, end + 9)}
    assert reasons(record, "capture", at="T") == none
    assert {f.labels["space_of"] for f in record.select("capture")} == {"parameters", "lora_effective"}
    assert record.value("recovery_steps") == end
    assert record.value("reference", point="broken", statistic="loss") is not None
    assert evaluate_claims([record], end + 9) == []
    require_valid(record, tmp_path)
    assert capture_picture([record], end + 9) is recover_picture([record], end + 9) is None
    assert f"Seed 0: capture is undefined: {min(none)}." in missing_reasons([record])
    assert f"Seed 0: projected is undefined: {min(why)}." in missing_reasons([record])


def test_random_search_after_a_recovery_shorter_than_every_rank_says_so(study: Study, tmp_path: Path) -> None:
    end = study.recovered_at
    record = random_search.measure(with_ranks(study, (end + 1, end + 9), end + 9))
    assert reasons(record, "gain") == {f"T = {end} is below every rank ({end + 1}, {end + 9})"}
    require_valid(record, tmp_path)


def test_a_cell_of_the_grid_that_recovers_too_fast_says_so(study: Study) -> None:
    short = with_ranks(study, (2, study.recovered_at + 1), study.recovered_at + 1)
    figures = list(sensitivity._captures(short, {"damage": "gaussian", "lr": 0.1}))
    assert {f.labels["basis"] for f in figures} == set(sensitivity.CANDIDATES)
    assert {f.reason for f in figures} == {f"T = {study.recovered_at} is below rank {study.recovered_at + 1}"}


def test_no_basis_is_made_at_a_rank_that_does_not_exist(study: Study) -> None:
    short = with_ranks(study, (study.recovered_at + 1,), study.recovered_at + 1)
    with pytest.raises(InputError, match="is below every rank"):
        _ = Workbench(short).rank


def test_a_recovery_shorter_than_the_headline_rank_says_why_claims_are_absent(study: Study, tmp_path: Path) -> None:
    end = study.recovered_at
    record = basis_capture.measure(with_ranks(study, (2, end + 1), end + 1))
    why = {f"T = {end} is below rank {end + 1}"}
    for quantity in ("krylov_prefix_overlap", "prefix_share_of_steps", "trained_inside", "projected"):
        assert reasons(record, quantity, rank=end + 1) == why
    assert reasons(record, "capture", rank=end + 1, at="T") == why
    assert record.value("capture", **WHOLE, basis="prefix", rank=2) is not None
    assert record.value("trained_inside", basis="prefix", rank=2, statistic="loss") is not None
    assert record.value("trained_inside", role="best_static", for_rank=2, statistic="loss") is not None
    assert not {claim.id for claim in evaluate_claims([record], end + 1)} & CAPTURE_CLAIMS
    # windows are taken, and Krylov spaces compared, at the headline rank of the measurement alone
    elsewhere = {"prefix_is_privileged", "krylov_prefix", "capture_predicts_recovery"}
    assert {claim.id for claim in evaluate_claims([record], 2)} >= CAPTURE_CLAIMS - elsewhere
    require_valid(record, tmp_path)
    picture, inside = capture_picture([record], end + 1), recover_picture([record], end + 1)
    assert picture is not None
    assert inside is not None
    assert any(min(why) in note and f"rank {end + 1}" in note for note in undefined_notes(picture))
    assert inside.panels[0].title == "accuracy at rank 2"
    assert "of the recovery" in picture.title


# --- bases with fewer directions than the headline rank ---


def test_all_bases_are_compared_at_the_full_rank_of_a_static_one(study: Study) -> None:
    """Three tasks have three task vectors: captured at 3, not at the listed 2, and beside the prefix of 3."""
    short = with_ranks(study, (1, 2, 5), 5)
    names = ("task_vectors", "static_broken")
    bases = make_bases(short, names)
    assert bases["task_vectors"].rank == 3
    assert compared_ranks(short, bases) == [1, 2, 3, 5]
    fixed = basis_capture._fixed_bases(Workbench(short), bases)
    site = CaptureSite(study.recovery, study.gram, study.streams, 2, fixed)
    figures = site_captures(site, compared_ranks(short, bases))
    values = {f.labels["basis"]: f.value for f in figures if f.matches("capture", **WHOLE, rank=3)}
    whole = updates(study)[: study.recovered_at].sum(axis=0)
    vectors = bases["task_vectors"].columns.numpy().T
    assert values["task_vectors"] == pytest.approx(oracles.dense_capture(vectors, whole), abs=1e-6)
    assert values["prefix"] == pytest.approx(oracles.dense_capture(updates(study)[:3], whole), abs=1e-6)
    found = best_static(figures, 5)
    assert found is not None
    assert found.capture == max(f.value for f in figures if counts(f))


def counts(figure: Quantity) -> bool:
    """Whether a figure may stand for the static bases: rank 5, or 3 for the task vectors."""
    rank = 3 if figure.labels["basis"] == "task_vectors" else 5
    return (
        figure.matches("capture", **WHOLE, rank=rank) and figure.labels["basis"] in STATIC and figure.value is not None
    )


@pytest.mark.parametrize("every", [False, True])
def test_the_best_static_basis_is_trained_inside_at_its_full_rank(study: Study, every: bool) -> None:
    short = with_ranks(study, (2, 5), 5)
    measurement = replace(short.settings.measurement, inside_all=every)
    short = replace(short, settings=replace(short.settings, measurement=measurement))
    bases = make_bases(short, ("task_vectors", "control_preconditioned", "random"))
    figures = functional_figures(short, bases, "task_vectors")
    best = [f for f in figures if f.matches("trained_inside", role="best_static", statistic="loss")]
    assert [(f.labels["rank"], f.labels["for_rank"]) for f in best] == ([(2, 2), (3, 5)] if every else [(3, 5)])
    assert all(f.value is not None for f in best)
    expected = projected_loss(short, bases["task_vectors"].columns)
    (found,) = [f.value for f in figures if f.matches("projected", basis="task_vectors", rank=3, statistic="loss")]
    assert found == pytest.approx(expected, abs=1e-5)


def projected_loss(study: Study, columns: torch.Tensor) -> float:
    broken = study.points["broken"].double()
    moved = columns @ (columns.T @ (study.points["recovered"].double() - broken))
    with study.problem.parameters.temporarily(broken + moved):
        return study.problem.evaluate(study.problem.fixed(study.target, "held_out")).loss


def capture(basis: str, rank: int, value: float | None, **more: str) -> Quantity:
    reason = None if value is not None else "the basis has fewer directions than this rank"
    return Quantity("capture", value, "fraction", labels={**WHOLE, "basis": basis, "rank": rank, **more}, reason=reason)


def test_best_static_takes_each_basis_at_its_largest_rank_up_to_the_headline() -> None:
    figures = [
        capture("static_star", 5, 0.2),
        capture("static_star", 10, 0.3),
        capture("static_star", 20, 0.9),  # above the headline rank
        capture("task_vectors", 2, 0.8),  # not its full rank
        capture("task_vectors", 6, 0.4),
        capture("task_vectors", 10, None),
        capture("prefix", 10, 1.0),  # not static
        Quantity("capture", 1.0, "fraction", labels={**WHOLE, "at": "2T", "basis": "static_star", "rank": 10}),
    ]
    found = best_static(figures, 10)
    assert found is not None
    assert (found.basis, found.rank, found.capture) == ("task_vectors", 6, 0.4)
    assert best_static(figures[:3], 10).capture == 0.3  # type: ignore[union-attr]
    assert best_static(figures[6:7], 10) is None
    assert np.isclose(best_static([*figures, capture("task_vectors", 9, 0.1)], 10).capture, 0.3)  # type: ignore[union-attr]


def test_the_report_takes_a_static_basis_of_fewer_directions_at_its_full_rank() -> None:
    labels = {"role": "best_static", "rank": 6, "for_rank": 10, "basis": "task_vectors", "statistic": "accuracy"}
    figures = [
        capture("prefix", 10, 0.9),
        capture("static_star", 6, 0.5),
        capture("static_star", 10, 0.3),
        capture("task_vectors", 6, 0.4),
        capture("task_vectors", 10, None),
        Quantity("trained_inside", 0.7, "fraction", labels=labels),
        Quantity("trained_inside", 0.95, "fraction", labels={"basis": "prefix", "rank": 10, "statistic": "accuracy"}),
        Quantity("start_basis_share", 0.2, "fraction", labels={"factor": "A"}),
        Quantity("start_basis_share", 0.8, "fraction", labels={"factor": "B"}),
        capture("prefix", 10, 0.8, space_of="lora_effective"),
    ]
    record = Record("basis_capture", "sort", 0, "synthetic", "toy", "lora_factors", 100, "0" * 16, tuple(figures), {})
    assert best_statics([record], 10) == ["task_vectors", "static_star"]
    picture, inside, table = capture_picture([record], 10), recover_picture([record], 10), space_table([record], 10)
    assert picture is not None
    assert picture.title.endswith("the best fixed plane 40 %")
    assert inside is not None
    assert inside.title.endswith("0.95 in the span of the first updates, 0.70 in the best fixed plane")
    assert any("best fixed plane (per seed)" in row and "0.7" in row for row in data_table(inside).rows)
    assert table is not None
    assert "near the start, 0.2 lies in the factors A and 0.8 in B." in table.note


# --- real runs ---


def test_every_record_of_a_run_is_described(finished: Path) -> None:
    files = sorted((finished / "records").glob("*.json"))
    assert len(files) == 10
    for file in files:
        jsonschema.validate(read_json(file), schema("record"))
    jsonschema.validate(read_json(finished / "claims.json"), schema("claims"))
