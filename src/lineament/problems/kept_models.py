"""Models of GGUF files as plain folders in the cache: made once for each content, loaded later by transformers alone.

A folder holds its marker last of all, so that one with a marker is whole. Nothing but the files that the marker names
is ever deleted.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from lineament.files.reading import pieces
from lineament.files.schemas import read_ours
from lineament.files.writing import TEMPORARY_PREFIX, write_json
from lineament.problems.base_cache import cache_folder, mark_cache, require_cache

MARKER = "lineament-model.json"
PREFIX = "gguf-"
CHUNK = 2**22


def content_hash(path: Path, *also: str) -> str:
    """Return 16 hex digits of a file's content and of what else decides what is made of it."""
    found = hashlib.sha256("\n".join(also).encode())
    for chunk in pieces(path, CHUNK):
        found.update(chunk)
    return found.hexdigest()[:16]


def kept_model(key: str) -> Path | None:
    """Return the whole folder that is kept under a key, or None."""
    folder = cache_folder() / f"{PREFIX}{key}"
    return folder if (folder / MARKER).is_file() else None


def keep_model(key: str, origin: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder, whole or not at all; one process does, others wait and take its folder.

    Args:
        origin: what the model was made from, for whoever looks into the folder.

    Raises:
        OSError, LineamentError: the cache cannot be written, or its folder is not ours.
    """
    folder = cache_folder() / f"{PREFIX}{key}"
    require_cache()
    mark_cache()
    with FileLock(_lock(folder), fallback_to_soft=False):
        if kept_model(key):
            return folder
        unfinished = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a killed writer: this is the only living one
        try:
            write(unfinished)
            files = sorted(file.name for file in unfinished.iterdir())
            write_json(unfinished / MARKER, {**origin, "files": files})
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def kept_models() -> list[Path]:
    """List the folders of whole models in the cache, by name."""
    return sorted(marker.parent for marker in cache_folder().glob(f"{PREFIX}*/{MARKER}"))


def delete_kept(folder: Path) -> None:
    """Delete a model's files, those that its marker names and no other; the folder too unless others put files there.

    The marker goes first: what is left of a deletion that was cut short is no model.
    """
    body = read_ours(folder / MARKER, "kept-model", f"Delete {folder} yourself.")
    names = [name for name in body["files"] if Path(name).name == name]
    for name in (MARKER, *names):
        (folder / name).unlink(missing_ok=True)
    _lock(folder).unlink(missing_ok=True)
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
