"""LoRA effective weights dW = scale B A without ever forming them.

Inner products come from the factors: <B1 A1, B2 A2> = tr(B1^T B2 A2 A1^T). They are invariant under the gauge
(A, B) -> (R A, B R^-1), which moves every factor-space cosine (protocol, section 0).

Updates of dW are small differences of large products. `effective_gram` therefore never subtracts: with a_t, b_t the
recorded rows, dW_t - dW_(t-1) = scale (b_t A_t + B_(t-1) a_t), and inner products with A_t and B_(t-1) are sums of
those with a position and the rows after it. Second differences of a position Gram matrix (`update_gram`) lose as many
digits as |dW|^2 / |update|^2 has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import Space
from lineament.problems.factor_pairs import FactorPair
from lineament.problems.progress import Told, untold
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.rows import MAX_BYTES_HELD
from lineament.vectors.trajectory_gram import TrajectoryGram


def position_gram(
    pairs: Sequence[FactorPair], thetas: Float[Tensor, "n_positions n_params"]
) -> Float64[np.ndarray, "n_positions n_positions"]:
    """Return the inner products <dW_s, dW_t> of adapters, (n, n) float64.

    Args:
        pairs: factor pairs of the space.
        thetas: (n, n_params) flat factor vectors.
    """
    n = len(thetas)
    gram = np.zeros((n, n))
    for pair in pairs:
        rank, d_in = pair.a_shape
        a = thetas[:, pair.a].double().reshape(n * rank, d_in)
        b = thetas[:, pair.b].double().reshape(n, -1, rank).transpose(1, 2).reshape(n * rank, -1)
        inner = ((a @ a.T) * (b @ b.T)).view(n, rank, n, rank).sum(dim=(1, 3))
        gram += pair.scale**2 * inner.numpy()
    return gram


def effective_space(pairs: Sequence[FactorPair]) -> Space:
    """Return the space of dW, one dimension per entry; adapters of any rank on the same weights share it."""
    shapes = [(pair.module, pair.b_shape[0], pair.a_shape[1]) for pair in pairs]
    layout = "\n".join(f"{module}:({d_out}, {d_in})" for module, d_out, d_in in shapes)
    n_params = sum(d_out * d_in for _, d_out, d_in in shapes)
    return Space("lora_effective", n_params, hashlib.blake2b(layout.encode(), digest_size=6).hexdigest())


def update_gram(pairs: Sequence[FactorPair], thetas: Float[Tensor, "n_positions n_params"]) -> TrajectoryGram:
    """Return the Gram matrix of the dW updates between consecutive positions theta_0 .. theta_n."""
    positions = position_gram(pairs, thetas)
    return TrajectoryGram(np.diff(np.diff(positions, axis=0), axis=1), effective_space(pairs))


def effective_gram(
    trajectory: Trajectory,
    pairs: Sequence[FactorPair] | None = None,
    bound_bytes: int = MAX_BYTES_HELD,
    told: Told = untold,
) -> TrajectoryGram:
    """Return the Gram matrix of a recording's dW updates, dW_t - dW_(t-1), in blocks of steps.

    Costs n_steps^2 rank^2 (d_in + d_out) / 2 multiplications for each pair. Rows are read once for every block of steps
    that comes after them.

    Args:
        pairs: the factor pairs; None for those that the recording tells of.
        bound_bytes: maximum bytes of rows and products held at once; a block of one step is always allowed.
        told: told how many of the pairs are done.

    Raises:
        InputError: the recording is sketched, or has no LoRA factors.
    """
    if trajectory.sketch is not None:
        raise InputError(f"{trajectory.folder} holds sketched rows; dW needs the factors themselves.")
    pairs = trajectory.pairs() if pairs is None else pairs
    start, gram = trajectory.start(), torch.zeros(trajectory.n_steps, trajectory.n_steps, dtype=torch.float64)
    for number, pair in enumerate(pairs):
        told(number, len(pairs))
        _add_pair(gram, _PairRows(trajectory, pair, start), _steps_per_block(pair, trajectory.n_steps, bound_bytes))
    upper = gram.triu()
    return TrajectoryGram((upper + upper.triu(1).T).numpy(), effective_space(pairs))


def blind_effective_gram(
    pairs: Sequence[FactorPair], theta_start: Float[Tensor, " n_params"], blind: TrajectoryGram
) -> TrajectoryGram:
    """Return the expected Gram matrix of the dW updates of a blind run, whose coordinates are independent.

    With G the Gram matrix of factor updates per coordinate, P that of positions after each step less the start, and C
    that of positions with updates, the inner products of dW_t - dW_(t-1) = scale (b_t A_t + B_(t-1) a_t) are, expected,
    scale^2 [d_out G (|A_0|^2 + r d_in P) + d_in G (|B_0|^2 + r d_out P_before) + r d_in d_out (cross terms in C)].

    Args:
        theta_start: flat factor vector at the start, (n_params,).
        blind: G, of factor updates, (n_steps, n_steps) per coordinate.

    Returns:
        (n_steps, n_steps), in squared units of dW, in the space of dW.
    """
    g = blind.gram
    after = np.cumsum(g, axis=0)  # [s, t]: position after step s, with update t
    before = np.vstack([np.zeros((1, len(g))), after[:-1]])
    positions = np.cumsum(after, axis=1)
    positions_before = np.pad(positions[:-1, :-1], ((1, 0), (1, 0)))
    crossed = before.T * after  # [s, t]: update s with B before t, times A after s with update t
    total = np.zeros_like(g)
    for pair in pairs:
        (rank, d_in), d_out = pair.a_shape, pair.b_shape[0]
        a, b = (float(factor.square().sum()) for factor in _factors(pair, theta_start))
        one = d_out * g * (a + rank * d_in * positions) + d_in * g * (b + rank * d_out * positions_before)
        total += pair.scale**2 * (one + rank * d_in * d_out * (crossed + crossed.T))
    return TrajectoryGram(total, effective_space(pairs))


def effective_spectrum(
    pairs: Sequence[FactorPair], theta_start: Float[Tensor, " n_params"], theta_end: Float[Tensor, " n_params"]
) -> dict[str, Float64[np.ndarray, " n_values"]]:
    """Return the singular values of dW_end - dW_start by module, descending, (at most 2 rank,) float64.

    The difference is scale [B_end - B_start, B_start] [A_end; A_end - A_start]; QR of both factors leaves a small
    matrix with the same singular values.

    Args:
        theta_start, theta_end: flat factor vectors, (n_params,).
    """
    singular_values = {}
    for pair in pairs:
        start, end = (tuple(part.numpy() for part in _factors(pair, theta)) for theta in (theta_start, theta_end))
        singular_values[pair.module] = pair_spectrum(pair.scale, (start[0], start[1]), (end[0], end[1]))
    return singular_values


def pair_spectrum(
    scale: float, start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray]
) -> Float64[np.ndarray, " n_values"]:
    """Return the singular values of scale (B_end A_end - B_start A_start), descending, (at most 2 rank,) float64.

    Args:
        start, end: A, (rank, d_in), and B, (d_out, rank), in float64.
    """
    (a_start, b_start), (a_end, b_end) = start, end
    left = np.asarray(np.linalg.qr(np.concatenate([b_end - b_start, b_start], axis=1), mode="r"))
    right = np.asarray(np.linalg.qr(np.concatenate([a_end, a_end - a_start]).T, mode="r"))
    return np.asarray(abs(scale) * np.linalg.svd(left @ right.T, compute_uv=False))


@dataclass(frozen=True)
class Difference:
    """dW_end - dW_start of one adapted weight by its singular value decomposition, never formed.

    Attributes:
        left: (d_out, n_values) and right: (n_values, d_in), orthonormal. values: descending, at most 2 rank.
    """

    left: Float64[Tensor, "d_out n_values"]
    values: Float64[Tensor, " n_values"]
    right: Float64[Tensor, "n_values d_in"]

    def of(self, chosen: Sequence[int]) -> tuple[Float64[Tensor, "d_out n"], Float64[Tensor, "n d_in"]]:
        """Return factors of the part along some singular directions, counted from 0."""
        kept = list(chosen)
        return self.left[:, kept] * self.values[kept], self.right[kept]


def effective_difference(
    pair: FactorPair, theta_start: Float[Tensor, " n_params"], theta_end: Float[Tensor, " n_params"]
) -> Difference:
    """Decompose dW_end - dW_start of one pair exactly, from QR of its factors [B_end - B_start, B_start] and [A; A'].

    Args:
        theta_start, theta_end: flat factor vectors, (n_params,).
    """
    (a_start, b_start), (a_end, b_end) = _factors(pair, theta_start), _factors(pair, theta_end)
    left, left_triangle = torch.linalg.qr(torch.cat([b_end - b_start, b_start], dim=1))
    right, right_triangle = torch.linalg.qr(torch.cat([a_end, a_end - a_start]).T)
    inner, values, outer = torch.linalg.svd(pair.scale * left_triangle @ right_triangle.T, full_matrices=False)
    return Difference(left @ inner, values, outer @ right.T)


class _PairRows:
    """One pair's factors, read from disk a block of steps at a time."""

    def __init__(self, trajectory: Trajectory, pair: FactorPair, start: Tensor) -> None:
        self.n_steps, self.pair, self._reader = trajectory.n_steps, pair, trajectory.reader
        a, b = _factors(pair, start)
        self.start: tuple[Tensor, ...] = (a, b.T)

    def block(self, first: int, last: int, position: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Read (rank, 1 + steps, d_in) of A and (rank, 1 + steps, d_out) of B: a position, then the rows after it."""
        (rank, d_in), (d_out, _) = self.pair.a_shape, self.pair.b_shape
        a = torch.empty(rank, last - first + 1, d_in, dtype=torch.float64)
        b = torch.empty(rank, last - first + 1, d_out, dtype=torch.float64)
        a[:, 0], b[:, 0] = position
        steps = slice(first, last)
        a[:, 1:] = self._reader.columns(self.pair.a, steps).view(-1, rank, d_in).transpose(0, 1)
        b[:, 1:] = self._reader.columns(self.pair.b, steps).view(-1, d_out, rank).permute(2, 0, 1)
        return a, b


def _factors(
    pair: FactorPair, theta: Float[Tensor, " n_params"]
) -> tuple[Float64[Tensor, "rank d_in"], Float64[Tensor, "d_out rank"]]:
    """Return A (rank, d_in) and B (d_out, rank) in float64."""
    return theta[pair.a].double().view(pair.a_shape), theta[pair.b].double().view(pair.b_shape)


def _steps_per_block(pair: FactorPair, n_steps: int, bound_bytes: int) -> int:
    """Return the most steps of which two blocks of rows and the products between them fit in memory."""
    (rank, d_in), d_out = pair.a_shape, pair.b_shape[0]
    steps = max(1, n_steps)
    # Two blocks and a third being read; two matrices of products with up to four of sums and products of them.
    while steps > 1 and 8 * (3 * (steps + 1) * rank * (d_in + d_out) + 6 * ((steps + 1) * rank) ** 2) > bound_bytes:
        steps = max(1, steps * 9 // 10)
    return steps


def _add_pair(gram: Tensor, rows: _PairRows, size: int) -> None:
    """Add one pair's inner products above and on the diagonal; positions at block starts are summed on the way."""
    blocks = [(first, min(first + size, rows.n_steps)) for first in range(0, rows.n_steps, size)]
    position_there = rows.start
    for j, (first_there, last_there) in enumerate(blocks):
        there = rows.block(first_there, last_there, position_there)
        position_there = _ends(there)
        position_here = rows.start
        for first, last in blocks[:j]:
            here = rows.block(first, last, position_here)
            position_here = _ends(here)
            gram[first:last, first_there:last_there] += rows.pair.scale**2 * _products(here, there)
        gram[first_there:last_there, first_there:last_there] += rows.pair.scale**2 * _products(there, there)


def _ends(block: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return tuple(part.sum(dim=1) for part in block)


def _products(here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
    """Return <b_s A_s + B_(s-1) a_s, b_t A_t + B_(t-1) a_t> for all steps s of one block and t of another."""
    a, b = (_inner(x, y) for x, y in zip(here, there, strict=True))
    # Sums over rows up to a step turn inner products with rows into those with positions: A_s after, B_(s-1) before it,
    # hence 1: there and :-1 here. Forming dW_t and subtracting would be shorter and lose |dW|^2 / |update|^2 in digits.
    return _pairwise(a.cumsum(3)[..., 1:], b[..., 1:]) + _pairwise(a[..., 1:], b.cumsum(3)[..., :-1])


def _pairwise(a: Tensor, b: Tensor) -> Float64[Tensor, "n_here n_there"]:
    """Do for the block of s what `_products` did for that of t, and sum over both ranks."""
    with_a = (a.cumsum(1)[:, 1:] * b[:, 1:]).sum(dim=(0, 2))
    return with_a + (a[:, 1:] * b.cumsum(1)[:, :-1]).sum(dim=(0, 2))


def _inner(x: Float64[Tensor, "rank n d"], y: Float64[Tensor, "rank m d"]) -> Float64[Tensor, "rank n rank m"]:
    """Multiply (rank, n, d) and (rank, m, d) to inner products (rank, n, rank, m)."""
    return (x.flatten(0, 1) @ y.flatten(0, 1).T).view(*x.shape[:2], *y.shape[:2])
