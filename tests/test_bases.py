"""Orthonormal bases, captures, overlaps and angles against QR, least squares and scipy; Krylov spaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems_table import QuadraticProblem
from torch import Tensor

from lineament.bases import (
    Basis,
    capture,
    from_vectors,
    krylov,
    overlap,
    principal_angles,
    project,
    random_basis,
    top_directions,
    top_eigenvectors,
)
from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import Space, Vectors
from lineament.settings.training import RecoverySettings
from lineament.streams import Streams
from lineament.study.training import make_optimizer, train
from lineament.vectors.hessian import HessianOperator
from lineament.vectors.recording.writer import Recorder

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**16)).map(
    lambda drawn: (drawn[0], min(drawn[:2]), drawn[2])
)


def rows(n: int, n_params: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n_params))


def vectors(array: np.ndarray) -> Vectors:
    return Vectors(torch.from_numpy(np.ascontiguousarray(array)), Space("full", array.shape[1], "test"))


def basis(array: np.ndarray) -> Basis:
    return from_vectors(vectors(array), "test")


def symmetric(eigenvalues: np.ndarray, seed: int = 0) -> Tensor:
    rotation = np.linalg.qr(rows(len(eigenvalues), len(eigenvalues), seed))[0]
    return torch.from_numpy(rotation * eigenvalues @ rotation.T)


def span_error(first: np.ndarray, second: np.ndarray) -> float:
    """Largest principal angle between two column spaces of one rank."""
    assert first.shape == second.shape
    return float(oracles.angles(first, second).max())


@given(SIZES)
def test_columns_are_orthonormal_and_nested_in_the_order_of_the_rows(size: tuple[int, int, int]) -> None:
    n_params, rank, seed = size
    array = rows(rank, n_params, seed) * np.logspace(0, -6, rank)[:, None]
    found = basis(array)
    assert found.rank == rank
    assert np.abs(found.columns.numpy().T @ found.columns.numpy() - np.eye(rank)).max() < 1e-13
    for k in range(1, rank + 1):
        leading = found.leading(k)
        assert leading.rank == k
        assert span_error(leading.columns.numpy(), oracles.orthonormal(array[:k])) < 1e-8


def test_nearly_dependent_rows_still_give_orthonormal_columns() -> None:
    """One pass of Gram-Schmidt would leave columns that are 1e-8 off."""
    base = rows(1, 50, 0)
    found = basis(base + 1e-7 * rows(6, 50, 1)).columns
    assert found.shape[1] == 6
    assert float((found.T @ found - torch.eye(6, dtype=torch.float64)).abs().max()) < 1e-13


def test_rows_that_add_nothing_are_left_out() -> None:
    a, b = rows(2, 9, 0)
    found = basis(np.stack([a, np.zeros(9), 2 * a, a + 1e-12 * b, b, a - b]))
    assert found.rank == 2
    assert span_error(found.columns.numpy(), oracles.orthonormal(np.stack([a, b]))) < 1e-12
    assert torch.allclose(found.columns[:, 0], torch.from_numpy(a / np.linalg.norm(a)))
    with pytest.raises(InputError, match="no non-zero direction"):
        basis(np.zeros((3, 5)))


def test_only_existing_ranks_are_given() -> None:
    found = basis(rows(3, 9, 0))
    for rank in (0, 4):
        with pytest.raises(InputError, match="has rank 3"):
            found.leading(rank)


@given(SIZES, st.integers(1, 8))
def test_capture_projection_overlap_and_angles_equal_the_oracles(size: tuple[int, int, int], other: int) -> None:
    n_params, rank, seed = size
    first = rows(rank, n_params, seed)
    second, targets = rows(min(other, n_params), n_params, seed + 1), rows(3, n_params, seed + 2)
    found = capture(basis(first), vectors(targets))
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    for value, projected, target in zip(found, project(basis(first), vectors(targets)).rows, targets, strict=True):
        assert float(value) == pytest.approx(oracles.dense_capture(first, target), abs=1e-9)
        fit = first.T @ np.linalg.lstsq(first.T, target, rcond=None)[0]
        assert np.allclose(projected.numpy(), fit, atol=1e-9)
    u, v = oracles.orthonormal(first), oracles.orthonormal(second)
    assert overlap(basis(first), basis(second)) == pytest.approx(oracles.dense_overlap(u, v), abs=1e-10)
    angles = principal_angles(basis(first), basis(second)).numpy()
    assert np.allclose(angles, oracles.angles(u, v), atol=1e-7)
    assert (np.diff(angles) >= -1e-7).all()
    assert np.allclose(angles, principal_angles(basis(second), basis(first)).numpy(), atol=1e-12)


@pytest.mark.parametrize("angle", [1e-10, 1e-6, 0.5, np.pi / 4, 1.5, np.pi / 2])
def test_an_angle_is_exact_however_small(angle: float) -> None:
    line = np.array([[1.0, 0, 0, 0]])
    tilted = np.array([[np.cos(angle), np.sin(angle), 0, 0]])
    assert float(principal_angles(basis(line), basis(tilted))) == pytest.approx(angle, rel=1e-9)


def test_what_lives_in_two_spaces_is_not_combined() -> None:
    first, second = basis(rows(2, 5, 0)), from_vectors(Vectors(torch.eye(5), Space("full", 5, "other")), "other")
    other = Vectors(torch.eye(5), Space("full", 5, "other"))
    for combine in (
        lambda: overlap(first, second),
        lambda: principal_angles(first, second),
        lambda: capture(first, other),
        lambda: project(first, other),
    ):
        with pytest.raises(SpaceMismatchError, match="layout other"):
            combine()


@given(SIZES, st.integers(0, 6))
def test_top_directions_are_the_leading_singular_vectors(size: tuple[int, int, int], extra: int) -> None:
    n_params, rank, seed = size
    n = min(n_params, rank + extra)
    left, right = oracles.orthonormal(rows(n, n + 2, seed)), oracles.orthonormal(rows(n, n_params, seed + 1))
    array = left * (0.6 ** np.arange(n)) @ right.T
    found = top_directions(vectors(array), rank, "top")
    true = np.linalg.svd(array)[2][:rank]
    assert found.rank == rank
    assert np.allclose(np.abs((found.columns.numpy() * true.T).sum(axis=0)), 1, atol=1e-8)


def test_top_directions_are_not_centred_and_drop_what_is_zero() -> None:
    mean = np.eye(6)[:1]
    array = 10 * mean + 0.1 * rows(20, 6, 0)
    assert float(capture(top_directions(vectors(array), 1, "top"), vectors(mean))) > 0.99
    assert top_directions(vectors(np.repeat(rows(2, 6, 1), 5, axis=0)), 6, "top").rank == 2


def test_random_basis_captures_its_rank_share() -> None:
    n_params, rank, n = 60, 6, 400
    target = vectors(rows(1, n_params, 0))
    streams = Streams(0)
    found = np.array(
        [float(capture(random_basis(target.space, rank, streams.generator("random", i)), target)) for i in range(n)]
    )
    assert abs(found.mean() - rank / n_params) < 3 * found.std(ddof=1) / np.sqrt(n)
    share = rank / n_params  # Beta(rank / 2, (n_params - rank) / 2)
    assert found.std() == pytest.approx(np.sqrt(2 * share * (1 - share) / (n_params + 2)), rel=0.15)


@given(st.integers(2, 25), st.integers(1, 5), st.integers(0, 1000))
def test_krylov_space_equals_explicit_powers(n: int, rank: int, seed: int) -> None:
    matrix = symmetric(np.linspace(-1, 1, n), seed)
    rank, start = min(rank, n), torch.from_numpy(rows(1, n, seed + 1)[0])
    powers = [start]
    for _ in range(rank - 1):
        powers.append(matrix @ powers[-1])
    found = krylov(matrix.__matmul__, start, rank, Space("full", n, "test"))
    assert found.rank == rank
    for k in range(1, rank + 1):
        assert span_error(found.leading(k).columns.numpy(), oracles.orthonormal(torch.stack(powers[:k]).numpy())) < 1e-6


def test_krylov_stops_where_the_space_is_invariant() -> None:
    matrix = symmetric(np.arange(1.0, 9.0))
    _, eigenvectors = torch.linalg.eigh(matrix)
    start = eigenvectors[:, [1, 4, 6]] @ torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    products = []

    def product(vector: Tensor) -> Tensor:
        products.append(vector)
        return matrix @ vector

    found = krylov(product, start, 7, Space("full", 8, "test"))
    assert found.rank == 3
    assert len(products) == 3
    assert span_error(found.columns.numpy(), eigenvectors[:, [1, 4, 6]].numpy()) < 1e-10
    shifted = krylov((3 * matrix - torch.eye(8, dtype=torch.float64)).__matmul__, start, 2, found.space)
    assert span_error(shifted.columns.numpy(), found.leading(2).columns.numpy()) < 1e-10


def test_top_eigenvectors_equal_dense_eigh() -> None:
    eigenvalues = np.concatenate([[-50.0], np.linspace(-1, 1, 25), [3.0, 5.0, 9.0]])
    matrix, n = symmetric(eigenvalues), len(eigenvalues)
    space, generator = Space("full", n, "test"), Streams(0).generator("lanczos")
    found = top_eigenvectors(matrix.__matmul__, space, 3, n, generator, "top")
    assert found.values == pytest.approx([9.0, 5.0, 3.0], abs=1e-9)
    assert max(found.residuals) < 1e-9
    true = torch.linalg.eigh(matrix)[1].flip(1)[:, :3]
    assert np.allclose((found.basis.columns * true).sum(dim=0).abs(), 1, atol=1e-10)


@pytest.mark.parametrize("steps", [3, 6, 12])
def test_residuals_are_true_and_shrink(steps: int) -> None:
    matrix = symmetric(np.linspace(0, 1, 40) ** 3, 3)
    space = Space("full", 40, "test")
    found = top_eigenvectors(matrix.__matmul__, space, 3, steps, Streams(1).generator("lanczos"), "top")
    ritz = found.basis.columns
    true = (matrix @ ritz - ritz * torch.tensor(found.values)).norm(dim=0)
    assert found.residuals == pytest.approx(true.tolist(), rel=1e-6)
    assert list(found.values) == sorted(found.values, reverse=True)
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert np.abs(np.linalg.eigvalsh(matrix.numpy()) - value).min() <= residual + 1e-12
    more = top_eigenvectors(matrix.__matmul__, space, 3, steps + 10, Streams(1).generator("lanczos"), "top")
    assert more.residuals[0] < found.residuals[0]


def test_the_prefix_of_gradient_descent_on_a_quadratic_is_the_krylov_space(tmp_path: Path) -> None:
    """u_t = -lr (1 - lr H)^(t-1) g: the first k updates span K_k(H, g), along the code the product runs.

    Eigenvalues of lr H lie at Chebyshev points of (0, 2), where powers of 1 - lr H stay far from dependent.
    """
    lr, n = 0.5, 14
    points = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    problem = QuadraticProblem((1 + 0.95 * points) / lr, seed=4)
    batch = problem.sample("bowl", 8, Streams(0).generator("batch"))
    operator = HessianOperator(problem, batch)
    broken = problem.parameters.read()
    recorder = Recorder(problem.parameters, tmp_path / "recording", torch.float64)

    def after(step: int, loss: float) -> bool:
        recorder.append()
        return False

    settings = RecoverySettings(optimizer="sgd", lr=lr)
    train(problem, make_optimizer(problem.parameters.tensors, settings), lambda step: batch, 12, after)
    trajectory = recorder.close()
    assert torch.allclose(problem.parameters.read() - broken, trajectory.combine(np.ones((12, 1))).rows[0], atol=1e-13)
    gram = trajectory.gram()
    with problem.parameters.temporarily(broken):
        true = krylov(operator.__matmul__, operator.gradient, 10, problem.parameters.space)
    assert true.rank == 10
    for k in range(1, 11):
        direct = from_vectors(trajectory.updates(1, k), "prefix")
        by_gram = trajectory.combine(gram.prefix(k)).rows.T
        assert float(principal_angles(direct, true.leading(k)).max()) < 1e-6
        assert span_error(by_gram.numpy(), true.leading(k).columns.numpy()) < 1e-6
        # One update later the spaces differ, so the test can fail.
        late = from_vectors(trajectory.updates(2, k + 1), "late")
        assert float(principal_angles(late, true.leading(k)).max()) > 1e-2
