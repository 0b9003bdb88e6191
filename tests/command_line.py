"""Small real runs of the command line, as a user starts them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from lineament.cli import main

TINY = {
    "task.names": "copy,increment,maximum",
    "task.targets": "copy",
    "task.evaluation_examples": "64",
    "training.steps": "250",
    "training.lr": "8e-3",
    "model.width": "32",
    "model.length": "4",
    "recovery.steps": "60",
    "recovery.threshold": "0.7",
    "measurement.ranks": "1,2,5",
    "measurement.headline_rank": "5",
    "measurement.gradients": "16",
    "measurement.lanczos_steps": "8",
    "measurement.curvature_batch": "16",
    "measurement.task_vector_steps": "3",
    "measurement.inside_steps": "5",
    "measurement.drift_gradients": "8",
    "measurement.drift_rank": "2",
}


def arguments(out: Path, **changes: str) -> list[str]:
    keys = {**TINY, **changes}
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    return ["run", "synthetic", "--preset", "quick", "--out", str(out), *sets]


def lineament(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lineament.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


def lineament_here(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, where what it imports is there already: for commands whose process is not the point."""
    out, err, n_threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with contextlib.chdir(cwd or Path.cwd()), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(args)
        except SystemExit as ending:  # how the parser ends on a wrong flag
            code = int(ending.code or 0)
        finally:
            torch.set_num_threads(n_threads)
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def record_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "records").iterdir())}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait until something is there that a running process makes."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
