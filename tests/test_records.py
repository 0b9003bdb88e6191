"""Records on disk: round trip, whole files or none, no NaN, no pickle."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineament.errors import LineamentError
from lineament.files.reading import read_json
from lineament.files.writing import delete_leftovers, what_to_do, write_bytes, write_json
from lineament.records import Quantity, Record, load_records, record_files


def record(**changes: object) -> Record:
    figures = (
        Quantity("capture", 0.5, "fraction", stderr=0.01, null=0.1, labels={"basis": "prefix", "rank": 10}),
        Quantity("capture", 0.25, "fraction", labels={"basis": "prefix", "rank": 5}),
        Quantity("half_life", None, "steps", reason="> 40"),
    )
    body = {
        "measurement": "basis_capture",
        "target": "sort",
        "seed": 3,
        "problem": "synthetic",
        "model": "transformer",
        "space": "full",
        "n_params": 17,
        "config_hash": "abc",
        "quantities": figures,
        "definitions": {"capture": "|U^T d|^2 / |d|^2"},
        "arrays": {"loss": np.linspace(0, 1, 5), "ids": np.arange(6).reshape(2, 3).T},
    }
    return Record(**{**body, **changes})


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    saved = record()
    path = saved.save(tmp_path / "records")
    assert path.name == "basis_capture-sort-seed3.json"
    loaded = Record.load(path)
    assert loaded == saved
    assert set(loaded.arrays) == set(saved.arrays)
    for name, array in saved.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert np.array_equal(loaded.arrays[name], array)
    assert load_records(path.parent) == [saved]


def test_what_a_killed_writer_leaves_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = record()
    saved.save(tmp_path)

    def killed(handle: int) -> None:
        for path in tmp_path.iterdir():
            if path.name.startswith("."):
                path.with_name("copy" + path.name).write_text("{")  # what would be left, whatever it is called
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "other.json", {})
    (tmp_path / ".tmp-torn.json").write_text("{")
    assert [p.suffix for p in tmp_path.glob("copy*")] == [".tmp"]
    assert record_files(tmp_path) == [tmp_path / "basis_capture-sort-seed3.json"]
    assert load_records(tmp_path) == [saved]


def test_leftovers_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    record().save(tmp_path / "records")
    whole = sorted(path.name for path in (tmp_path / "records").iterdir())
    (tmp_path / "records" / ".tmp-lineament-abcd0123.tmp").write_text("{")
    (tmp_path / ".tmp-lineament-abcd0124.tmp").write_text("{")
    (tmp_path / ".hidden").write_text("mine")
    delete_leftovers(tmp_path)
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "records"]


def test_selection_by_labels() -> None:
    found = record()
    assert found.value("capture", basis="prefix", rank=5) == 0.25
    assert found.value("capture", basis="krylov") is None
    assert [f.value for f in found.select("capture", basis="prefix")] == [0.5, 0.25]


def test_equal_records_are_equal_files(tmp_path: Path) -> None:
    first, second = record().save(tmp_path / "a"), record().save(tmp_path / "b")
    for suffix in (".json", ".safetensors"):
        assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_figure_is_finite_or_says_why(value: float) -> None:
    figure = Quantity("x", value, "steps")
    assert (figure.value == value and figure.reason is None) if math.isfinite(value) else figure.value is None
    if not math.isfinite(value):
        assert figure.reason == f"value was {value}"
    assert Quantity("x", float("nan"), "steps", reason="own").reason == "own"


def test_no_file_ever_holds_nan(tmp_path: Path) -> None:
    odd = Quantity("x", float("nan"), "steps", stderr=float("inf"), null=float("nan"))
    text = record(quantities=(odd,)).save(tmp_path).read_text()
    body = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in a record"))
    assert body["figures"][0]["value"] is None
    assert body["figures"][0]["stderr"] is None
    assert body["figures"][0]["null"] is None
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_nothing_on_disk_is_pickled(tmp_path: Path) -> None:
    record().save(tmp_path)
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not content.startswith((b"\x80", b"PK"))
        if file.suffix == ".safetensors":
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            assert set(header) >= {"loss", "ids"}


def test_an_unknown_schema_is_refused(tmp_path: Path) -> None:
    path = record().save(tmp_path)
    body = json.loads(path.read_text())
    for version in (0, 99, None):
        path.write_text(json.dumps({**body, "schema": version}))
        with pytest.raises(LineamentError, match=f"schema {version}"):
            Record.load(path)


def test_missing_and_torn_json_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(LineamentError, match="does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(LineamentError, match="not valid JSON"):
        read_json(tmp_path / "torn.json")


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file_whole(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(*((os, step) if step == "fsync" else (Path, step)), fail)
    with pytest.raises((LineamentError, KeyboardInterrupt)):
        write_bytes(path, b"new content")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]
    write_bytes(path, b"new content")
    assert path.read_bytes() == b"new content"


def test_a_full_disk_is_said_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("os.fsync", "tempfile.mkstemp", "pathlib.Path.mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(LineamentError, match=r"No space left.*free space, then --resume") as caught:
                write_bytes(tmp_path / "file.bin", b"x")
            assert str(tmp_path / "file.bin") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EDQUOT, "free space"), (errno.EACCES, "allow writing"), (errno.EROFS, "--out"), (errno.EIO, "the cause")],
)
def test_advice_fits_what_the_system_said(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number))
    assert words in what_to_do(error)
    assert ("free space" in what_to_do(error)) == (words == "free space")

    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LineamentError, match=f"{os.strerror(number)}.*{words}"):
        write_bytes(tmp_path / "file.bin", b"x")


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file.bin", b"x")
    assert (tmp_path / "a" / "b" / "file.bin").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("value", "blind", "excess"), [(0.4, 0.4, 0.0), (1.0, 0.4, 1.0), (0.25, 0.5, -0.5), (1.0, 1.0, None)]
)
def test_excess_is_nothing_for_a_blind_run_and_one_for_everything(
    value: float, blind: float, excess: float | None
) -> None:
    assert Quantity("capture", value, "fraction", blind=blind).excess == excess
    assert Quantity("capture", value, "fraction").excess is None
    assert Quantity("capture", None, "fraction", blind=blind).excess is None


def test_records_of_schema_1_are_read(tmp_path: Path) -> None:
    path = record().save(tmp_path)
    body = json.loads(path.read_text())
    for entry in body["figures"]:
        del entry["blind"], entry["ceiling"]
    path.write_text(json.dumps({**body, "schema": 1}))
    assert Record.load(path) == record()
