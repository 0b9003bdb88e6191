"""What `lineament runs`, `compare` and `claims` make of folders of every kind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from command_line import lineament as own_process
from command_line import lineament_here
from sweep_records import write_sweep
from test_api import SMALL, data
from test_results import untrained
from torch import nn

import lineament
from lineament import cli
from lineament.claims.claims_file import write_claims
from lineament.commands.inspect.kinds import INSTEAD, ROWS, found_below
from lineament.files.folders import mark
from lineament.parameters import ParameterSpace
from lineament.records import Quantity, Record
from lineament.runs.folder import RunFolder
from lineament.settings.presets import resolve
from lineament.vectors.recording.writer import Recorder


def record(folder: Path) -> None:
    """A recording of random steps."""
    module = nn.Linear(4, 3)
    generator = torch.Generator().manual_seed(0)
    recorder = Recorder(ParameterSpace.trainable(module), folder, about={"task": "fit", "model": "mine"})
    for _ in range(24):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        recorder.append()
    recorder.close()


def begin_run(folder: Path, **changes: object) -> None:
    """A run of which nothing is done yet."""
    run = RunFolder(folder)
    with run.locked():
        run.open(resolve("synthetic", "quick", [("test", changes)]), resume=False)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of every kind, and strangers beside them."""
    root = tmp_path_factory.mktemp("shelf")
    for name, lr in (("one", 1e-3), ("two", 2e-3)):
        settings = {**SMALL, "recovery.lr": lr}
        lineament.measure(untrained(), data(), settings=settings, out=root / "library" / name, seeds=2)
    begin_run(root / "run")
    write_sweep(root / "sweep")
    record(root / "recording")
    record(root / "run" / "recording" / "sort-seed0")  # is part of the run
    assert cli.main(["analyze", str(root / "recording"), "--out", str(root / "analysis"), "--quiet"]) == 0
    figures = (Quantity("cosine", 0.5, "ratio"),)
    Record("composition", "sql and chat", 0, "lm", "base", "full", 9, "h", figures, {}).save(
        root / "composition" / "records"
    )
    mark(root / "composition", "composition")
    (root / "search").mkdir()
    request = {"task": "sort", "point": "broken", "seed": 0, "weights": "w", "bases": ["full"], "rank": 1, "threads": 1}
    (root / "search" / "request.json").write_text(json.dumps({"schema": 1, **request}))
    for name in ("index.json", "request.json", "config.toml", "lineament.json", "identity.json"):
        (root / name.partition(".")[0]).mkdir()
        (root / name.partition(".")[0] / name).write_text("mine = true" if name.endswith("toml") else '{"mine": true}')
    mark(root / "adapter", "adapter")
    return root


def test_runs_lists_folders_of_every_kind(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lineament_here("runs", str(shelf))
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = {str(one.path.relative_to(shelf)): one for one in found_below(shelf)}
    assert {one.kind for one in found.values()} == set(ROWS)
    monkeypatch.setenv("COLUMNS", "200")
    wide = own_process("runs", str(shelf)).stdout  # a console keeps the width that it was made with
    for name in found:
        assert f"\n {name} " in wide
    measured = found["library/one"]
    assert (measured.kind, measured.problem, measured.model) == ("measure", "maximum, minimum", "Tiny")
    assert (measured.seeds, measured.done) == ("2", "2 records")
    assert (found["analysis"].problem, found["analysis"].done) == ("fit", "1 record")
    assert (found["composition"].model, found["composition"].problem) == ("base", "sql and chat")
    assert (found["recording"].model, found["recording"].done) == ("mine", "24 updates")
    assert found["search"].done == "not finished"
    assert found["run"].done == "0/0 jobs"
    assert found["sweep"].done == "6 cells"
    assert sum(name.startswith(os.path.join("sweep", "cells")) for name in found) == 5, "one has not begun"
    assert not any("sort-seed0" in name for name in found), "what a run recorded is part of it"


def test_files_of_others_are_named_and_left_out(shelf: Path) -> None:
    found = {str(one.path.relative_to(shelf)) for one in found_below(shelf)}
    done = lineament_here("runs", str(shelf))
    for name in ("index", "request", "config", "identity"):
        assert name not in found
        assert f"left out: {shelf / name}" in done.stderr
    assert "adapter" not in found
    assert done.stderr.count("left out") == 4


def test_what_measure_left_is_compared(shelf: Path) -> None:
    one, two = (str(shelf / "library" / name) for name in ("one", "two"))
    done = lineament_here("compare", one, two)
    assert done.returncode == 0, done.stderr
    assert "gradient_low_rank" in done.stdout
    assert "recovery.lr: 0.001 | 0.002\n" in done.stdout
    assert "seeds" not in done.stdout
    claims = lineament_here("claims", one)
    assert claims.returncode == 0
    assert "gradient_low_rank" in claims.stdout


def test_a_run_is_compared_with_what_measure_left(shelf: Path, tmp_path: Path) -> None:
    begin_run(tmp_path / "run", **{"recovery.lr": 5e-4, "seeds": 3})
    write_claims(tmp_path / "run", [], rank=10)
    done = lineament_here("compare", str(tmp_path / "run"), str(shelf / "library" / "one"))
    assert done.returncode == 0, done.stderr
    assert "recovery.lr: 0.0005 | 0.001\n" in done.stdout
    assert "model.name: synthetic" in done.stdout
    assert "| Tiny with weights " in done.stdout
    assert "training." not in done.stdout, "what is measured in memory was not trained by these settings"


@pytest.mark.parametrize("kind", sorted(set(INSTEAD) - {"measure"}))
@pytest.mark.parametrize("command", ["claims", "compare"])
def test_what_has_no_verdicts_is_named_as_what_it_is(kind: str, command: str, shelf: Path) -> None:
    folder = str(shelf / kind)
    if (command, kind) == ("claims", "sweep"):
        return  # it prints the verdicts of every cell
    done = lineament_here(command, folder, *([folder] if command == "compare" else []))
    assert done.returncode == 2
    assert f"{folder} is a" in done.stderr
    assert f" {kind} and holds no claims.json" in done.stderr
    assert INSTEAD[kind].format(folder) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_of_nothing_is_no_run(tmp_path: Path) -> None:
    done = lineament_here("claims", str(tmp_path))
    assert done.returncode == 2
    assert "no finished run" in done.stderr
