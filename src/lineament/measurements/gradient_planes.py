"""Planes of fresh task gradients at one time of a recovery, and what a plane of one time is worth at another.

Each time has `PARTS` independent sets of gradients. Whatever compares two sets uses different ones, so that no gradient
is judged by a plane that it was made for. Standard errors are jackknifed over the sets: the pairs of three sets are not
independent, and their plain spread is too small by a factor of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from lineament.bases import Basis, overlap, principal_angles
from lineament.parameters import Vectors
from lineament.records import is_told

PARTS = 3


@dataclass(frozen=True)
class FreshPlanes:
    """The independent gradient sets of one time, as planes of their strongest directions.

    Attributes:
        planes: one of rank k for every set.
        energy: share of set j's energy that plane i holds, (PARTS, PARTS); the diagonal is not looked at.
    """

    planes: tuple[Basis, ...]
    energy: np.ndarray


def retained(planes: Sequence[Basis], gradients: Sequence[Vectors]) -> np.ndarray:
    """Return the share of every set's energy inside every plane: sum_i |U^T g_i|^2 / sum_i |g_i|^2 (protocol, 3).

    Returns:
        (n_planes, n_sets), each entry in [0, 1]; nan for a set of zero gradients.
    """
    shares = np.full((len(planes), len(gradients)), np.nan)
    for j, vectors in enumerate(gradients):
        rows = vectors.rows.double().cpu()
        total = float(rows.square().sum())
        for i, plane in enumerate(planes):
            plane.space.require(vectors.space, "a plane and gradients")
            if total > 0:
                shares[i, j] = float((rows @ plane.columns).square().sum()) / total
    return shares


@dataclass(frozen=True)
class Compared:
    """A plane of one time against another time, per pair of sets: what standard errors are made of.

    Attributes:
        overlaps: of plane i of the first time with plane j of the second, (PARTS, PARTS).
        first, second: the same within each time; the diagonal is not looked at.
        retention: share of the second time's set j inside plane i of the first, (PARTS, PARTS).
        fresh: the same inside plane i of the second time.
        smallest_angle, median_angle: principal angles between two of the planes, in degrees.
    """

    overlaps: np.ndarray
    first: np.ndarray
    second: np.ndarray
    retention: np.ndarray
    fresh: np.ndarray
    smallest_angle: float
    median_angle: float

    @property
    def ceiling(self) -> tuple[float, float]:
        """Geometric mean of the two times' split-half overlaps, and its standard error."""
        return jackknife(lambda kept: np.sqrt(off_diagonal(self.first, kept) * off_diagonal(self.second, kept)))

    @property
    def overlap(self) -> tuple[float, float]:
        """Mean overlap of the two times' planes, and its standard error."""
        return jackknife(lambda kept: off_diagonal(self.overlaps, kept))

    @property
    def retained(self) -> tuple[float, float]:
        """Share of fresh gradients' energy that the old plane still holds, and its standard error."""
        return jackknife(lambda kept: off_diagonal(self.retention, kept))

    @property
    def fresh_retained(self) -> tuple[float, float]:
        """The same of a fresh plane: its ceiling."""
        return jackknife(lambda kept: off_diagonal(self.fresh, kept))

    def retained_share(self, floor: float) -> tuple[float, float] | None:
        """Return what the old plane holds over what a fresh one holds, and its standard error.

        None where the fresh one is not told from a random plane, which holds `floor`: noise would have a share of 1.
        """
        fresh, error = self.fresh_retained
        return jackknife(self.share_without) if is_told(fresh - floor, error) else None

    def share_without(self, kept: Sequence[int]) -> float:
        """Return the retained share from some of the sets alone."""
        return off_diagonal(self.retention, kept) / off_diagonal(self.fresh, kept)

    def rescaled(self, floor: float) -> float | None:
        """Return (overlap - floor) / (ceiling - floor); None when the ceiling is within 3 standard errors of floor."""
        ceiling, error = self.ceiling
        room = ceiling - floor
        return (self.overlap[0] - floor) / room if is_told(room, error) else None


def compare(first: FreshPlanes, second: FreshPlanes, retention: np.ndarray) -> Compared:
    """Compare the planes of two times.

    Args:
        retention: `retained` of the second time's gradients in the first time's planes.
    """
    angles = np.degrees(principal_angles(first.planes[0], second.planes[1]).numpy())
    return Compared(
        overlaps=overlap_table(first.planes, second.planes),
        first=overlap_table(first.planes, first.planes),
        second=overlap_table(second.planes, second.planes),
        retention=retention,
        fresh=second.energy,
        smallest_angle=float(angles[0]),
        median_angle=float(np.median(angles)),
    )


def overlap_table(first: Sequence[Basis], second: Sequence[Basis]) -> np.ndarray:
    """Return the overlap of every plane with every other, (len(first), len(second))."""
    return np.array([[overlap(a, b) for b in second] for a in first])


def off_diagonal(table: np.ndarray, kept: Sequence[int]) -> float:
    """Return the mean over pairs of different sets among those kept."""
    return float(np.mean([table[i, j] for i, j in permutations(kept, 2)]))


def jackknife(statistic: Callable[[Sequence[int]], float]) -> tuple[float, float]:
    """Return a statistic of all sets, and its delete-one standard error over them."""
    whole = range(PARTS)
    without = [statistic([part for part in whole if part != left_out]) for left_out in whole]
    spread = float(np.sum(np.square(np.array(without) - np.mean(without))))
    return float(statistic(whole)), float(np.sqrt((PARTS - 1) / PARTS * spread))
