"""Analyses are made once: the same recording, options and companions give the record that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_recordings import recording

from lineament import cli
from lineament.commands.recordings import command
from lineament.commands.recordings.earlier import FILE, remember
from lineament.measurements.recording.analysis import analyze_recording
from lineament.records import Record

MORE = ("--quiet", "--threads", "1", "--window", "4", "--plane-rank", "1")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that are analyzed, one entry for each analysis that is made."""
    names: list[str] = []

    def counting(*arguments: object) -> Record:
        names.append(str(arguments[1]))
        return analyze_recording(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "analyze_recording", counting)
    return names


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return recording(tmp_path / "rows", torch.eye(12)).folder


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "lock"}


def test_advice_after_an_analysis_computes_nothing_again(made: list[str], rows: Path) -> None:
    assert cli.main(["analyze", str(rows), *MORE]) == 0  # into a folder inside the recording
    before = files(rows / "analysis")
    assert cli.main(["advise", str(rows), *MORE]) == 0
    assert len(made) == 1
    assert files(rows / "analysis") == before


def spoil_record(rows: Path) -> None:
    (path,) = (rows / "analysis" / "records").glob("*.json")
    path.write_text(path.read_text()[:100])


def spoil_memory(rows: Path) -> None:
    (rows / "analysis" / FILE).write_text("[1")


def other_rows(rows: Path) -> None:
    whole = recording(rows.parent / "other", 2 * torch.eye(12)).folder
    for path in whole.glob("rows-*"):
        (rows / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("change", [spoil_record, spoil_memory, other_rows])
def test_what_changed_or_is_damaged_is_analyzed_again(
    change: Callable[[Path], None], made: list[str], rows: Path
) -> None:
    assert cli.main(["analyze", str(rows), *MORE]) == 0
    change(rows)
    assert cli.main(["advise", str(rows), *MORE]) == 0
    assert len(made) == 2


def test_a_record_that_was_replaced_before_a_kill_is_not_taken_for_the_earlier_one(
    made: list[str], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["analyze", str(rows), *MORE, "--seed", "1"]) == 0
    with monkeypatch.context() as killed:
        killed.setattr(command, "_write", lambda *_: (_ for _ in ()).throw(MemoryError))
        killed.setattr(command, "remember", lambda folder, known: known or remember(folder, known))
        assert (
            cli.main(["analyze", str(rows), *MORE, "--seed", "2"]) != 0
        )  # its record stands where the first one's did
    assert cli.main(["analyze", str(rows), *MORE, "--seed", "1"]) == 0
    assert len(made) == 3


def test_other_options_and_companions_are_other_analyses(made: list[str], rows: Path, tmp_path: Path) -> None:
    null = str(recording(tmp_path / "null", torch.eye(12).flip(0)).folder)
    for flags in (("--seed", "1"), ("--seed", "2"), ("--null", null), ("--null", null)):
        assert cli.main(["analyze", str(rows), *MORE, *flags]) == 0
    assert len(made) == 3
