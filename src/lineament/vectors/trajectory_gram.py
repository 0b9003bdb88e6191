"""Questions about a recording as small algebra on its Gram matrix (n_steps, n_steps), in whatever space.

A direction built from updates is a column of weights over steps, and every capture, overlap and drift query is made of
inner products of updates alone. Weights and coefficients carry the space of the Gram matrix they belong to: those of
LoRA factors mean nothing among effective weights dW.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lineament.bases import DEPENDENCE_TOLERANCE
from lineament.errors import InputError
from lineament.parameters import Space


@dataclass(frozen=True)
class StepBasis:
    """An orthonormal basis made of a trajectory's updates: column j is sum_t weights[t, j] u_(t+1).

    Attributes:
        weights: W, (n_steps, rank) float64, with W^T G W = 1 for the Gram matrix G of its space.
    """

    weights: Float64[np.ndarray, "n_steps rank"]
    space: Space

    @property
    def rank(self) -> int:
        """Number of columns."""
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class Coefficients:
    """What any orthonormal basis U holds of every update.

    Attributes:
        values: U^T u_t, (rank, n_steps) float64.
    """

    values: Float64[np.ndarray, "rank n_steps"]
    space: Space

    @property
    def rank(self) -> int:
        """Number of columns of U."""
        return len(self.values)

    def leading(self, rank: int) -> Coefficients:
        """Keep the coefficients of the first `rank` columns."""
        return Coefficients(self.values[:rank], self.space)


@dataclass(frozen=True)
class OutsideVector:
    """A vector d that is no sum of recorded rows, known by its inner products with all of them.

    Attributes:
        products: u_t . d for every row, (n_steps,) float64.
        squared_norm: |d|^2.
    """

    products: Float64[np.ndarray, " n_steps"]
    squared_norm: float
    space: Space


@dataclass(frozen=True)
class TrajectoryGram:
    """Geometry of a trajectory in terms of weights over its steps.

    A vector is w (n_steps,), meaning sum_t w_t u_(t+1), in whatever space.

    Attributes:
        gram: G, (n_steps, n_steps) float64.
        space: where the updates live whose inner products these are.

    Raises:
        SpaceMismatchError: from every method that is given a basis or coefficients of another space.
    """

    gram: Float64[np.ndarray, "n_steps n_steps"]
    space: Space

    @property
    def n_steps(self) -> int:
        """Number of updates."""
        return len(self.gram)

    def displacement(self, first: int, last: int) -> Float64[np.ndarray, " n_steps"]:
        """Return the weights of u_first + .. + u_last (1-based, inclusive; all zero if last < first)."""
        weights = np.zeros(self.n_steps)
        weights[first - 1 : last] = 1.0
        return weights

    def squared_norm(self, weights: Float64[np.ndarray, " n_steps"]) -> float:
        """Return |sum_t w_t u_t|^2."""
        return float(weights @ self.gram @ weights)

    def prefix(self, rank: int) -> StepBasis:
        """Return the basis of span(u_1 .. u_rank)."""
        return self.span(range(1, rank + 1))

    def span(self, steps: Sequence[int]) -> StepBasis:
        """Return the basis of the span of the updates at 1-based `steps`; dependent directions are left out."""
        index = self._index(steps)
        return self._whitened(index, len(index))

    def top(self, rank: int, until: int) -> StepBasis:
        """Return the top right singular vectors of the uncentred rows u_1 .. u_until (`trajectory_top`)."""
        return self._whitened(np.arange(until), rank)

    def top_gap(self, rank: int, until: int) -> float:
        """Return how far the last eigenvalue of `top(rank, until)` is above the next one, as a share of it.

        Equal eigenvalues make the top directions arbitrary; infinite where none is left out.
        """
        values = np.linalg.eigvalsh(self.gram[:until, :until])[::-1]
        if rank >= until or not values[rank - 1] > 0:
            return float("inf")
        return float(1 - values[rank] / values[rank - 1])

    def top_of(self, steps: Sequence[int], rank: int) -> StepBasis:
        """Return the top right singular vectors of the updates at 1-based `steps`."""
        return self._whitened(self._index(steps), rank)

    def coefficients(self, basis: StepBasis) -> Coefficients:
        """Return U^T u_t for every step, of a basis made of updates."""
        self._require(basis)
        return Coefficients(basis.weights.T @ self.gram, self.space)

    def capture(self, basis: StepBasis | Coefficients, weights: Float64[np.ndarray, " n_steps"]) -> float:
        """Return the fraction of the vector's squared norm inside the basis; nan for a zero vector.

        Args:
            basis: one made of updates, or the coefficients of any other (`Trajectory.coefficients`).
            weights: the vector, (n_steps,).
        """
        self._require(basis)
        total = self.squared_norm(weights)
        inside = basis.values @ weights if isinstance(basis, Coefficients) else basis.weights.T @ (self.gram @ weights)
        return float(np.square(inside).sum()) / total if total > 0 else float("nan")

    def capture_outside(self, basis: StepBasis, vector: OutsideVector) -> float:
        """Return capture(U, d) of a vector d that is no sum of updates, such as another run's end minus theta_0.

        Args:
            vector: d by its inner products with every row (`Trajectory.end_inner_products`).
        """
        self._require(basis)
        self.space.require(vector.space, "the Gram matrix and an outside vector")
        inside = basis.weights.T @ vector.products
        return float(np.square(inside).sum()) / vector.squared_norm if vector.squared_norm > 0 else float("nan")

    def overlap(self, first: StepBasis | Coefficients, second: StepBasis) -> float:
        """Return |U^T V|_F^2 / k of two bases, k the smaller rank; the first may be given by its coefficients."""
        self._require(first)
        self._require(second)
        rows = first.values if isinstance(first, Coefficients) else first.weights.T @ self.gram
        return float(np.square(rows @ second.weights).sum() / min(first.rank, second.rank))

    def _index(self, steps: Sequence[int]) -> np.ndarray:
        index = np.asarray(steps) - 1
        if len(index) == 0 or index.min() < 0 or index.max() >= self.n_steps:
            raise InputError(
                f"steps {list(steps)[:5]}.. were asked for; give at least one step between 1 and {self.n_steps}."
            )
        return index

    def _require(self, basis: StepBasis | Coefficients) -> None:
        self.space.require(basis.space, "the Gram matrix and a basis")

    def _whitened(self, index: np.ndarray, rank: int) -> StepBasis:
        # eigh, not a Cholesky factor: neighbouring updates are nearly parallel, and rounding makes the smallest
        # eigenvalues negative. What lies below the tolerance is noise, and dividing by its root would blow it up.
        values, vectors = np.linalg.eigh(self.gram[np.ix_(index, index)])
        keep = np.flatnonzero(values > DEPENDENCE_TOLERANCE * max(values[-1], 0.0))[::-1][:rank]
        if len(keep) == 0:
            raise InputError(
                "the updates asked for are all zero and span nothing; ask for steps that moved the weights."
            )
        weights = np.zeros((self.n_steps, len(keep)))
        weights[index] = vectors[:, keep] / np.sqrt(values[keep])
        return StepBasis(weights, self.space)
