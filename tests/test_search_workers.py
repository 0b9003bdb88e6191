"""`lineament search --executor`: pieces of generations on workers give the bits of one process, whatever is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import lineament_here
from hypothesis import given
from hypothesis import strategies as st
from problems_table import moved, tiny_settings
from search_jobs import Killed, Refused

from lineament.commands.search import chunks, command, workers
from lineament.commands.search.chunks import MemberChunk
from lineament.commands.search.driver import _spend
from lineament.commands.search.flags import SearchOptions
from lineament.commands.search.methods import METHODS
from lineament.commands.search.target import Target, make_regions
from lineament.commands.search.workers import pieces, spread, workers_settings
from lineament.errors import LineamentError
from lineament.population.population import Population
from lineament.problems.synthetic import SyntheticProblem
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.executors.processes import ProcessPool
from lineament.runs.executors.ray_worker import carry_out, read_shared
from lineament.runs.executors.serial import SerialPool
from lineament.runs.executors.tasks import base_of
from lineament.settings.reading import updated

# Three generations of 40, 40 and 36 members, 8 to a pass.
SEARCH = ("--budget", "200", "--population", "40", "--probe", "4", "--threads", "1", "--examples", "32", "--rank", "5")


@pytest.fixture(scope="module")
def serial(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Searches in one process: method -> folder."""
    found = {}
    for method in ("one_shot", "es"):
        found[method] = tmp_path_factory.mktemp("serial") / method
        search(finished, found[method], method)
    return found


@pytest.fixture(scope="module")
def processes(finished: Path) -> Iterator[Pool]:
    """Two processes for all tests, whose start takes longer than the searches."""
    pool = ProcessPool(2)
    yield pool
    pool.close()


@pytest.fixture
def ray(finished: Path, tmp_path: Path) -> Iterator[Pool]:
    """Ray on this machine with two workers."""
    from lineament.runs.executors.ray_pool import RayPool

    pool = RayPool(ExecutorOptions("ray", 2), tmp_path, updated(tiny_settings("lora"), {"threads": 1}, "test"))
    yield pool
    pool.close()


def search(run: Path, out: Path, method: str, *flags: str, code: int = 0) -> str:
    """Search as a user does; returns what went to stderr."""
    done = lineament_here("search", str(run), "--out", str(out), "--method", method, "--quiet", *SEARCH, *flags)
    assert done.returncode == code, done.stderr
    return done.stderr


