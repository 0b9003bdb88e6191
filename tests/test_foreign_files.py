"""Files that are not Lineament's survive every command, byte for byte, wherever a user points it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import arguments, lineament_here
from safetensors.torch import save_file
from torch import nn

import lineament
from lineament.errors import InputError
from lineament.files.folders import MARKER
from lineament.files.naming import MAX_NAME_BYTES, safe_name
from lineament.parameters import ParameterSpace
from lineament.problems.base_cache import VARIABLE
from lineament.problems.problem import Batch
from lineament.problems.stored_adapters import StoredAdapter
from lineament.runs.folder import RunFolder
from lineament.steering.vector import SteeringVector, VectorTags, save_vector
from lineament.vectors.adapter_algebra import save_stored_adapter
from lineament.vectors.recording.writer import Recorder, begin_again

FOREIGN = (
    *("records/recording-mine-seed0.json", "records/recording-notes.txt", "records/mine.json", "records/a.safetensors"),
    *("report.html", "advice.json", "claims.json", "index.json", "request.json", "identity.json", "sweep.json"),
    *("rows-00000.safetensors", "rows-mine.safetensors", "start.safetensors", "gradients/rows-00001.safetensors"),
    *("model.safetensors", "weights/deep/.tmp-mine", ".tmp-lineament-mine", "deep/.tmp-lineament-notes.tmp"),
    *("lock", "log.txt", "state.json", "adapter_config.json", "adapter_model.safetensors", "tensorboard/run/a.txt"),
    *("generations/00000.json", "generations/00001-part-mine.json", "choice.json", "point.safetensors"),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of somebody's files, under all names that Lineament has for its own."""
    folder = tmp_path / "foreign"
    for name in FOREIGN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'{{"mine": "{name}"}}')
    return folder


def recorded(folder: Path, n_rows: int = 8) -> Path:
    module = nn.Linear(5, 1, bias=False)
    recorder = Recorder(ParameterSpace.trainable(module), folder, about={"task": "rows"})
    for step in range(n_rows):
        with torch.no_grad():
            module.weight[0, step % 5] += 1.0
        recorder.append()
    return recorder.close().folder


def commands(out: Path, recording: Path) -> dict[str, list[str]]:
    return {
        "run": arguments(out),
        "run --resume": [*arguments(out), "--resume"],
        "sweep": [*arguments(out), "--vary", "recovery.lr=1e-3,1e-4"],
        "report": ["report", str(out)],
        "runs": ["runs", str(out)],
        "analyze": ["analyze", str(recording), "--out", str(out)],
        "advise": ["advise", str(recording), "--out", str(out)],
    }


@pytest.mark.parametrize("name", list(commands(Path(), Path())))
def test_no_command_touches_a_folder_that_is_not_ours(name: str, foreign: Path, tmp_path: Path) -> None:
    before = contents(foreign)
    done = lineament_here(*commands(foreign, recorded(tmp_path / "rows"))[name])
    assert contents(foreign) == before
    assert done.returncode == (0 if name == "runs" else 2), done.stderr
    assert name == "runs" or str(foreign) in done.stderr


