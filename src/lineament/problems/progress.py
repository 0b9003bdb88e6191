"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Called with (what is being done, steps done, steps in all).
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Show nothing: a progress callback for callers that wait in silence."""
