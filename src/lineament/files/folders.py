"""Whose a folder is: it is written into, and files in it are deleted, only if it is new, empty or marked as ours.

A run, a sweep and a search are marked by the configuration that they begin with, a recording by its index. Folders that
hold nothing of that kind (an analysis, an adapter, a composition, the cache) have a file `lineament.json` that names
their kind.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from lineament.errors import InputError, LineamentError
from lineament.files.reading import read_json
from lineament.files.writing import is_left_over, write_json

MARKER = "lineament.json"
# What the stages of `lineament.measure` depend on; it marks their folder.
IDENTITY = "identity.json"
LOCK = "lock"
Kind = Literal["analysis", "cache", "adapter", "composition"]


def is_marked(folder: Path, kind: Kind) -> bool:
    """Return whether a folder carries our marker of this kind."""
    try:
        body = read_json(folder / MARKER)
    except (LineamentError, OSError):
        return False
    return isinstance(body, dict) and body.get("folder") == kind


def mark(folder: Path, kind: Kind) -> None:
    """Mark a folder as ours; call it after `require_ours`, before anything else is written there."""
    if not is_marked(folder, kind):
        write_json(folder / MARKER, {"schema": 1, "folder": kind})


def require_ours(folder: Path, kind: Kind, option: str = "--out") -> None:
    """Raise `InputError` if the folder, given by `option`, is neither new nor empty nor marked as ours."""
    if not is_marked(folder, kind) and not is_unused(folder):
        raise InputError(
            f"{folder} is not empty and is no {kind} of Lineament's, so nothing is written or deleted there. Choose "
            f"another folder ({option})."
        )


def is_unused(folder: Path) -> bool:
    """Return whether a folder is new, or holds nothing but what is left of a start that was killed."""
    return not folder.is_dir() or all(_is_of_a_start(path) for path in folder.iterdir())


def require_unused(folder: Path, option: str = "--out") -> None:
    """Raise `InputError` if the folder, given by `option`, holds anything but a run that is only starting."""
    if not is_unused(folder):
        raise InputError(f"{folder} is not empty and holds no run. Choose another {option}.")


def require_writable(folder: Path, option: str = "--out") -> None:
    """Raise `InputError` unless the folder, or the nearest one that exists above it, may be written to."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; {option} names a folder.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"writing in {nearest} is not allowed. Allow it, or choose another {option}.")


def _is_of_a_start(path: Path) -> bool:
    """Return whether a start may have left this: its empty lock, or an unfinished file of a killed write."""
    return is_left_over(path) or (path.name == LOCK and path.is_file() and path.stat().st_size == 0)
