"""What is computed from a sweep's cells: claims, paired differences, failed jobs, and tables that pandas reads."""

from __future__ import annotations

import errno
import gc
import json
import weakref
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pandas
import pyarrow.parquet as pq
import pytest
from sweep_records import (
    FAILED_SEED,
    FAILURE,
    OPTIMIZERS,
    VARY,
    base,
    basis_drift,
    gradient_rank,
    overlap,
    write_cell,
    write_sweep,
)

from lineament.claims.intervals import over_seeds
from lineament.errors import InputError, LineamentError
from lineament.files.reading import read_json
from lineament.files.writing import TEMPORARY_PREFIX
from lineament.records import load_records
from lineament.runs.sweep import results
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.results import write_results
from lineament.runs.sweep.table import write_tables


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "sweep")
    write_results(folder)
    write_tables(folder)
    return folder


@pytest.fixture
def body(sweep: SweepFolder) -> dict[str, Any]:
    return read_json(sweep.results)


def claim(body: dict[str, Any], cell: int, name: str) -> dict[str, Any]:
    return next(found for found in body["cells"][cell]["claims"] if found["id"] == name)


def differences(body: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [d for d in body["differences"] if all(d[key] == value for key, value in wanted.items())]


def test_sweep_json_is_described_by_its_schema(body: dict[str, Any]) -> None:
    text = (resources.files("lineament") / "schemas" / "sweep.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    jsonschema.validate(body, json.loads(text))
    assert body["vary"] == [{"key": key, "values": list(values)} for key, values in VARY.items()]


def test_a_cell_s_claim_is_the_interval_over_its_seeds(body: dict[str, Any]) -> None:
    found = claim(body, 1, "basis_drifts")
    values = [overlap("sgd", 0.01, seed) for seed in range(3)]
    interval = over_seeds(values)
    assert (found["measured"], found["low"], found["high"]) == pytest.approx(
        (interval.mean, interval.low, interval.high)
    )
    assert found["per_seed"] == pytest.approx({str(seed): value for seed, value in enumerate(values)})
    assert found["null"] == pytest.approx(0.07)
    assert found["n_seeds"] == 3


def test_every_cell_with_records_has_its_own_claims_file_and_no_report(sweep: SweepFolder) -> None:
    for cell in list(sweep.grid().cells())[:-1]:
        held = read_json(sweep.run(cell).path / "claims.json")
        assert {found["id"] for found in held["claims"]} == {"gradient_low_rank", "basis_drifts", "drift_follows_loss"}
        assert not (sweep.run(cell).path / "report.html").exists()


def test_failed_and_missing_jobs_are_listed_and_break_nothing(body: dict[str, Any]) -> None:
    first, last = body["cells"][0], body["cells"][-1]
    assert body["failed"] == [{"cell": first["name"], "seed": FAILED_SEED, "message": FAILURE}]
    assert first["seeds_done"] == [0, 1]
    assert last["claims"] == last["seeds_done"] == []
    assert (last["model"], last["n_params"], last["n_records"]) == (None, None, 0)
    assert body["jobs"] == {"planned": 18, "done": 14, "failed": 1}


def test_a_difference_is_paired_over_the_seeds_that_both_cells_have(body: dict[str, Any]) -> None:
    (found,) = differences(
        body, key="recovery.lr", other=0.1, claim="basis_drifts", fixed={"recovery.optimizer": "sgd"}
    )
    # Seed 2 of the first cell failed. Other minus first is 0.10 + 0.02 seed: 0.10 and 0.12.
    assert found["n_seeds"] == 2
    assert found["mean"] == pytest.approx(0.11)
    assert (found["low"], found["high"], found["reason"]) == (None, None, "two seeds")
    assert found["pair"] == pytest.approx([0.10, 0.12])
    assert (found["first"], found["first_cell"]) == (0.001, "optimizer=sgd,lr=0.001")
    assert (found["unit"], found["task"]) == ("fraction", "sort")


def test_differences_hold_all_other_keys_fixed_and_start_from_the_first_value(body: dict[str, Any]) -> None:
    found = differences(body, claim="basis_drifts")
    # The last cell is empty: sgd's two step sizes against the first, adamw's one, and two of three step sizes.
    assert [(d["key"], d["other"], d["fixed"]) for d in found] == [
        ("recovery.optimizer", "adamw", {"recovery.lr": 0.001}),
        ("recovery.optimizer", "adamw", {"recovery.lr": 0.01}),
        ("recovery.lr", 0.01, {"recovery.optimizer": "sgd"}),
        ("recovery.lr", 0.1, {"recovery.optimizer": "sgd"}),
        ("recovery.lr", 0.01, {"recovery.optimizer": "adamw"}),
    ]
    assert {round(d["mean"], 9) for d in found[:2]} == {0.1}


def test_one_seed_has_differences_without_an_interval(tmp_path: Path) -> None:
    body = write_results(write_sweep(tmp_path / "sweep", base(seeds=1)))
    found = differences(body, claim="basis_drifts", key="recovery.optimizer")
    assert {(d["low"], d["high"], d["n_seeds"], d["reason"]) for d in found} == {(None, None, 1, "one seed")}
    assert found[0]["mean"] == pytest.approx(0.1)


def test_a_job_whose_records_are_all_there_did_not_fail(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    cell = next(folder.grid().cells())
    for make in (gradient_rank, basis_drift):
        make(cell, FAILED_SEED).save(folder.run(cell).records)  # and the process was killed before it could say so
    assert write_results(folder)["failed"] == []


@pytest.mark.slow
def test_only_one_cell_s_records_are_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen, most = write_sweep(tmp_path / "sweep"), [], []

    def load(path: Path, **options: Any) -> Any:
        gc.collect()
        most.append(sum(reference() is not None for reference in seen))
        found = load_records(path, **options)
        seen.extend(weakref.ref(record) for record in found)
        return found

    monkeypatch.setattr(results, "load_records", load)
    write_results(folder)
    assert max(most) <= 6
    assert len(seen) > 20


def test_the_same_records_give_the_same_bytes(sweep: SweepFolder) -> None:
    files = (sweep.results, sweep.records_table, sweep.claims_table)
    before = [path.read_bytes() for path in files]
    write_results(sweep)
    write_tables(sweep)
    assert [path.read_bytes() for path in files] == before


def test_pandas_reads_every_figure_with_types(sweep: SweepFolder) -> None:
    frame = pandas.read_parquet(sweep.records_table)
    assert len(frame) == 14 * 6
    assert frame["recovery.lr"].dtype == "float64"
    assert frame["seed"].dtype == "int64"
    assert set(frame["recovery.optimizer"]) == set(OPTIMIZERS)
    # Not every figure has each label: numbers with gaps are floating in pandas, whole in the file.
    types = dict(zip(pq.read_schema(sweep.records_table).names, pq.read_schema(sweep.records_table).types, strict=True))
    assert str(types["label.lag"]) == str(types["label.n"]) == "int64"
    assert str(types["label.step_size"]) == "double"
    assert str(types["label.labels"]) == "string"
    chosen = frame[(frame["quantity"] == "retention_at_claim_lags") & (frame["recovery.lr"] == 0.01)]
    row = chosen[(chosen["recovery.optimizer"] == "adamw") & (chosen["seed"] == 1)].iloc[0]
    assert row["value"] == pytest.approx(overlap("adamw", 0.01, 1))
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - 0.0195996, row["value"] + 0.0195996), abs=1e-6)
    assert row["null_value"] == pytest.approx(0.07)
    assert (row["blind"], row["ceiling"]) == pytest.approx((0.035, 0.9))
    undefined = frame[frame["quantity"] == "half_life"]
    assert undefined["value"].isna().all()
    assert undefined["low"].isna().all()
    assert set(undefined["reason"]) == {"> 40 (largest lag)"}
    assert pq.ParquetFile(sweep.records_table).num_row_groups == 5


def test_pandas_reads_every_claim(sweep: SweepFolder, body: dict[str, Any]) -> None:
    frame = pandas.read_parquet(sweep.claims_table)
    assert len(frame) == 15
    for cell in body["cells"]:
        for found in cell["claims"]:
            row = frame[(frame["cell"] == cell["name"]) & (frame["claim"] == found["id"])].iloc[0]
            assert (row["measured"], row["verdict"], row["n_seeds"]) == (
                found["measured"], found["verdict"], found["n_seeds"],
            )  # fmt: skip
    assert list(frame.columns[:3]) == ["cell", "recovery.optimizer", "recovery.lr"]


def test_lists_are_one_text_and_flags_are_flags(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    vary = {"lora.targets": ["q+v", "q"], "measurement.inside_all": [True], **VARY}
    folder.open(base(vary=vary), resume=False)
    write_cell(folder, next(folder.grid().cells()))
    body = write_results(folder)
    write_tables(folder)
    frame = pandas.read_parquet(folder.records_table)
    assert set(frame["lora.targets"]) == {"q+v"}
    assert frame["measurement.inside_all"].dtype == "bool"
    assert body["cells"][0]["values"]["lora.targets"] == ["q", "v"]


def test_a_sweep_without_any_record_has_empty_tables(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "sweep")
    folder.open(base(), resume=False)
    assert write_results(folder)["models"] == []
    write_tables(folder)
    assert len(pandas.read_parquet(folder.records_table)) == len(pandas.read_parquet(folder.claims_table)) == 0


def test_tables_need_results_and_results_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no sweep"):
        write_results(SweepFolder(tmp_path))
    folder = write_sweep(tmp_path / "sweep")
    with pytest.raises(LineamentError, match=r"sweep\.json does not exist"):
        write_tables(folder)


def test_a_full_disk_leaves_the_old_table_and_no_leftover(sweep: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sweep.records_table.read_bytes()
    monkeypatch.setattr("lineament.files.writing.os.fsync", refuse)
    with pytest.raises(LineamentError, match=r"could not write .*records\.parquet.*free space"):
        write_tables(sweep)
    assert sweep.records_table.read_bytes() == before
    assert not list(sweep.path.glob(f"{TEMPORARY_PREFIX}*"))
