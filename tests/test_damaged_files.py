"""Files of ours that somebody edited or damaged: the file and the key are named, and nothing is a traceback."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import arguments, lineament_here
from hypothesis import given
from hypothesis import strategies as st
from sweep_records import write_sweep

from lineament.claims.claims_file import read_claims, read_sweep
from lineament.commands.search.chunks import losses_body, read_losses
from lineament.commands.search.command import _choice, _require_same
from lineament.commands.search.driver import Choice
from lineament.commands.search.plan import Probe
from lineament.commands.verdict_tables import sweep_table
from lineament.errors import InputError
from lineament.files.writing import write_json
from lineament.parameters import Space
from lineament.records import Quantity, Record, load_records
from lineament.report.rendering import provenance_lines
from lineament.report.sweep.claim_grid import claim_grids
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.results import write_results
from lineament.study.horizon import RecoveryCurve, read_curve
from lineament.vectors.blind import UpdateRule
from lineament.vectors.recording.index import RecordingIndex
from lineament.vectors.recording.optimizer import GroupRule, RecordedOptimizer
from lineament.vectors.recording.sketch import Sketch

OTHER = st.sampled_from([None, True, 7, 1.5, "text", [], {}, [1], {"a": 1}])
BOUNDS = {"above": 0.0, "below": None, "contains": None}
CONDITION = {"name": "prefix", "interval": None, "bounds": BOUNDS, "holds": None}
BOTH = {**CONDITION, "bounds": {**BOUNDS, "contains": 1}}
CLAIM: dict[str, Any] = {
    **dict.fromkeys(("paper", "measured", "low", "high", "null", "blind", "ceiling", "rank", "reason")),
    **{"id": "prefix_captures", "task": "sort", "space": "full", "definition": "whole", "level": 0.95},
    **{"unit": "fraction", "rule": "above", "conditions": [CONDITION], "verdict": "inconclusive"},
    "details": {"n_seeds": 1},
}
CLAIMS = {"schema": 2, "problem": "synthetic", "model": "m", "n_seeds": 1, "claims": [CLAIM]}


def record() -> Record:
    figures = (Quantity("capture", 0.5, "fraction", labels={"basis": "prefix", "rank": 1}),)
    return Record("basis_capture", "sort", 0, "synthetic", "m", "full", 3, "0" * 16, figures, {"capture": "what it is"})


def places(body: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each key and entry of a JSON value stands."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [found for key, value in items for found in [(*path, key), *places(value, (*path, key))]]


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    body = json.loads(json.dumps(body))
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    if value is places:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return body


@cache
def sweep_body() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return write_results(write_sweep(Path(folder) / "sweep"))


def recording_body() -> Any:
    rule = GroupRule(4, UpdateRule("adamw", (1e-3,), 0.9))
    sketch, space = Sketch(6, 2), Space("full", 6, "a")
    index = RecordingIndex(space, 5, torch.float32, (1, 2), tensors=(("w", (2, 3)),), scales={"w": 2.0}, model="M")
    index = replace(index, sketch=sketch, about={"task": "x"}, optimizer=RecordedOptimizer((rule,), (1,), ""))
    with tempfile.TemporaryDirectory() as folder:
        index.write(Path(folder))
        return json.loads((Path(folder) / "index.json").read_text())


def read_all_of_sweep(path: Path) -> None:
    body = read_sweep(path.parent)
    sweep_table(body)
    claim_grids(body)


CHOICE = Choice("full", 0.1, 8, "probe", 1.0, 0.5, None, None)
PROBE = Probe("full", 0.1, 0.5, 0.1, 1.0, 0.5, 1.5, 4)
SEARCH = {"choice": asdict(CHOICE), "probes": [asdict(PROBE)], "schema": 1}
CURVE = RecoveryCurve(3, (0, 3), (2.0, 1.0), (0.2, 0.8), (2.0, 1.5, 1.2), 0.9, 0.95, 0.9)
# File of ours -> what it holds, and what reads it.
OURS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "basis_capture-sort-seed0.json": (lambda: json.loads(record_text()), Record.load),
    "claims.json": (lambda: CLAIMS, lambda path: read_claims(path.parent)),
    "state.json": (lambda: {"schema": 1, "jobs": {"seed0": {"status": "done"}}}, lambda path: state(path)),
    "provenance.json": (
        lambda: {"versions": {"torch": "2"}, "resumed": {}},
        lambda path: provenance_lines(path.parent),
    ),
    "sweep.json": (sweep_body, read_all_of_sweep),
    "recovery-sort-seed0.json": (lambda: asdict(CURVE), read_curve),
    "index.json": (recording_body, lambda path: RecordingIndex.read(path.parent)),
    "choice.json": (lambda: SEARCH, lambda path: _choice(path.parent, lambda: (CHOICE, [PROBE]))),
    "00000.json": (lambda: losses_body(np.array([1.0, np.nan])), read_losses),
}


def record_text() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return record().save(Path(folder)).read_text()


@pytest.mark.parametrize("name", list(OURS))
@given(data=st.data())
def test_one_key_removed_or_of_another_type(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    body, read = OURS[name]
    file = tmp_path_factory.mktemp("damaged") / name
    write_json(file, body())
    read(file)
    path = data.draw(st.sampled_from(places(body())))
    write_json(file, changed(body(), path, data.draw(st.one_of(st.just(places), OTHER))))
    fault = None
    try:
        read(file)  # a value of the right type may be allowed
    except InputError as error:
        fault = error
    assert fault is None or str(file) in str(fault)


@pytest.mark.parametrize("name", list(OURS))
def test_every_key_that_must_be_there_is_named(name: str, tmp_path: Path) -> None:
    body, read = OURS[name]
    for key in set(body()) - {"versions", "resumed", "optimizer"}:
        write_json(tmp_path / name, changed(body(), (key,), places))
        with pytest.raises(InputError, match=key) as raised:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


def state(path: Path) -> Any:
    return RunFolder(path.parent).jobs()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "claims.json",
            {"claims": [{**CLAIM, "conditions": [BOTH]}]},
            "two",
        ),
        ("sweep.json", {"seeds": "0"}, "seeds is '0'; it must be of type array"),
        ("sweep.json", {"vary": []}, "vary has 0 entries; it must have 1 or more"),
        ("sweep.json", {"schema": 1}, "has schema 1; this version reads schema 2"),
        ("claims.json", {"claims": [{**CLAIM, "verdict": "true"}]}, r"claims\[0\].verdict is 'true'; it must be supp"),
        ("recovery-sort-seed0.json", {"loss": [1.0]}, "loss has 1 entries for 2 steps"),
        ("index.json", {"dtype": "float8"}, "dtype is 'float8'; it must be float32 or float64"),
        ("index.json", {"tensors": [["w", "2x3"]]}, r"tensors\[0\]\[1\] is '2x3'; it must be of type array"),
        ("index.json", {"steps": [1]}, "2 rows, but steps of 1"),
        ("choice.json", {"probes": [{}]}, r"probes\[0\] lacks the key 'region'"),
        ("00000.json", {"losses": ["low"]}, r"losses\[0\] is 'low'; it must be of type number or null"),
    ],
)
def test_what_is_wrong_is_said(name: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    body, read = OURS[name]
    write_json(tmp_path / name, {**body(), **change})
    with pytest.raises(InputError, match=words):
        read(tmp_path / name)


def test_a_damaged_request_of_a_search_is_named(tmp_path: Path) -> None:
    for body, words in (({"mine": 1}, "has schema None"), ({"schema": 1}, "lacks the key 'task'"), ([], "type object")):
        write_json(tmp_path / "request.json", body)
        with pytest.raises(InputError, match=f"{tmp_path / 'request.json'} .*{words}"):
            _require_same(tmp_path, {"schema": 1}, resume=True)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("figures", 0, "unit"), places, r"figures\[0\] lacks the key 'unit'"),
        (("figures", 0, "value"), "half", r"figures\[0\].value is 'half'; it must be of type number or null"),
        (("seed",), "0", "seed is '0'; it must be of type integer"),
        (("labels",), {}, "labels is no key that is known here"),
        (("schema",), 3, "has schema 3; this version reads schemas 1 and 2"),
        (("figures",), None, "figures is None"),
    ],
)
def test_a_damaged_record_is_named_with_its_key(path: tuple[Any, ...], value: Any, words: str, tmp_path: Path) -> None:
    file = record().save(tmp_path)
    assert load_records(tmp_path) == [record()]
    write_json(file, changed(json.loads(file.read_text()), path, value))
    with pytest.raises(InputError, match=words) as raised:
        Record.load(file)
    assert str(file) in str(raised.value)


def test_a_foreign_configuration_hides_no_run(tmp_path: Path) -> None:
    for name, text in {"a": "[tool]\nx = 1", "b": "not toml", "c": 'problem = "synthetic"\nseeds = "x"'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(text)
    (tmp_path / "z [bold]").mkdir()
    (tmp_path / "z [bold]" / "config.toml").write_text('problem = "synthetic"\n')
    done = lineament_here("runs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "z [bold]" in done.stdout
    assert [f"{tmp_path / name}" in done.stderr for name in "abc"] == [True] * 3


def test_claims_without_a_value_are_compared(tmp_path: Path) -> None:
    for name in ("[red]r", "two"):
        write_json(tmp_path / name / "claims.json", CLAIMS)
        (tmp_path / name / "config.toml").write_text('problem = "synthetic"\n')
    done = lineament_here("compare", str(tmp_path / "[red]r"), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert "[red]r" in done.stdout
    (tmp_path / "two" / "claims.json").write_text("[]")
    assert lineament_here("compare", str(tmp_path / "[red]r"), str(tmp_path / "two")).returncode == 2


@pytest.mark.parametrize("more", [["--log-file", "folder"], ["--device", "cuda"]])
def test_what_cannot_be_used_is_noticed_before_anything_is_written(more: list[str], tmp_path: Path) -> None:
    if more[1] == "cuda" and torch.cuda.is_available():
        more = ["--device", "tpu"]
    (tmp_path / "folder").mkdir()
    done = lineament_here(*arguments(tmp_path / "out"), *more, cwd=tmp_path)
    assert done.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


FOREIGN = {
    "mine.json": '{"mine": 1}',
    "torn.json": "{",
    "basis_capture-sort-seed0 (copy).json": record_text(),
    "copy of basis_capture-sort-seed0.json": "[]",
}


@pytest.mark.parametrize("command", [["report"], ["export", "--csv"]])
def test_foreign_json_among_records_is_named_and_left_alone(command: list[str], tmp_path: Path) -> None:
    record().save(tmp_path / "records")
    (tmp_path / "config.toml").write_text('problem = "synthetic"\n')
    plain = lineament_here(command[0], str(tmp_path), *command[1:])
    for name, text in FOREIGN.items():
        (tmp_path / "records" / name).write_text(text)
    done = lineament_here(command[0], str(tmp_path), *command[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert done.stderr.count("left out: ") == len(FOREIGN)
    for name, text in FOREIGN.items():
        assert str(tmp_path / "records" / name) in done.stderr
        assert (tmp_path / "records" / name).read_text() == text


def test_foreign_json_stops_no_run_and_none_is_analyzed(copied: Path) -> None:
    (copied / "records" / "mine.json").write_text("{")
    done = lineament_here(*arguments(copied), "--seeds", "2", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"left out: {copied / 'records' / 'mine.json'}" in done.stderr
    assert lineament_here("runs", str(copied.parent)).returncode == 0
    assert lineament_here("compare", str(copied), str(copied)).returncode == 0


def test_foreign_json_in_a_cell_stops_no_sweep(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    cell = next(iter(folder.grid().cells()))
    (folder.run(cell).records / "mine.json").write_text("{")
    done = lineament_here("report", str(folder.path))
    assert done.returncode == 0, done.stderr
    assert "mine.json" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("basis_capture-copy-seed1.json", "{", "not valid JSON"),
        ("basis_capture-copy-seed1.json", '{"mine": 1}', "has schema None"),
        ("basis_capture-copy-seed1.json", record_text(), "would count twice"),
        ("basis_capture-sort-seed0.json", record_text().replace('"unit"', '"units"'), "lacks the key 'unit'"),
    ],
)
def test_a_damaged_record_of_ours_is_still_an_error(name: str, text: str, words: str, tmp_path: Path) -> None:
    record().save(tmp_path / "records")
    (tmp_path / "config.toml").write_text('problem = "synthetic"\n')
    (tmp_path / "records" / name).write_text(text)
    done = lineament_here("report", str(tmp_path))
    assert done.returncode == 2
    assert words in done.stderr
    assert name in done.stderr


def test_a_foreign_claims_file_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "claims.json", {"mine": 1})
    done = lineament_here("claims", str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path / "claims.json") in done.stderr
