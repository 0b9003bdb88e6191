"""The cache of trained base models: one file for each configuration and seed, in a folder that is marked as ours."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lineament.files.folders import is_marked, mark, require_ours
from lineament.files.writing import delete_leftovers, write_bytes

VARIABLE = "LINEAMENT_CACHE"
BASE = re.compile(r"synthetic-[0-9a-f]{16}\.safetensors")
# Of an earlier version: a plain model of a GGUF file, its lock, and what killed writers left.
EARLIER = re.compile(r"gguf-[0-9a-z]+(\.lock)?|\.tmp-.*")


def cache_folder() -> Path:
    """Return where trained base models are kept: $LINEAMENT_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lineament"
    return Path(os.environ.get(VARIABLE, default))


def require_cache() -> None:
    """Raise `InputError` if the cache's folder holds what is not ours; nothing may be written or deleted there then."""
    folder = cache_folder()
    if not _is_old_cache(folder):
        require_ours(folder, "cache", f"${VARIABLE}")


def mark_cache() -> None:
    """Mark the cache's folder as ours, after `require_cache`, before anything else is written there."""
    mark(cache_folder(), "cache")


def keep_base(name: str, content: bytes) -> None:
    """Write a base model into the cache, which is marked as ours first.

    Raises:
        InputError: the cache's folder holds what is not ours.
    """
    require_cache()
    mark_cache()
    write_bytes(cache_folder() / name, content)


def cached_bases() -> list[Path]:
    """List the cached base models by name; other files are none, whatever folder they are in."""
    return sorted(path for path in cache_folder().glob("*.safetensors") if _is_base(path))


def clear_cache() -> list[Path]:
    """Delete every cached base model and what killed writers left; returns what it deleted.

    Raises:
        InputError: the folder is not the cache's.
    """
    require_cache()
    bases = cached_bases()
    for path in bases:
        path.unlink(missing_ok=True)
    delete_leftovers(cache_folder())
    return bases


def _is_base(path: Path) -> bool:
    return BASE.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _is_old_cache(folder: Path) -> bool:
    """Return whether an earlier version, which marked no folder, left base models and nothing else here."""
    if is_marked(folder, "cache") or not folder.is_dir():
        return False
    return all(_is_base(path) or EARLIER.fullmatch(path.name) for path in folder.iterdir())