def written(out: Path) -> dict[str, bytes]:
    """Every file of a search: path below it -> content."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def on(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches take this pool, whatever they ask for, and leave it open."""
    monkeypatch.setattr(command, "open_pool", lambda *_: nullcontext(pool))


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_workers_write_the_same_bytes(
    executor: str,
    serial: dict[str, Path],
    finished: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(request.getfixturevalue(executor), monkeypatch)
    for method, folder in serial.items():
        search(finished, tmp_path / method, method, "--executor", executor)
        assert written(tmp_path / method) == written(folder)


def test_a_killed_worker_changes_nothing(
    processes: Pool, serial: dict[str, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(processes, monkeypatch)
    monkeypatch.setattr(workers, "MemberChunk", Killed)
    search(finished, tmp_path / "out", "es", "--executor", "processes")
    found = written(tmp_path / "out")
    assert b"SIGKILL" in found.pop("log.txt")
    assert found.pop("killed") == b""
    assert found == written(serial["es"])


def test_a_search_that_failed_goes_on_with_other_workers(
    processes: Pool, serial: dict[str, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    on(processes, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "MemberChunk", Refused)
        errors = search(finished, out, "es", "--executor", "processes", code=1).replace("\n", " ")
    assert "generation 1" in errors
    assert "the disk is full" in errors
    assert "--resume" in errors
    assert {path.name for path in (out / "generations").iterdir()} == {"00000.json"}
    assert not (out / "point.safetensors").exists()
    # what a killed search leaves is never taken for losses
    part = out / "generations" / "00001-part-00000-00008.json"
    part.write_text(json.dumps({"schema": 1, "losses": [0.0] * 8}))
    whole = tmp_path / "whole"
    shutil.copytree(out, whole)
    search(finished, out, "es", "--executor", "processes", "--workers", "1", "--resume")
    search(finished, whole, "es", "--resume")
    for found in (out, whole):
        body = written(found)
        assert body.pop("log.txt")
        body.pop(f"generations/{part.name}", None)  # serial searches look at no parts
        assert body == written(serial["es"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "0"], ["--workers must be at least 1", "got 0"]),
        (["--retries", "-1"], ["--retries must be at least 0", "got -1"]),
        (["--ray-address", "auto"], ["--ray-address auto", "--executor ray", "the executor is serial"]),
        (["--executor", "thread"], ["thread"]),
    ],
)
def test_impossible_flags_are_refused_before_anything_is_loaded(
    flags: list[str], words: list[str], tmp_path: Path
) -> None:
    errors = " ".join(search(tmp_path / "absent", tmp_path / "out", "es", *flags, code=2).split())
    assert all(word in errors for word in words), errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_no_cluster_leaves_no_trace(finished: Path, tmp_path: Path) -> None:
    errors = search(finished, tmp_path / "out", "es", "--executor", "ray", "--ray-address", "127.0.0.1:9", code=2)
    assert "nothing answers" in errors
    assert not (tmp_path / "out").exists()


@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 40))
def test_pieces_are_whole_passes(n: int, per_pass: int, most: int) -> None:
    found = pieces(n, per_pass, most)
    assert [start for start, _ in found] == [0, *[stop for _, stop in found[:-1]]]
    assert found[-1][1] == n
    assert all(start % per_pass == 0 and start < stop for start, stop in found)
    sizes = [-(-(stop - start) // per_pass) for start, stop in found]
    assert len(found) == min(most, -(-n // per_pass))
    assert max(sizes) - min(sizes) <= 1


def tiny_target() -> Target:
    """An adapter away from its start, as a target; workers that make it again need its point."""
    settings = updated(tiny_settings("lora"), {"threads": 1}, "test")
    return Target(moved(SyntheticProblem(settings, 0)), "copy", settings, 0, "here")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_the_same_members_from_numbers(method: str, tmp_path: Path) -> None:
    """With a worker that is new in every generation, as after a loss."""
    target, options = tiny_target(), SearchOptions(population=20)
    region = make_regions(target, ["random"], 5, gradients=False)[0]
    population = Population(target.problem, target.batch(100, "selection"))
    found = []
    for name in ("here", "spread"):
        made = METHODS[method](region, target.streams, 0.05, population.base)
        folder = tmp_path / name
        with spread(SerialPool(), ExecutorOptions(), target, region, population, folder) as hands:
            assert hands.per_pass < 20
            score = None if name == "here" else hands.score
            found.append(_spend(made, population, 60, options, folder, lambda *_: chunks._KEPT.clear(), score)[0])
    assert np.array_equal(*found)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == sorted(2 * [f"0000{i}.json" for i in range(3)])


@pytest.fixture
def piece(tmp_path: Path) -> Iterator[tuple[MemberChunk, np.ndarray]]:
    """A piece of a generation and its losses as this process makes them."""
    target = tiny_target()
    region = make_regions(target, ["full"], 5, gradients=False)[0]
    population = Population(target.problem, target.batch(100, "selection"))
    generation = METHODS["one_shot"](region, target.streams, 0.05, population.base).ask(10)
    with spread(SerialPool(), ExecutorOptions(), target, region, population, tmp_path) as hands:
        yield hands._chunks(0, generation)[-1], population.score(generation.members).losses


def test_a_piece_made_on_a_node_that_sees_no_folder_comes_home(
    piece: tuple[MemberChunk, np.ndarray], tmp_path: Path
) -> None:
    """What Ray's worker does where the pool's token is not seen, without Ray."""
    chunk, losses = piece
    board = SimpleNamespace(put=SimpleNamespace(remote=lambda *_: None))
    result = carry_out(
        chunk, read_shared(chunk.needs, base_of(chunk)), tmp_path / "unseen", board, "attempt 1", Path.cwd()
    )
    assert result.failure is None
    assert not chunk.file.exists()
    chunk.keep(result.files)
    assert np.array_equal(chunks.read_losses(chunk.file), losses[-len(chunk.draws) :])


def test_another_model_than_the_search_s_is_refused(piece: tuple[MemberChunk, np.ndarray]) -> None:
    chunk, _ = piece
    other = replace(chunk, place=replace(chunk.place, weights="0" * 16))
    with pytest.raises(LineamentError, match="same model files"):
        other.execute(lambda *_: None)
    assert not other.file.exists()


def test_workers_take_the_device_of_the_target_and_find_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_target()
    assert target.settings.device == "auto"
    assert workers_settings(target) == updated(target.settings, {"device": target.problem.device.type}, "test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    here = {"model.adapter": "mine", "model.name": "mine/model", "task.data": "hf:boolq"}
    found = workers_settings(replace(target, settings=updated(target.settings, here, "test")))
    assert found.model.adapter == str(tmp_path / "mine")
    assert found.model.name == str(tmp_path / "mine" / "model")
    assert found.task.data == "hf:boolq"
