"""What needs more memory than there is: one message that says what to do, whatever raised the error."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import lineament_here

from lineament.errors import InputError, memory_message
from lineament.files.reading import csv_rows, parse_json, parse_toml, read_bytes
from lineament.runs.executors.tasks import Job, attempt
from lineament.settings.presets import resolve

BYTES = 8 * 2**30


def torch_array() -> Any:
    return torch.empty(2**58)


def no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    "make",
    [
        torch_array,
        no_memory,
        lambda: np.empty(2**60),
        lambda: np.empty((2**40, 2**40)),
        lambda: torch.empty(2**40, 2**40),
        lambda: bytearray(2**62),
    ],
)
def test_errors_of_every_library_are_known(make: Callable[[], Any]) -> None:
    with pytest.raises((MemoryError, RuntimeError, ValueError)) as raised:
        make()
    said = memory_message(raised.value)
    assert said is not None
    assert said.startswith("there is not enough memory")
    assert "\n" not in said


@pytest.mark.parametrize("error", [ValueError("shape"), RuntimeError("mat1 and mat2"), RecursionError("depth")])
def test_other_errors_are_none_of_memory(error: Exception) -> None:
    assert memory_message(error) is None


@pytest.mark.parametrize("make", [torch_array, no_memory])
def test_a_command_says_so_without_a_traceback(
    make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineament.cli.function_of", lambda kind: lambda flags: make())
    done = lineament_here("runs", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("lineament: there is not enough memory")
    assert done.stderr.count("\n") == 1


def test_other_errors_are_raised_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(flags: Any) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr("lineament.cli.function_of", lambda kind: defect)
    with pytest.raises(RuntimeError, match="a defect"):
        lineament_here("runs", str(tmp_path))


def test_a_job_says_so_and_its_log_needs_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineament.runs.executors.tasks.run_job", no_memory)
    outcome = attempt(Job(resolve("synthetic", "quick", []), 0, tmp_path, "seed 0"), lambda *_: None)
    assert outcome.failure is not None
    assert "not enough memory" in outcome.failure
    assert outcome.details is None


@pytest.mark.parametrize(
    ("patched", "read"),
    [
        ("json.loads", lambda file: parse_json("[1]", str(file))),
        ("tomllib.loads", lambda file: parse_toml("a = 1", str(file))),
        ("csv.DictReader", lambda file: csv_rows("a", str(file))),
        ("os.fdopen", read_bytes),
    ],
)
def test_a_file_that_does_not_fit_is_bad_input(
    patched: str, read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        read = fieldnames = property(no_memory)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

    file = tmp_path / "a.json"
    file.write_text("[1]")
    classes = patched in ("csv.DictReader", "os.fdopen")
    with monkeypatch.context() as patch:
        patch.setattr(f"lineament.files.reading.{patched}", (lambda *_, **__: Full()) if classes else no_memory)
        with pytest.raises(InputError, match="too large for this machine's memory") as raised:
            read(file)
    assert str(file) in str(raised.value)


def test_a_model_beyond_all_memory(tmp_path: Path) -> None:
    """A real one, in a process that may have 8 GiB of addresses."""
    config = {"model.width": 400_000, "model.heads": 1, "task.names": "copy,increment", "task.targets": "copy"}
    sets = [part for key, value in config.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "lineament.cli", "run", "synthetic", "--dry-run", *sets]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES)),
    )
    assert done.returncode == 1, done.stderr
    assert "there is not enough memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
