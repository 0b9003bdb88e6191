"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]
# Called with (parts done, parts in all) of one thing.
Told = Callable[[int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Show nothing: a progress callback for callers that wait in silence."""


def untold(done: int, total: int) -> None:
    """Show nothing of one thing."""


def stretch(progress: Progress, what: str, first: int, last: int, total: int) -> Told:
    """Return what tells how far one thing is, as a stretch of a longer work: from `first` to `last` of `total`."""

    def told(done: int, parts: int) -> None:
        progress(what, first + (last - first) * done // max(parts, 1), total)

    told(0, 1)
    return told
