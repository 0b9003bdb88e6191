"""Which bases count as static: made from one point's gradients or Hessian, or from other tasks' displacements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lineament.records import Quantity

STATIC = (
    "static_start",
    "static_star",
    "static_broken",
    "static_all_tasks",
    "static_hessian_top",
    "task_vectors",
)


@dataclass(frozen=True)
class Static:
    """A static basis at the rank at which it is compared, with its whole capture at T."""

    basis: str
    rank: int
    capture: float


def best_static(figures: Iterable[Quantity], rank: int) -> Static | None:
    """Return the static basis with the largest whole capture, each at `rank` or at its own full rank below it.

    Fewer directions (six tasks have six task vectors) are no reason to leave a basis out: that would favour the prefix.
    """
    largest: dict[str, Static] = {}
    for f in figures:
        if f.value is None or not f.matches("capture", definition="whole", at="T", space_of="parameters"):
            continue
        found = Static(str(f.labels["basis"]), int(f.labels["rank"]), f.value)
        known = largest.get(found.basis)
        if found.basis in STATIC and found.rank <= rank and (known is None or found.rank > known.rank):
            largest[found.basis] = found
    return max(largest.values(), key=lambda static: static.capture, default=None)
