"""The one reader of files from outside: every way in which opening, decoding and parsing can fail has a sentence.

Only ordinary files are read (a pipe would wait for ever, a device has no end), up to a size, and nested up to a depth.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lineament.errors import InputError

MAX_BYTES = 2**30
# Whatever reads a value of this depth in turn may use a few calls for every level.
MAX_DEPTH = 64
MAX_CSV_FIELD = 2**27
MAX_VALUE_SHOWN = 60
# What a JSON text must hold to have half a character in one of its strings.
HALF_CHARACTER = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
CANNOT_OPEN = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of its path is a file",
    errno.EISDIR: "is a folder; a file is needed",
    errno.ELOOP: "is a loop of links",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EACCES: "may not be read; allow it",
    errno.EPERM: "may not be read; allow it",
}


def require_file(path: Path, what: str = "the file") -> None:
    """Refuse what is no ordinary file that can be read, for readers of their own formats.

    Args:
        what: how errors begin, before the path.

    Raises:
        InputError: it is missing, a folder, a pipe, a device, too long a name or not readable.
    """
    _opened(path, what).close()


def read_bytes(path: Path, what: str = "the file", most: int = MAX_BYTES) -> bytes:
    """Read a whole ordinary file.

    Args:
        most: bytes of the largest file that is read.

    Raises:
        InputError: as `require_file`, or it is larger.
    """
    with _opened(path, what) as stream:
        try:
            content = stream.read(most + 1)
        except OSError as error:
            raise InputError(f"{what} {path} could not be read: {error.strerror}.") from None
        except MemoryError:
            raise _too_large(f"{what} {path}") from None
    if len(content) > most:
        raise InputError(
            f"{what} {path} has more than {most / 2**20:g} MiB, the most that is read; give a smaller one."
        )
    return content


def pieces(path: Path, size: int) -> Iterator[bytes]:
    """Yield an ordinary file of any length in pieces of `size` bytes; `InputError` as `require_file`."""
    with _opened(path, "the file") as stream:
        while piece := stream.read(size):
            yield piece


def read_text(path: Path, what: str = "the file", most: int = MAX_BYTES) -> str:
    """Read a whole text, in UTF-8 with or without a byte order mark; every line end becomes a line feed.

    Raises:
        InputError: as `read_bytes`, or it is no UTF-8.
    """
    try:
        text = read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, what: str = "the file") -> Any:
    """Read a JSON file.

    Raises:
        InputError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, what), f"{what} {path}")


def parse_json(text: str, where: str) -> Any:
    """Parse JSON.

    Args:
        where: what it is of; begins the error.

    Raises:
        InputError: it is no JSON, nested too deeply, or has a number or a character that cannot be used.
    """
    try:
        body = json.loads(text)
    except RecursionError:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep, the most that is read.") from None
    except MemoryError:
        raise _too_large(where) from None
    except ValueError as error:  # also for a number of thousands of digits
        raise InputError(f"{where} is not valid JSON: {error}.") from None
    _require_shallow(body, where)
    if HALF_CHARACTER.search(text):
        _require_characters(body, where)
    return body


def read_toml(path: Path, what: str = "the file") -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: as `read_text` and `parse_toml`.
    """
    return parse_toml(read_text(path, what), f"{what} {path}")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML; `InputError` for a text that is none or is nested too deeply."""
    try:
        body = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep, the most that is read.") from None
    except MemoryError:
        raise _too_large(where) from None
    except ValueError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    _require_shallow(body, where)
    return body


def json_lines(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of every line that is not empty; `InputError` names the line."""
    # Not splitlines(): that would also break at separators that may stand inside a text.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_json(content, f"{where}, line {line}")


def csv_rows(text: str, where: str, delimiter: str = ",") -> list[tuple[int, dict[str, Any]]]:
    """Return (line, row by the names in the first line) of every row.

    Raises:
        InputError: it is no CSV, a row has more cells than there are names, or two columns have one name.
    """
    reader, earlier = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), csv.field_size_limit()
    csv.field_size_limit(MAX_CSV_FIELD)
    try:
        names = [name for name in reader.fieldnames or () if name]
        rows = [(reader.line_num, row) for row in reader]
    except MemoryError:
        raise _too_large(where) from None
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num} is not valid CSV: {error}.") from None
    finally:
        csv.field_size_limit(earlier)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where} has two columns named {twice!r}; name each once.")
    for line, row in rows:
        if any(row.pop(None, ())):
            raise InputError(f"{where}, line {line} has more cells than the first line has names.")
    return rows


def shown(value: object) -> str:
    """Return a value as an error quotes it: on one line, cut where it is long, with nothing that cannot be printed."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a value inside itself
        return f"a {type(value).__name__} that is too large to show"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}..."


def _too_large(where: str) -> InputError:
    return InputError(f"{where} is too large for this machine's memory; give a smaller file.")


def _opened(path: Path, what: str) -> BinaryIO:
    try:
        # without O_NONBLOCK opening a pipe waits for somebody who writes
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # a NUL byte, half a character
        raise InputError(f"{what} {shown(str(path))} has a name that no file can have.") from None
    except OSError as error:
        reason = CANNOT_OPEN.get(error.errno or 0, f"could not be opened: {error.strerror}")
        raise InputError(f"{what} {shortened(path)} {reason}.") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{what} {path} is {kind}; a file is needed.")
    return os.fdopen(handle, "rb")


def shortened(path: Path | str) -> str:
    """Return a path or another text as an error names it; one that is too long is cut in the middle."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 10 * MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}...{text[-MAX_VALUE_SHOWN:]}"


def _require_shallow(body: Any, where: str) -> None:
    level = [body] if isinstance(body, dict | list) else []
    for _ in range(MAX_DEPTH):
        parts = (part for node in level for part in (node.values() if isinstance(node, dict) else node))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep, the most that is read.")


def _require_characters(body: Any, where: str) -> None:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where} has half a character in a text (an escape from \\ud800 to \\udfff without its other half), which "
            "no tokenizer takes. Write it whole or leave it out."
        ) from None
