"""Names from outside (of tasks, data files, settings) become parts of file names here and nowhere else."""

from __future__ import annotations

import hashlib
import json
import re

MAX_NAME_BYTES = 120
# What Linux allows; no system allows more.
MAX_PART_BYTES, MAX_PATH = 255, 4095
# Letters of any script, digits and a few signs; the first is no dot and no dash, so that a name is never hidden, an
# option or the folder above.
SAFE = re.compile(r"[\w=+,][\w.,=+-]*")
UNSAFE_SIGN = re.compile(r"[^\w.,=+-]")


def safe_name(text: str) -> str:
    """Return a name that stays inside its folder on every file system: the text itself where it is one already.

    Other texts have their unsafe signs replaced and a hash behind them, so that distinct texts stay distinct.
    """
    if SAFE.fullmatch(text) and len(text.encode()) <= MAX_NAME_BYTES:
        return text
    replaced = UNSAFE_SIGN.sub("-", text).lstrip(".-")
    short = replaced.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return f"{short}-{_digest(text)}" if short else _digest(text)


def name_fault(text: str) -> str | None:
    """Say what is wrong with a text that may name a file, to go on after "it"; None if nothing is."""
    if "\0" in text:
        return "holds a NUL character, which no name can have"
    try:
        parts = text.encode().split(b"/")
    except UnicodeEncodeError:
        return "is not valid Unicode; name the file in UTF-8"
    if len(text) > MAX_PATH or any(len(part) > MAX_PART_BYTES for part in parts):
        return "is longer than any name can be"
    return None


def _digest(text: str) -> str:
    return hashlib.blake2b(json.dumps(text).encode(), digest_size=8).hexdigest()[:6]
