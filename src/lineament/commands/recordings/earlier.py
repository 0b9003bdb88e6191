"""Analyses that an earlier call made of the same recording in the same way, which need not be made again."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path

from lineament.errors import LineamentError
from lineament.files.reading import pieces, read_json
from lineament.files.writing import write_json
from lineament.measurements.recording.analysis import DEFINITIONS
from lineament.records import Record
from lineament.settings.plain import digest

FILE, PIECE_BYTES = "analyzed.json", 2**22


def analysis_key(options: str, files: Mapping[str, Path | None], beside: Path) -> str:
    """Return what an analysis follows from: its options, the bytes of what it reads, and what it defines.

    Args:
        options: their hash.
        files: name -> a recording or an adapter that is read; None where none was given.
        beside: the folder of the analysis, which may lie inside the recording.
    """
    contents = {name: None if folder is None else _contents(folder, beside) for name, folder in files.items()}
    about = {"version": importlib.metadata.version("lineament"), "definitions": DEFINITIONS}
    return digest({"options": options, "contents": contents, **about})


def earlier_analyses(folder: Path, keys: Iterable[str]) -> dict[str, Record]:
    """Return the records that were made from any of these keys and are still whole, by key."""
    try:
        made = read_json(folder / FILE)
    except (LineamentError, OSError):
        return {}
    found: dict[str, Record] = {}
    for key in keys:
        name = made.get(key) if isinstance(made, dict) else None
        path = folder / "records" / f"{name}.json"
        if isinstance(name, str) and Path(name).name == name and path.is_file():
            try:
                record = Record.load(path)
            except (LineamentError, OSError):
                continue
            if record.name == name:
                found[key] = record
    return found


def remember(folder: Path, made: Mapping[str, Record]) -> None:
    """Write which record was made from which key."""
    write_json(folder / FILE, {key: record.name for key, record in made.items()})


def _contents(folder: Path, beside: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.resolve().is_relative_to(beside.resolve()):
            content = hashlib.blake2b()
            for piece in pieces(path, PIECE_BYTES):
                content.update(piece)
            found[str(path.relative_to(folder))] = content.hexdigest()
    return found
