"""Errors a user can act on. Each says what was given, what is allowed and what to do; none shows a traceback."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable

MAX_NAMES_SHOWN = 20
MAX_REASON = 200
# What torch and numpy say, in errors of several classes, where an array is larger than memory or than any memory.
TOO_LARGE = (
    *("can't allocate memory", "not enough memory", "out of memory", "cannot allocate memory"),
    *("storage size calculation overflowed", "array is too big", "maximum allowed dimension exceeded"),
)


class LineamentError(Exception):
    """A run failed; what was finished stays on disk. Exit code 1."""

    exit_code = 1


class InputError(LineamentError, ValueError):
    """Bad usage or input, noticed before anything was written. Exit code 2."""

    exit_code = 2


class SpaceMismatchError(InputError):
    """Vectors of two different spaces were combined; the message names both."""


class NonFiniteError(LineamentError):
    """A loss or parameter became NaN or infinite, with the step and the value."""


def memory_message(error: BaseException) -> str | None:
    """Return what to tell a user whose request needs more memory than there is; None for any other error."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not any(words in text.lower() for words in TOO_LARGE):
        return None
    reason = f" ({text[:MAX_REASON].rstrip('.')})" if text else ""
    return (
        f"there is not enough memory{reason}. Lower the sizes or counts that were asked for, give a smaller file or "
        "model, run fewer jobs at a time, or take a machine with more."
    )


def require_package(module: str, extra: str, what: str) -> None:
    """Raise `InputError` unless a package that only some commands need is installed; imports nothing.

    Args:
        extra: which of Lineament's extras brings it.
        what: what needs it, as the user asked for it.
    """
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{what} needs {module}, which is not installed. Run: pip install 'lineament[{extra}]'")


def unknown_name(what: str, given: str, allowed: Iterable[str], where: str = "") -> InputError:
    """Make the `InputError` for a name that is not in `allowed`, with the nearest match.

    Args:
        what: what the name is of, e.g. `task`.
        where: where it was given, e.g. a settings key.
    """
    names = sorted(allowed)
    place = f" ({where})" if where else ""
    shown = f" Allowed: {', '.join(names)}." if len(names) <= MAX_NAMES_SHOWN else ""
    return InputError(f"there is no {what} {given!r}{place}.{did_you_mean(given, names)}{shown}")


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return a sentence with the name nearest to the given one, after a space; empty when none is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
