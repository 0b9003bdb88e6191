"""Singular values of B A for factors that know nothing: what an adapter of a shape looks like by chance.

The entries of B (d_out, r) are independent with one variance, so are those of A (r, d_in), and B is independent of A.
This is what an optimizer fed noise leaves: B gathers noise, and A is close to its random start. Then the eigenvalues of
B^T B / d_out and of A A^T / d_in each follow the law of Marchenko and Pastur with ratios c1 = r / d_out and
c2 = r / d_in, and those of the product their free multiplicative convolution: z = psi(1 / lambda), the generating
function of its moments, solves (1 + z)(1 + c1 z)(1 + c2 z) = lambda z, a cubic. For a finite rank the largest value
moves about the edge as Tracy and Widom say. Wide weights and small ranks make all singular values nearly alike: noise
fills every direction paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64

from lineament.errors import InputError

# Points at which the density is integrated, and the 95 % point of the law of Tracy and Widom for real matrices.
N_POINTS = 512
TRACY_WIDOM_95 = 0.9793
# Below so many values their median says too little about the level of noise.
FEWEST_VALUES = 4
FALSE_ALARM = 0.05


@dataclass(frozen=True)
class RandomFactors:
    """What the singular values of B A are for random factors of one shape.

    Attributes:
        values: expected singular values, largest first, (min(r, d_out, d_in),), of unit energy: their squares add to 1.
        floor_over_median: largest singular value that chance gives in 95 of 100 such matrices, over their median.
    """

    values: Float64[np.ndarray, " n_values"]
    floor_over_median: float

    def floor(self, values: Float64[np.ndarray, " n_values"]) -> float | None:
        """Return the singular value that noise of the level of the median stays below, with a false alarm of 5 %.

        The level is right where at least half of the directions are noise. None for fewer than four values.

        Args:
            values: singular values of a matrix of this shape, any order, (n_values,).
        """
        if len(values) < FEWEST_VALUES:
            return None
        return self.floor_over_median * float(np.sqrt(np.median(np.square(values))))


@cache
def random_factors(d_out: int, rank: int, d_in: int) -> RandomFactors:
    """Return the law of singular values of B A for random B (d_out, rank) and A (rank, d_in).

    Raises:
        InputError: a size below 1.
    """
    if min(d_out, rank, d_in) < 1:
        raise InputError(f"factors of {d_out} x {rank} and {rank} x {d_in} have no entries; every size is at least 1.")
    ratios = (rank / d_out, rank / d_in)
    cubic = np.poly1d([1, 1]) * np.poly1d([ratios[0], 1]) * np.poly1d([ratios[1], 1])
    low, high, margin = _edges(cubic, -1 / max(ratios), rank)
    energies, weights = _law(cubic, low, high)
    count = min(d_out, rank, d_in)
    held = np.cumsum(weights) / weights.sum()
    middle = held - weights / weights.sum() / 2
    places = (np.arange(count)[::-1] + 0.5) / count
    own = np.interp(places, middle, energies)
    median = float(np.interp(0.5, middle, energies))
    values = np.sqrt(own / own.sum())
    values.setflags(write=False)
    return RandomFactors(values, float(np.sqrt((high + margin) / median)))


def _edges(cubic: np.poly1d, end: float, rank: int) -> tuple[float, float, float]:
    """Return the least and the largest eigenvalue of the law, and how far the largest of `rank` values may lie beyond.

    The edges are where lambda(z) = cubic(z) / z turns. Near the upper one the density falls as a square root, whose
    factor sets the scale on which the largest eigenvalue moves. The lower one lies between z = `end`, minus one over
    the larger ratio, and -1; it is 0 where the rank exceeds a dimension.
    """
    turns = (cubic.deriv() * np.poly1d([1, 0]) - cubic).roots
    real = turns[np.abs(turns.imag) < 1e-9].real
    z = float(real[real > 0].min())
    high = float(cubic(z) / z)
    bend = float(cubic.deriv(2)(z) / z - 2 * cubic.deriv()(z) / z**2 + 2 * cubic(z) / z**3)
    scale = (rank * np.sqrt(2 / bend) / high) ** (2 / 3)
    below = [float(cubic(turn) / turn) for turn in real if end < turn < -1]
    return max(below, default=0.0), high, float(TRACY_WIDOM_95 / scale)


def _law(cubic: np.poly1d, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues from the lower to the upper edge, and the share of all that each stands for."""
    angles = np.pi * (np.arange(N_POINTS) + 0.5) / N_POINTS
    energies = low + (high - low) * (1 - np.cos(angles)) / 2
    companion = np.zeros((N_POINTS, 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    companion[:, 0, 2] = -cubic.c[3] / cubic.c[0]
    companion[:, 1, 2] = (energies - cubic.c[2]) / cubic.c[0]
    companion[:, 2, 2] = -cubic.c[1] / cubic.c[0]
    density = np.abs(np.linalg.eigvals(companion).imag).max(axis=1) / (np.pi * energies)
    return energies, density * np.sin(angles)
