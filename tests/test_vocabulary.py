"""One vocabulary of flags over all commands, and a device that is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import lineament_here
from test_flags import example
from test_kinds import begin_run, record
from threadpoolctl import threadpool_info, threadpool_limits

from lineament import cli
from lineament.command_line.described import flags_of
from lineament.errors import InputError

COMMON = ("threads", "seed", "device", "quiet", "debug")
# Commands that answer at once.
READING = ("claims", "runs", "compare", "export", "keys", "cache")
STORED = "reads and writes stored numbers, which neither a draw nor a model changes"
# What a command that works has no use for, and why.
WITHOUT = {
    "analyze": {"device": "inner products of stored rows"},
    "adapters": {"seed": "draws nothing", "device": "decomposes small stored matrices"},
    **{
        name: dict.fromkeys(("threads", "seed", "device"), STORED)
        for name in ("record-from-checkpoints", "model", "report", "steer combine")
    },
    **{
        name: dict.fromkeys(("threads", "seed", "device", "quiet"), STORED + ", at once")
        for name in ("steer export", "steer import")
    },
}
SAMPLES = {int: "7", float: "0.25", str: "some", Path: "some/path"}


def has(name: str) -> set[str]:
    return {flag.field for flag in flags_of(cli.COMMANDS[name])}


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name not in READING])
def test_commands_that_work_have_the_common_flags(name: str) -> None:
    assert set(COMMON) - has(name) == set(WITHOUT.get(name, {}))


@pytest.mark.parametrize("field", COMMON)
def test_a_common_flag_takes_the_same_values_everywhere(field: str) -> None:
    flags = [flag for name in cli.COMMANDS for flag in flags_of(cli.COMMANDS[name]) if flag.field == field]
    assert len({(flag.kind, flag.choices, flag.several, flag.value) for flag in flags}) == 1
    assert len(flags) >= 8


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if "device" in has(name)])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read_or_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    needed = [word for flag in flags_of(cli.COMMANDS[name]) if flag.required for word in example(flag, SAMPLES)]
    done = lineament_here(*name.split(), *needed, "--device", "cuda", cwd=tmp_path)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_device_of_a_run_that_is_checked_is_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was made on a GPU, whose advice is checked elsewhere: --device says where instead."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    begin_run(tmp_path / "run", device="cuda")
    rows = tmp_path / "run" / "recording" / "sort-seed0"
    record(rows)
    check = ["advise", str(rows), "--check", "--optimizer", "sgd", "--lr", "0.1", "--out", str(tmp_path / "out")]
    done = lineament_here(*check)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert not (tmp_path / "out").exists()

    def reached(*_: object) -> None:
        raise InputError("the recording is analyzed")

    monkeypatch.setattr("lineament.commands.recordings.command.analyze_recording", reached)
    assert "is analyzed" in lineament_here(*check, "--device", "cpu").stderr


def blas() -> list[int]:
    """Threads of every library of products that is loaded."""
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if "threads" in has(name)])
def test_threads_are_those_of_numpys_products_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They took every core of the machine, whatever --threads said."""
    kind = cli.COMMANDS[name]
    function = cli.function_of(kind)
    seen: list[int] = []

    def look(_: object) -> int:
        seen.extend(blas())
        return 0

    monkeypatch.setattr(sys.modules[function.__module__], function.__name__, look)
    needed = [word for flag in flags_of(kind) if flag.required for word in example(flag, SAMPLES)]
    for threads in (1, 3):
        seen.clear()
        with threadpool_limits(2):
            assert lineament_here(*name.split(), *needed, "--threads", str(threads), cwd=tmp_path).returncode == 0
            assert set(blas()) == {2}
        assert set(seen) == {threads}