def test_an_analysis_keeps_foreign_files_in_its_own_folder(tmp_path: Path) -> None:
    rows, out = recorded(tmp_path / "rows"), tmp_path / "out"
    assert lineament_here("analyze", str(rows), "--out", str(out)).returncode == 0
    mine = {"notes.txt": b"mine", "records/recording-notes.txt": b"mine", ".tmp-mine.tmp": b"mine"}
    for name, content in mine.items():
        (out / name).write_bytes(content)
    other = recorded(tmp_path / "other", 9)
    left = out / "records" / ".tmp-lineament-abcd1234.tmp"
    left.write_bytes(b"of a killed analysis")
    done = lineament_here("analyze", str(other), str(rows), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert not left.exists()
    assert {name: (out / name).read_bytes() for name in mine} == mine
    assert lineament_here("analyze", str(other), "--out", str(out)).returncode == 0
    assert [path.name for path in sorted((out / "records").glob("*.json"))] == ["recording-rows-seed0.json"]


def test_an_analysis_of_an_earlier_version_has_no_marker_and_is_ours(tmp_path: Path) -> None:
    rows, out = recorded(tmp_path / "rows"), tmp_path / "out"
    assert lineament_here("analyze", str(rows), "--out", str(out)).returncode == 0
    (out / MARKER).unlink()
    assert lineament_here("analyze", str(rows), "--out", str(out)).returncode == 0
    assert (out / MARKER).exists()


def test_an_analysis_does_not_go_into_a_run(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(run)
    done = lineament_here("analyze", str(run), "--out", str(run))
    assert done.returncode == 2
    assert contents(run) == before


@pytest.mark.parametrize("file", ["rows-00000.safetensors", "start.safetensors", "notes.txt", "index.json"])
def test_a_recorder_takes_no_folder_that_is_not_ours(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / file).write_bytes(b"mine")
    with pytest.raises(lineament.errors.LineamentError, match="folder" if file != "index.json" else "JSON"):
        recorded(folder)
    assert contents(folder) == {file: b"mine"}


def test_a_recording_that_is_begun_again_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "rows")
    (folder / "rows-mine.safetensors").write_bytes(b"mine")
    (folder / "notes.txt").write_bytes(b"mine")
    begin_again(folder)
    assert not (folder / "rows-00000.safetensors").exists()
    recorded(folder)
    assert (folder / "rows-mine.safetensors").read_bytes() == (folder / "notes.txt").read_bytes() == b"mine"


def test_the_cache_is_cleared_of_base_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv(VARIABLE, str(cache))
    base, left = cache / f"synthetic-{'0' * 16}.safetensors", cache / ".tmp-lineament-abcd1234.tmp"
    lineament.problems.base_cache.keep_base(base.name, b"base")
    left.write_bytes(b"left")
    mine = {"model.safetensors": b"mine", "synthetic-mine.safetensors": b"mine", ".tmp-mine.tmp": b"mine"}
    for name, content in mine.items():
        (cache / name).write_bytes(content)
    assert lineament_here("cache", "clear").stdout.count("1 cached base model(s) deleted\n") == 1
    assert contents(cache).keys() == {MARKER, *mine}


@pytest.mark.parametrize("command", [["cache", "clear"], arguments(Path("out"))])
def test_a_models_folder_is_no_cache(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("model.safetensors", f"synthetic-{'0' * 16}.safetensors", ".tmp-x"):
        (models / name).write_bytes(b"mine")
    monkeypatch.setenv(VARIABLE, str(models))
    before = contents(models)
    done = lineament_here(*command, cwd=tmp_path)
    assert (done.returncode, contents(models)) == (2, before)
    assert f"${VARIABLE}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cache_of_an_earlier_version_has_no_marker_and_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"synthetic-{'0' * 16}.safetensors").write_bytes(b"base")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert lineament_here("cache", "clear").returncode == 0
    assert contents(tmp_path) == {}


def steering_file(path: Path) -> Path:
    save_vector(SteeringVector({2: torch.ones(4)}, VectorTags(model_type="llama")), path)
    return path


@pytest.mark.parametrize("out", ["model.safetensors", "model.gguf"])
def test_overwrite_replaces_vectors_and_nothing_else(out: str, tmp_path: Path) -> None:
    vector, target = steering_file(tmp_path / "vector.safetensors"), tmp_path / out
    action = "import" if out.endswith("safetensors") else "export"
    command = ["steer", action, str(vector), str(target), "--overwrite"]
    save_file({"weight": torch.ones(3)}, target)
    before = target.read_bytes()
    done = lineament_here(*command)
    assert (done.returncode, target.read_bytes()) == (2, before)
    assert "no steering vector" in done.stderr
    target.unlink()
    assert [lineament_here(*command).returncode for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("flag", ["--out", "--save-step"])
def test_steer_make_overwrites_what_it_wrote_itself_alone(flag: str, foreign: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"statement": f"s {i}", "label": bool(i % 2)}) for i in range(12)))
    given = foreign / "model.safetensors" if flag == "--out" else foreign
    before = contents(foreign)
    other = [] if flag == "--out" else ["--out", str(tmp_path / "v.safetensors")]
    done = lineament_here("steer", "make", str(data), "--method", "step", flag, str(given), *other, "--overwrite")
    assert (done.returncode, contents(foreign)) == (2, before)
    assert str(given) in done.stderr


def test_an_adapter_goes_over_none_but_our_own(foreign: Path, tmp_path: Path) -> None:
    names = tuple(f"base_model.model.q.lora_{factor}.default.weight" for factor in "AB")
    adapter = StoredAdapter(names, (torch.ones(1, 3), torch.ones(2, 1)), {"base_model.model.q": 1.0}, {"r": 1})
    before = contents(foreign)
    with pytest.raises(InputError, match="no adapter of Lineament's"):
        save_stored_adapter(adapter, foreign)
    assert contents(foreign) == before
    for _ in range(2):
        save_stored_adapter(adapter, tmp_path / "own")


def batch(n: int = 64) -> Batch:
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, size=(n, 3)))
    positions = torch.full((n, 1), 2)
    return Batch(ids, torch.ones_like(ids), positions, ids[:, :1] % 2, (0, 1))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(self.embedding(input_ids))
        return out


@pytest.mark.parametrize("task", ["../x", "/tmp/lineament-escaped", "a/b", "..", ".hidden", "x" * 300, "né e\n"])
def test_a_tasks_name_decides_no_path(task: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"measure": "gradient_rank", "recovery.space": "full", "damage.steps": 2}
    sizes |= {"task.evaluation_examples": 16, "measurement.gradients": 4, "measurement.ranks": "1", "recovery.steps": 3}
    sizes |= {"measurement.headline_rank": 1, "measurement.drift_gradients": 4}
    out = tmp_path / "deep" / "out"
    results = lineament.measure(Tiny(), {task: batch()}, settings=sizes, out=out)
    assert results.records[0].target == task
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert not Path("/tmp/lineament-escaped-seed0.json").exists()
    for path in out.rglob("*"):
        assert len(path.name.encode()) < 255
        assert not path.name.startswith(".")


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("copy", lambda name: name == "copy"),
        ("lr=0.001,optimizer=sgd", lambda name: name == "lr=0.001,optimizer=sgd"),
        ("größe", lambda name: name == "größe"),
        ("..", lambda name: "." not in name),
        ("", lambda name: name != ""),
        ("\udc80", lambda name: name.isascii()),
        ("ü" * 200, lambda name: len(name.encode()) <= MAX_NAME_BYTES + 7),
    ],
)
def test_safe_names(text: str, check: Callable[[str], bool]) -> None:
    assert check(safe_name(text))


def test_distinct_texts_have_distinct_safe_names() -> None:
    texts = ["a/b", "a-b", "a b", "../a-b", "", ".", "..", "/", "x" * 121, "x" * 122]
    assert len({safe_name(text) for text in texts}) == len(texts)


def test_files_of_an_unsafe_target_stay_in_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    files = folder.study_files("../../x", 0)
    for path in (folder.record("m", "../../x", 0), folder.adapter("../../x", 0, "star"), folder.basis("b", "../x", 0)):
        assert path.resolve().is_relative_to(tmp_path.resolve())
    assert files.recovery.recording.resolve().parent == (tmp_path / "recording").resolve()
