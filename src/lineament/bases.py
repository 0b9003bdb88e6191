"""Orthonormal bases of a parameter space, and how much of a vector or of another basis they hold.

capture(U, d) = |U^T d|^2 / |d|^2, overlap(U, V) = |U^T V|_F^2 / k (protocol, sections 2 and 3). Every function checks
that what it combines lives in one space. Algebra is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import Space, Vectors

# A direction whose part outside the earlier ones is below this share of its length adds nothing but rounding.
DEPENDENCE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns in order of importance or of time.

    Attributes:
        columns: (n_params, rank) float64, or float32 where a basis was kept on disk; a lower rank is a leading part.
        space: where the columns live.
        label: name shown in tables and figures.
    """

    columns: Float[Tensor, "n_params rank"]
    space: Space
    label: str

    @property
    def rank(self) -> int:
        """Number of columns."""
        return int(self.columns.shape[1])

    def leading(self, rank: int) -> Basis:
        """Return the first `rank` columns; raise `InputError` if there are fewer."""
        if not 1 <= rank <= self.rank:
            raise InputError(f"basis {self.label!r} has rank {self.rank}; rank {rank} was asked for.")
        return Basis(self.columns[:, :rank], self.space, self.label)


def from_vectors(vectors: Vectors, label: str) -> Basis:
    """Orthonormalise the rows in their order; rows that add nothing new are left out.

    Gram-Schmidt with a second pass, so that columns are orthonormal to rounding. For plain gradient descent the rows
    u_1 .. u_k give the `prefix` basis.
    """
    columns: list[Tensor] = []
    for row in vectors.rows.double():
        new = _orthogonal_part(row, columns)
        if new is not None:
            columns.append(new)
    return _basis(columns, vectors.space, label)


def top_directions(vectors: Vectors, rank: int, label: str) -> Basis:
    """Find the top right singular vectors of the uncentred rows (n, n_params), from their n x n Gram matrix."""
    rows = vectors.rows.double()
    # eigh of the n x n Gram matrix, not svd of the rows: n_params is in the millions. Squaring costs half the digits,
    # so eigenvalues below the tolerance are rounding and would give directions of noise.
    values, coefficients = torch.linalg.eigh(rows @ rows.T)
    keep = [i for i in range(len(rows) - 1, -1, -1) if values[i] > DEPENDENCE_TOLERANCE * values[-1]][:rank]
    directions = (coefficients[:, keep] / values[keep].sqrt()).T @ rows
    # Small eigenvalues leave these orthogonal to few digits only; Gram-Schmidt brings the others back.
    return from_vectors(Vectors(directions, vectors.space), label)


def random_basis(space: Space, rank: int, generator: np.random.Generator, label: str = "random") -> Basis:
    """Draw a uniformly random subspace: the null that everything passes (expected capture rank / n_params)."""
    drawn = torch.from_numpy(generator.standard_normal((rank, space.n_params)))
    return from_vectors(Vectors(drawn, space), label)


def krylov(
    product: Callable[[Tensor], Tensor],
    start: Float[Tensor, " n_params"],
    rank: int,
    space: Space,
    label: str = "krylov",
) -> Basis:
    """Build the Krylov space span(v, A v, .., A^(rank-1) v) by Arnoldi's method with full reorthogonalisation.

    Args:
        product: v -> A v, (n_params,) -> (n_params,).
        start: v, (n_params,).
    """
    first = _orthogonal_part(start.double(), [])
    columns = [] if first is None else [first]
    while columns and len(columns) < rank:
        new = _orthogonal_part(product(columns[-1]).double(), columns)
        if new is None:
            break  # the space is invariant: higher powers add nothing
        columns.append(new)
    return _basis(columns, space, label)


@dataclass(frozen=True)
class TopEigenvectors:
    """Ritz vectors with the largest eigenvalues (algebraic), their values and residual norms |H v - value v|."""

    basis: Basis
    values: tuple[float, ...]
    residuals: tuple[float, ...]


