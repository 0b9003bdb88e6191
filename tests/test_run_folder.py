"""Run folders: nothing of somebody else's is touched, nothing of an earlier start is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.runs.folder import MAX_DIFFERENCES_SHOWN, RunFolder, differences
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

QUICK = resolve("synthetic", "quick", [])


def with_seeds(first: int, n: int, *measure: str) -> Settings:
    return replace(QUICK, seed=first, seeds=n, measure=measure or ("gradient_rank",))


def made(path: Path, settings: Settings = QUICK) -> RunFolder:
    folder = RunFolder(path)
    with folder.locked():
        folder.open(settings, resume=False)
    return folder


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"lock": "combination 1234"},
        {"lock/notes.txt": "mine"},
        {".tmp-data": "mine"},
        {"config.toml": "[server]\nport = 1\n"},
        {"config.toml": ""},
    ],
    ids=lambda files: ",".join(files),
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_foreign_folder_is_refused_and_stays_as_it_was(files: dict[str, str], resume: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"no run|no settings key"):
        RunFolder(tmp_path).check(QUICK, resume)
    assert contents(tmp_path) == before


def test_what_cannot_be_a_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="is a file"):
            RunFolder(path).check(QUICK, resume=False)
    RunFolder(tmp_path / "new" / "run").check(QUICK, resume=False)
    assert contents(tmp_path) == {"file": b"x"}


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineament.runs.folder.os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match=f"writing in {tmp_path} is not allowed"):
        RunFolder(tmp_path / "run").check(QUICK, resume=False)


def test_a_start_that_was_killed_at_once_can_be_started_again(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / ".tmp-lineament-abcd0124.tmp").write_text("[mod")
    made(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.toml", "lock", "provenance.json"]


def test_the_lock_keeps_whatever_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("combination 1234")
    with RunFolder(tmp_path).locked():
        pass
    assert (tmp_path / "lock").read_text() == "combination 1234"


def test_opening_deletes_what_killed_writers_left_at_any_depth(tmp_path: Path) -> None:
    folder = made(tmp_path)
    torn = [
        folder.records / ".tmp-lineament-abcd0123.tmp",
        tmp_path / "recording" / "sort-seed0" / ".tmp-lineament-abcd0124.tmp",
    ]
    kept = folder.records / "gradient_rank-sort-seed0.json"
    for path in [*torn, kept]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    with folder.locked():
        folder.open(QUICK, resume=True)
    assert kept.exists()
    assert not any(path.exists() for path in torn)


def test_another_configuration_is_refused_with_every_difference_counted(tmp_path: Path) -> None:
    folder = made(tmp_path)
    other = replace(QUICK, recovery=replace(QUICK.recovery, lr=7e-4))
    with pytest.raises(InputError, match=r"recovery\.lr: 0\.0002 there, 0\.0007 now"):
        folder.check(other, resume=True)
    many = {str(i): i for i in range(MAX_DIFFERENCES_SHOWN + 3)}
    assert differences({}, many).endswith("; and 3 more")
    assert differences(many, many) == ""


@pytest.mark.parametrize(
    ("first", "second", "held"),
    [
        ((0, 3), (0, 1), (0, 3)),
        ((0, 1), (0, 3), (0, 3)),
        ((0, 3), (3, 2), (0, 5)),
        ((3, 2), (1, 2), (1, 4)),
        ((2, 1), (0, 9), (0, 9)),
    ],
)
def test_the_configuration_covers_every_seed_that_the_folder_holds(
    first: tuple[int, int], second: tuple[int, int], held: tuple[int, int], tmp_path: Path
) -> None:
    folder = made(tmp_path, with_seeds(*first))
    folder.open(with_seeds(*second), resume=True)
    found = folder.settings()
    assert (found.seed, found.seeds) == held


@pytest.mark.parametrize("second", [(4, 2), (0, 1)])
def test_seeds_with_a_gap_are_refused_and_change_nothing(second: tuple[int, int], tmp_path: Path) -> None:
    folder = made(tmp_path, with_seeds(2, 1))
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"seeds 2\.\.2"):
        folder.open(with_seeds(*second), resume=True)
    assert contents(tmp_path) == before


def test_the_configuration_covers_every_measurement_that_the_folder_holds(tmp_path: Path) -> None:
    folder = made(tmp_path, with_seeds(0, 1, "gradient_rank", "basis_drift"))
    folder.open(with_seeds(0, 1, "basis_capture", "gradient_rank"), resume=True)
    assert folder.settings().measure == ("gradient_rank", "basis_drift", "basis_capture")


def test_the_first_start_stays_in_the_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in range(3):
        monkeypatch.setattr("lineament.runs.folder.provenance", lambda settings, n=start: {"started": n, "commit": "c"})
        RunFolder(tmp_path).open(QUICK, resume=start > 0)
    found = read_json(tmp_path / "provenance.json")
    assert found["started"] == 0
    assert {number: entry["started"] for number, entry in found["resumed"].items()} == {"1": 1, "2": 2}


def test_state_is_kept_per_job(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.mark("seed0", "done")
    folder.mark("seed1", "failed", "why")
    assert json.loads(folder.state.read_text())["jobs"] == {
        "seed0": {"status": "done"},
        "seed1": {"status": "failed", "message": "why"},
    }
