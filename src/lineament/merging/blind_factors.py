"""Singular values of dW after a training that learned nothing: what an adapter of a shape looks like by chance.

The blind training: the gradient of the weight, (d_out, d_in), has independent entries at every step, and A stays close
to its random start, of independent entries. B begins at zero and gathers the gradients through A, as every LoRA does,
so B = G A^T, with G of independent entries, and dW = G A^T A. What A stretches is stretched twice: with S^2 the
eigenvalues of A A^T / d_in, which follow the law of Marchenko and Pastur with ratio rank / d_in, the squared singular
values of dW are the eigenvalues of S^2 H^T H S^2, with H (d_out, rank) of independent entries. Their law solves
Silverstein's equation

    z(m) = -1/m + c sum_i w_i t_i / (1 + t_i m),   t = S^4, c = rank / d_out,

its edges are where z turns, and the largest value of a finite rank moves about the upper edge as Tracy and Widom say.
Factors that are independent of each other have a narrower law, with t = S^2; blind trainings break its edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64

from lineament.errors import InputError

# Nodes of the law of A, and eigenvalues at which the law of dW is found.
N_NODES, N_POINTS = 256, 200
# The 95 % point of the law of Tracy and Widom for real matrices.
TRACY_WIDOM_95 = 0.9793
# Below so many values, or where A is nearly square, their median says too little about the level of noise.
FEWEST_VALUES, MOST_SQUARE = 4, 0.5
# Ratios nearer to one are moved there: the lower edge goes to zero, where densities have poles. And a ratio far below
# the other widens the law by nothing that can be seen, but moves the edge between two nodes.
NEAREST_TO_ONE, LEAST_OF_OTHER = 0.02, 0.1
N_BISECTIONS, N_NEWTON, N_HALVINGS = 100, 30, 30


@dataclass(frozen=True)
class BlindFactors:
    """What the singular values of dW are after a blind training of one shape.

    Attributes:
        values: expected singular values, largest first, (min(rank, d_out, d_in),), of unit energy.
        floor_over_median: largest singular value that 95 of 100 blind trainings stay below, over the median; None for
            fewer than four values, and for ranks above half of d_in.
    """

    values: Float64[np.ndarray, " n_values"]
    floor_over_median: float | None

    def floor(self, values: Float64[np.ndarray, " n_values"]) -> float | None:
        """Return the singular value that noise of the level of the median stays below, with a false alarm of 5 %.

        The level is right where at least half of the directions are noise. None where there is no floor.

        Args:
            values: singular values of a matrix of this shape, any order, (n_values,).
        """
        if self.floor_over_median is None:
            return None
        return self.floor_over_median * float(np.sqrt(np.median(np.square(values))))


@dataclass(frozen=True)
class _Law:
    """Silverstein's equation: z(m) and its derivatives, for c and the nodes of t."""

    c: float
    t: np.ndarray
    weights: np.ndarray

    def z(self, m: complex) -> complex:
        return complex(-1 / m + self.c * (self.weights * self.t / (1 + self.t * m)).sum())

    def slope(self, m: complex) -> complex:
        return complex(1 / m**2 - self.c * (self.weights * (self.t / (1 + self.t * m)) ** 2).sum())

    def bend(self, m: float) -> float:
        return float(-2 / m**3 + 2 * self.c * (self.weights * (self.t / (1 + self.t * m)) ** 3).sum())


