"""Folders that take long to make are made once, for all workers of pytest-xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this session that every worker sees."""
    base = tmp_path_factory.getbasetemp()  # a worker has one of its own inside the session's
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name`, which the first worker that asks lets `make` fill; the others wait for it.

    No test may write to it: another worker may be reading. Take a copy.
    """
    folder = session_folder(tmp_path_factory) / name
    complete = folder.with_name(f"{name}.complete")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another worker failed to make it
            make(folder)
            complete.touch()
    return folder