def top_eigenvectors(
    product: Callable[[Tensor], Tensor],
    space: Space,
    rank: int,
    steps: int,
    generator: np.random.Generator,
    label: str,
) -> TopEigenvectors:
    """Run Lanczos with full reorthogonalisation from a random start, then Rayleigh-Ritz.

    Args:
        steps: products spent, at least `rank`; more make the residuals smaller.
    """
    applied: list[Tensor] = []

    def keep(vector: Tensor) -> Tensor:
        applied.append(product(vector).double())
        return applied[-1]

    start = torch.from_numpy(generator.standard_normal(space.n_params))
    columns = krylov(keep, start, steps, space).columns
    applied.extend(product(columns[:, i]).double() for i in range(len(applied), columns.shape[1]))
    images = torch.stack(applied, dim=1)
    # All of U^T H U, not the three diagonals that exact arithmetic would leave, and symmetrised: with it the Ritz pairs
    # are right for whatever columns reorthogonalisation has left.
    projected = columns.T @ images
    values, inner = torch.linalg.eigh((projected + projected.T) / 2)
    top = inner[:, -min(rank, len(values)) :].flip(1)
    ritz_values = values[-top.shape[1] :].flip(0)
    vectors = columns @ top
    residuals = (images @ top - vectors * ritz_values).norm(dim=0)
    basis = from_vectors(Vectors(vectors.T, space), label)
    return TopEigenvectors(basis, tuple(ritz_values.tolist()), tuple(residuals.tolist()))


def project(basis: Basis, vectors: Vectors) -> Vectors:
    """Return U U^T d for each row d."""
    basis.space.require(vectors.space, f"basis {basis.label!r} and vectors")
    rows = vectors.rows.double() @ basis.columns @ basis.columns.T
    return Vectors(rows, vectors.space)


def capture(basis: Basis, vectors: Vectors) -> Float64[Tensor, " n_vectors"]:
    """Return the captured fraction |U^T d|^2 / |d|^2 of each row d, (n_vectors,), in [0, 1]."""
    basis.space.require(vectors.space, f"basis {basis.label!r} and vectors")
    rows = vectors.rows.double()
    return (rows @ basis.columns).square().sum(dim=1) / rows.square().sum(dim=1)


def principal_angles(first: Basis, second: Basis) -> Float64[Tensor, " min_rank"]:
    """Return the angles between two subspaces in radians, ascending, (min(rank),); exact for small angles too.

    Cosines lose small angles to rounding, so angles below 45 degrees come from sines (Bjorck and Golub 1973).
    """
    first.space.require(second.space, f"bases {first.label!r} and {second.label!r}")
    low, high = (first, second) if first.rank <= second.rank else (second, first)
    cosines = torch.linalg.svdvals(high.columns.T @ low.columns).clamp(max=1.0)
    outside = low.columns - high.columns @ (high.columns.T @ low.columns)
    sines = torch.linalg.svdvals(outside).flip(0).clamp(max=1.0)
    return torch.where(cosines**2 > 0.5, torch.asin(sines), torch.acos(cosines))


def overlap(first: Basis, second: Basis) -> float:
    """Return |U^T V|_F^2 / k, k the smaller rank: the mean squared cosine of the principal angles, in [0, 1]."""
    first.space.require(second.space, f"bases {first.label!r} and {second.label!r}")
    return float((first.columns.T @ second.columns).square().sum() / min(first.rank, second.rank))


def _orthogonal_part(
    vector: Float64[Tensor, " n_params"], columns: Sequence[Float64[Tensor, " n_params"]]
) -> Float64[Tensor, " n_params"] | None:
    """Return the unit vector of what `vector` adds to orthonormal `columns`, or None if that is only rounding."""
    length = float(vector.norm())
    if not length > 0:
        return None
    new = vector / length
    if columns:
        matrix = torch.stack(list(columns), dim=1)
        for _ in range(
            2
        ):  # once leaves the columns orthogonal only to the digits that cancellation kept; twice is enough
            new = new - matrix @ (matrix.T @ new)
    left = float(new.norm())
    return new / left if left > DEPENDENCE_TOLERANCE else None


def _basis(columns: list[Tensor], space: Space, label: str) -> Basis:
    if not columns:
        raise InputError(f"basis {label!r} has no non-zero direction.")
    return Basis(torch.stack(columns, dim=1), space, label)
