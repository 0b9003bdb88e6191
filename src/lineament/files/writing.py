"""Files are written whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from lineament.errors import InputError, LineamentError

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".tmp-lineament-", ".tmp"
# With what `tempfile` puts between them: no file that somebody else made is called so.
LEFT_OVER = re.compile(re.escape(TEMPORARY_PREFIX) + r"[a-z0-9_]{8}" + re.escape(TEMPORARY_SUFFIX))
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    with written_whole(path) as stream:
        stream.write(content)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose file stands under its name only once it is whole.

    Temporary name in the same folder, flushed to disk, then renamed; after an error nothing is left.

    Raises:
        LineamentError: the operating system refused to write.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX)
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise LineamentError(f"could not write {path}: {error.strerror}. {what_to_do(error)}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)  # already renamed away when all went well


def append_line(path: Path, line: str) -> None:
    """Append one line to a text; call it where a torn last line does no harm, as in a log."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(f"{line}\n")


def opened_for_lines(path: Path) -> TextIO:
    """Open a text that lines are appended to as they come.

    Raises:
        InputError: it cannot be written.
    """
    try:
        return path.open("a", encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is none that a file can have"
        raise InputError(f"{path} cannot be written: {reason}. Choose another file.") from None


def require_appendable(path: Path) -> None:
    """Raise `InputError` unless lines may be appended to a file, which need not exist; nothing is made."""
    place = path if path.exists() else path.parent
    if path.is_dir() or (path.exists() and not path.is_file()) or not os.access(place, os.W_OK):
        raise InputError(f"{path} cannot be written. Choose another file, or allow writing there.")


def is_left_over(path: Path) -> bool:
    """Return whether this is a file that a killed writer of ours left unfinished."""
    return LEFT_OVER.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def delete_leftovers(folder: Path) -> None:
    """Delete what killed writers left at any depth below a folder of ours that nobody else is writing."""
    for path in folder.rglob(f"{TEMPORARY_PREFIX}*"):
        if is_left_over(path):
            path.unlink(missing_ok=True)


def what_to_do(error: OSError) -> str:
    """Advice that fits why the operating system refused."""
    if error.errno in NO_SPACE:
        remedy = "free space, then --resume"
    elif error.errno in NOT_ALLOWED:
        remedy = "allow writing there and --resume, or choose another --out"
    else:
        remedy = "remove the cause, then --resume"
    return f"What was finished stays; {remedy}."


def write_json(path: Path, body: Any) -> None:
    """Write JSON with sorted keys; non-finite numbers are refused, so that every reader can parse it."""
    write_bytes(path, (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