@cache
def blind_factors(d_out: int, rank: int, d_in: int) -> BlindFactors:
    """Return the law of singular values of dW after a blind training of a LoRA of one shape.

    Raises:
        InputError: a size below 1.
    """
    if min(d_out, rank, d_in) < 1:
        raise InputError(f"factors of {d_out} x {rank} and {rank} x {d_in} have no entries; every size is at least 1.")
    inner = min(rank, d_in)
    ratio = _off_one(inner / max(rank, d_in))
    law = _Law(_off_one(max(inner / d_out, LEAST_OF_OTHER * ratio)), *_nodes(ratio))
    top = _upper_turn(law)
    high, bend = law.z(top).real, law.bend(top)
    # the density near the edge is that of `count` values which fall as a square root; so far the largest one moves
    margin = TRACY_WIDOM_95 / (inner / law.c * np.sqrt(2 / bend)) ** (2 / 3)
    energies, held = _distribution(law, top, high, bend)
    count = min(inner, d_out)
    own = np.interp((np.arange(count)[::-1] + 0.5) / count, held, energies)
    values = np.sqrt(own / own.sum())
    values.setflags(write=False)
    floor = float(np.sqrt((high + margin) / np.interp(0.5, held, energies)))
    return BlindFactors(values, floor if count >= FEWEST_VALUES and ratio <= MOST_SQUARE else None)


def _off_one(ratio: float) -> float:
    return ratio if abs(ratio - 1) >= NEAREST_TO_ONE else 1 - NEAREST_TO_ONE


def _nodes(ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return squares of nodes of the law of Marchenko and Pastur with a ratio below 1, and their weights."""
    angles = np.pi * (np.arange(N_NODES) + 0.5) / N_NODES
    nodes = 1 + ratio + 2 * np.sqrt(ratio) * np.cos(angles)
    weights = np.sin(angles) ** 2 / nodes
    return nodes**2, weights / weights.sum()


def _turn(beyond: Callable[[float], bool], below: float, above: float) -> float:
    """Find where something begins to be true, between a number where it is not and one where it is."""
    for _ in range(N_BISECTIONS):
        middle = (below + above) / 2
        below, above = (below, middle) if beyond(middle) else (middle, above)
    return (below + above) / 2


def _upper_turn(law: _Law) -> float:
    """Return m at the upper edge, between the pole at minus one over the largest t and zero."""
    return _turn(lambda m: law.slope(m).real > 0, -1 / float(law.t.max()), 0.0)


def _lower_edge(law: _Law) -> float:
    """Return the least eigenvalue but zero: m lies below the pole of the least t or, for c above 1, above zero."""
    if law.c < 1:
        s = _turn(lambda s: law.slope(-1 / s).real < 0, 0.0, float(law.t.min()))
        return law.z(-1 / s).real
    s = _turn(lambda s: law.slope(s / (1 - s)).real < 0, 0.0, 1.0)
    return law.z(s / (1 - s)).real


def _distribution(law: _Law, top: float, high: float, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues from least to largest and the share of all that lies below each, by steps from the top."""
    low = max(0.0, _lower_edge(law)) ** 0.25
    angles = np.pi * (np.arange(N_POINTS) + 0.5) / N_POINTS
    roots = low + (high**0.25 - low) * (1 + np.cos(angles)) / 2  # dense where the density is large
    energies = roots**4
    density, m = np.zeros(N_POINTS), complex(top, np.sqrt(2 * (high - energies[0]) / bend))
    for i, energy in enumerate(energies):
        m = _solved(law, energy, m)
        density[i] = m.imag
    weights = (density * roots**3 * np.sin(angles))[::-1]
    weights /= weights.sum()
    return energies[::-1], np.cumsum(weights) - weights / 2


def _solved(law: _Law, energy: float, m: complex) -> complex:
    """Solve z(m) = energy above the real axis by Newton's steps, halved until they lead nearer; m is a first guess."""
    miss = law.z(m) - energy
    for _ in range(N_NEWTON):
        step = miss / law.slope(m)
        for _ in range(N_HALVINGS):
            tried = complex(m.real - step.real, abs(m.imag - step.imag))
            if abs(miss_there := law.z(tried) - energy) < abs(miss):
                break
            step /= 2
        else:
            return m
        m, miss = tried, miss_there
        if abs(miss) < 1e-10 * energy:
            break
    return m
