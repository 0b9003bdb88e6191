"""What keys of the settings demand of each other, and how a breach is said."""

from __future__ import annotations

from collections.abc import Iterable

from lineament.errors import InputError

# Whether it holds, and what to say if it does not.
Agreement = tuple[bool, str]


def require_all(agreements: Iterable[Agreement]) -> None:
    """Raise `InputError` with what the first agreement that does not hold has to say."""
    for holds, message in agreements:
        if not holds:
            raise InputError(message)
