"""`lineament advise --check` on real runs: inside a run folder, and on a recording of transformers' Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lineament import cli
from lineament.records import load_records

pytestmark = pytest.mark.slow


def bodies(out: Path) -> list[dict[str, Any]]:
    body = json.loads((out / "advice.json").read_text())
    assert body["schema"] == 2
    lines: list[dict[str, Any]] = body["advice"]
    return lines


def test_a_run_folder_says_how_its_recordings_are_trained_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    one = str(finished / "recording" / "copy-seed1")
    assert cli.main(["advise", one, "--check", "--out", str(out), "--quiet", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "cutting dW down to rank" in printed.replace("\n", " ")
    tested = [line for line in bodies(out) if line["tested"]]
    assert {line["quantity"] for line in tested} >= {"mean_module_rank"}
    assert {line["standing"] for line in tested} <= {"passed", "failed"}
    (test,) = (record for record in load_records(out / "records") if record.measurement == "advice_check")
    start, end = (test.value("run_loss", point=point) for point in ("start", "end"))
    assert start is not None
    assert end is not None
    assert end < start
    assert "cutting dW down to rank" in (out / "report.html").read_text()
    written = (out / "advice.json").read_bytes()
    # what was tested stays, without --check too, until something else is analyzed there
    assert cli.main(["advise", one, "--out", str(out), "--quiet"]) == 0
    assert (out / "advice.json").read_bytes() == written
    assert cli.main(["advise", one, "--out", str(out), "--quiet", "--window", "4", "--plane-rank", "1"]) == 0
    assert not any(line["tested"] for line in bodies(out))
    assert not list((out / "records").glob("advice_check-*"))


def test_flags_that_a_run_folder_answers_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", str(finished), "--check", "--model", "m", "--quiet"]) == 2
    assert "leave --model out" in capsys.readouterr().err
    assert not (finished / "analysis").exists()
