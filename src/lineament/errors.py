"""Errors a user can act on. Each says what was given, what is allowed and what to do; none shows a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES_SHOWN = 20


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


def unknown_name(what: str, given: str, allowed: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not in `allowed`, with the nearest match."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = f" Allowed: {', '.join(names)}." if len(names) <= MOST_NAMES_SHOWN else ""
    return InputError(f"unknown {what} {given!r}.{hint}{shown}")
