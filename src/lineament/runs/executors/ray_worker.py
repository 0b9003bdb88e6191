"""What runs on Ray's workers: a task where its folder is seen, or in a scratch folder whose files go back as bytes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lineament.files.reading import read_bytes
from lineament.files.writing import write_bytes
from lineament.problems.base_cache import cache_folder, keep_base
from lineament.runs.executors.pool import seldom
from lineament.runs.executors.tasks import Outcome, Preparation, Task, attempt, base_of

SECONDS_BETWEEN_REPORTS = 0.5
SCRATCH, IN_USE = "lineament-job-", "in-use"
SCRATCH_NAME = re.compile(SCRATCH + "[a-z0-9_]{8}")


@dataclass(frozen=True)
class Shared:
    """What a task starts from: contents of files that a node may not have."""

    needed: bytes | None
    base_name: str | None
    base: bytes | None


@dataclass(frozen=True)
class Result:
    """How a remote attempt ended, and the files it made where the driver cannot see them."""

    failure: str | None
    again: bool
    details: str | None
    files: Mapping[str, bytes]
    base: bytes | None


class Board:
    """An actor that keeps the latest step of every attempt until it is asked for."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[str, int, int]] = {}

    def put(self, name: str, what: str, done: int, total: int) -> None:
        """Remember an attempt's step in place of its earlier ones."""
        self.steps[name] = (what, done, total)

    def take(self) -> dict[str, tuple[str, int, int]]:
        """Return all steps since the last call."""
        taken, self.steps = self.steps, {}
        return taken


def carry_out(task: Task, shared: Shared, token: Path, board: Any, name: str, folder: Path) -> Result:
    """Run a task; what goes wrong around it is told like what goes wrong in it.

    Args:
        token: a file that is seen where the run's folder is.
        name: of this attempt, for the board.
        folder: where the driver stands; relative paths of settings are meant from there.
    """

    def put(what: str, done: int, total: int) -> None:
        board.put.remote(name, what, done, total)

    progress = seldom(put, SECONDS_BETWEEN_REPORTS)
    progress("starting", 0, 1)  # its time limit runs from here
    if folder.is_dir():
        os.chdir(folder)
    try:
        return _carried_out(task, shared, token, progress)
    except Exception as error:  # the driver would otherwise see a lost worker, without the cause
        return Result(f"{type(error).__name__}: {error}", True, traceback.format_exc(), {}, None)


def read_shared(needs: Path | None, base: Path | None) -> Shared:
    """Read what a task needs and its cached base model, where they exist."""
    needed = read_bytes(needs) if needs and needs.exists() else None
    return Shared(needed, base.name if base else None, read_bytes(base) if base and base.exists() else None)


def _carried_out(task: Task, shared: Shared, token: Path, progress: Any) -> Result:
    if shared.base is not None and shared.base_name and not (cache_folder() / shared.base_name).exists():
        keep_base(shared.base_name, shared.base)
    if token.exists():
        return _result(task, attempt(task, progress), {})
    with _scratch() as folder:
        moved = task.elsewhere(folder)
        if moved.needs and shared.needed is not None:
            write_bytes(moved.needs, shared.needed)
        return _result(task, attempt(moved, progress), moved.files())


def _result(task: Task, outcome: Outcome, files: Mapping[str, bytes]) -> Result:
    base = base_of(task) if isinstance(task, Preparation) else None
    content = read_bytes(base) if base and base.exists() else None
    return Result(outcome.failure, outcome.again, outcome.details, files, content)


@contextmanager
def _scratch() -> Iterator[Path]:
    """Make a folder that is deleted afterwards, by the next attempt on this node if this worker is killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{IN_USE}"):
        if not SCRATCH_NAME.fullmatch(left.parent.name):
            continue
        # Refused (a Timeout, which is an OSError) while its worker lives.
        with suppress(OSError), FileLock(left, timeout=0, fallback_to_soft=False):
            shutil.rmtree(left.parent, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH) as name,
        FileLock(Path(name) / IN_USE, fallback_to_soft=False),
    ):
        yield Path(name)
