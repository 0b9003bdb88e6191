"""Files of ours that somebody edited or damaged: the file and the key are named, and nothing is a traceback."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import arguments, lineament_here
from hypothesis import given
from hypothesis import strategies as st

from lineament.claims.claims_file import read_claims
from lineament.errors import InputError
from lineament.files.writing import write_json
from lineament.records import Quantity, Record, load_records
from lineament.runs.folder import RunFolder

OTHER = st.sampled_from([None, True, 7, 1.5, "text", [], {}, [1], {"a": 1}])
CLAIM: dict[str, Any] = {
    **dict.fromkeys(("paper", "measured", "low", "high", "null", "blind", "ceiling", "rank", "reason")),
    **{"id": "prefix_captures", "task": "sort", "space": "full", "definition": "whole", "level": 0.95},
    **{"unit": "fraction", "rule": "above", "conditions": [], "verdict": "inconclusive"},
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


@pytest.mark.parametrize("read", [Record.load, lambda path: read_claims(path.parent), lambda path: state(path)])
@given(data=st.data())
def test_one_key_removed_or_of_another_type(
    read: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    bodies = [
        json.loads(record().save(folder / "made").read_text()),
        CLAIMS,
        {"schema": 1, "jobs": {"seed0": {"status": "done"}}},
    ]
    for body, name in zip(bodies, ("basis_capture-sort-seed0.json", "claims.json", "state.json"), strict=True):
        path = data.draw(st.sampled_from(places(body)))
        write_json(folder / name, changed(body, path, data.draw(st.one_of(st.just(places), OTHER))))
    for name in ("basis_capture-sort-seed0.json", "claims.json", "state.json"):
        with contextlib.suppress(InputError):  # a value of the right type may be allowed
            read(folder / name)


def state(path: Path) -> Any:
    return RunFolder(path.parent).jobs()


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


@pytest.mark.parametrize("command", [["report"], ["export", "--csv"], ["claims"]])
def test_foreign_json_among_records_is_named(command: list[str], tmp_path: Path) -> None:
    record().save(tmp_path / "records")
    (tmp_path / "config.toml").write_text('problem = "synthetic"\n')
    for name in ("records/mine.json", "claims.json"):
        (tmp_path / name).write_text('{"mine": 1}')
    done = lineament_here(command[0], str(tmp_path), *command[1:])
    assert done.returncode == 2, done.stdout
    assert ("mine.json" if command[0] != "claims" else "claims.json") in done.stderr
    shutil.rmtree(tmp_path / "records")
