"""How commands about recordings end: where the result is, what to type next, how long it took; JSON stays alone."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from command_line import lineament_here
from safetensors.torch import save_file
from test_kinds import begin_run, record

from lineament import cli
from lineament.commands.inspect.flags import Report
from lineament.commands.recordings.checking import run_of
from lineament.commands.recordings.command import _after_advice
from lineament.commands.recordings.flags import Advise
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.options import AnalysisOptions
from lineament.vectors.recording.reader import Trajectory


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "my recording"
    record(folder)
    return folder


def following(errors: str) -> list[str]:
    """The lines below `next:`, which end with the time that all took."""
    lines = errors.splitlines()
    assert lines[-1].startswith("done in ")
    return [line.strip() for line in lines[lines.index("next:") + 1 : -1]]


def parsed(line: str) -> object:
    return cli._parsed(shlex.split(line.partition("#")[0])[1:])


@pytest.mark.parametrize("name", [name for name, kind in cli.COMMANDS.items() if hasattr(kind, "quiet")])
def test_every_command_with_progress_says_what_to_type_next(name: str) -> None:
    """What they say is tested with each of them; here none is forgotten."""
    module = cli.function_of(cli.COMMANDS[name]).__module__
    source = Path(sys.modules[module].__file__ or "").read_text()
    assert re.search(r"\b(say_next|say_end)\(", source)


def test_a_report_ends_with_the_line_that_draws_it(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "my out"
    assert lineament_here("analyze", str(recorded), "--out", str(out), "--quiet").returncode == 0
    done = lineament_here("report", str(out))
    assert done.stdout == f"{out / 'report.html'}\n"
    (line,) = following(done.stderr)
    assert parsed(line) == Report(run=out, figures=Path("DIR"))
    assert lineament_here("report", str(out), "--quiet").stderr == ""


def test_an_analysis_ends_with_the_advice_about_it(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = lineament_here("analyze", str(recorded), "--out", str(out), "--window", "4", "--plane-rank", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    (line,) = following(done.stderr)
    assert parsed(line) == Advise(paths=(recorded,), out=out, window=4, plane_rank=2)
    assert done.stderr.splitlines()[0].endswith("inner products of updates (0/28)")


def test_advice_ends_with_the_line_that_tests_it(recorded: Path, tmp_path: Path) -> None:
    done = lineament_here("advise", str(recorded), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (line,) = following(done.stderr)
    assert "--check --model MODEL --data FILE" in line, "nothing else tells how it was trained"
    assert parsed(line)
    quiet = lineament_here("advise", str(recorded), "--out", str(tmp_path / "out"), "--quiet")
    assert quiet.stderr == ""
    assert quiet.stdout == done.stdout


def test_json_is_alone_on_stdout(recorded: Path, tmp_path: Path) -> None:
    done = lineament_here("advise", str(recorded), "--out", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stderr.splitlines()
    assert following(done.stderr)


def test_a_run_tells_how_it_was_trained(tmp_path: Path) -> None:
    begin_run(tmp_path / "run")
    rows = tmp_path / "run" / "recording" / "sort-seed0"
    assert run_of(rows) == tmp_path / "run"
    assert run_of(tmp_path / "elsewhere" / "recording" / "sort-seed0") is None
    assert run_of(tmp_path / "run" / "recording" / "mine") is None
    for path in (rows, tmp_path / "run"):
        assert "MODEL" not in _after_advice(Advise(paths=(path,)))
    assert "MODEL" in _after_advice(Advise(paths=(rows, tmp_path)))
    assert "--check" not in _after_advice(Advise(paths=(rows,), check=True))


def test_a_recording_of_checkpoints_ends_with_its_advice(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        folder = tmp_path / "trained" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"weight": torch.full((3, 4), float(step))}, folder / "model.safetensors")
    out = tmp_path / "made of them"
    done = lineament_here("record-from-checkpoints", str(tmp_path / "trained"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    (line,) = following(done.stderr)
    assert parsed(line) == Advise(paths=(out,))
    shown = [line.partition("] ")[2] for line in done.stderr.splitlines() if line.startswith("[")]
    assert shown[0] == "trained: looking at checkpoints (0/4)"
    assert any(one.startswith("trained: reading checkpoints (2/4)") for one in shown)


def test_an_analysis_says_how_far_it_is(recorded: Path, tmp_path: Path) -> None:
    """Counts grow, and all are of the same whole; dW has the last and longest part."""
    told: list[tuple[str, int, int]] = []

    def note(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    analyze_recording(Trajectory(recorded), "sort", 0, AnalysisOptions(window=4, plane_rank=2), None, note)
    counts = [done for _, done, _ in told]
    assert counts == sorted(counts)
    assert {total for *_, total in told} == {28}
    assert list(dict.fromkeys(what for what, *_ in told)) == [
        "inner products of updates",
        "captures",
        "drift of planes",
    ]
