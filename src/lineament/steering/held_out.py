"""Whether held-out rows are new to a steering vector: its file remembers hashes of the rows that it was made from."""

from __future__ import annotations

import hashlib

from lineament.errors import InputError
from lineament.problems.labelled_data import Item, LabelledData
from lineament.steering.vector import SteeringVector


def row_hashes(data: LabelledData) -> tuple[str, ...]:
    """Return short hashes of all texts and groups (a passage, say): held-out rows must share neither."""
    return tuple(sorted({short for item in data.items for short in _hashes_of(item)}))


def require_new(vector: SteeringVector, held_out: LabelledData) -> bool:
    """Raise `InputError` naming the lines of held-out rows that the vector was made from.

    Returns:
        Whether that could be checked: a vector from elsewhere does not say what it was made from.
    """
    seen = set(vector.tags.row_hashes)
    pairs = zip(held_out.items, held_out.lines, strict=True)
    lines = [line for item, line in pairs if seen & _hashes_of(item)]
    if lines:
        shown = ", ".join(map(str, lines[:8])) + (", ..." if len(lines) > 8 else "")
        raise InputError(
            f"the vector was made from {len(lines)} of the {len(held_out.items)} rows of {held_out.path}, or from "
            f"others of their group (lines {shown}): its effect on them says nothing about new rows. Give held-out "
            "data."
        )
    return bool(seen)


def _hashes_of(item: Item) -> set[str]:
    """Return hashes of the text and its group, whatever their case and spacing."""
    plain = {" ".join(text.casefold().split()) for text in (item.text, item.group)}
    return {hashlib.blake2b(text.encode(), digest_size=6).hexdigest() for text in plain}
