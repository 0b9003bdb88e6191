"""Recordings on disk and their Gram matrix against the dense rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from lineament.bases import capture, from_vectors, overlap, top_directions
from lineament.errors import InputError, LineamentError, SpaceMismatchError
from lineament.files.reading import read_json
from lineament.parameters import ParameterSpace, Space, Vectors
from lineament.vectors.recording import rows, writer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.writer import Recorder
from lineament.vectors.trajectory_gram import StepBasis, TrajectoryGram

N_PARAMS = 60


class Walk:
    """A recorded random walk.

    Attributes:
        thetas: (n_steps + 1, N_PARAMS) positions. updates: their differences.
    """

    def __init__(self, folder: Path, n_steps: int, dtype: torch.dtype = torch.float64) -> None:
        module = nn.Linear(9, 6, dtype=dtype)
        self.space = ParameterSpace.trainable(module)
        generator = np.random.default_rng(n_steps)
        steps = generator.standard_normal((n_steps, N_PARAMS)) + np.linspace(2, 0, n_steps)[:, None]
        self.thetas = [self.space.read().double().numpy()]
        recorder = Recorder(self.space, folder, dtype)
        for step in steps:
            self.space.write(self.space.read().double() + torch.from_numpy(step))
            recorder.append()
            self.thetas.append(self.space.read().double().numpy())
        self.trajectory = recorder.close()
        self.updates = np.diff(np.stack(self.thetas), axis=0)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("walk") / "recording", 55)


@pytest.mark.parametrize(("n_steps", "sizes"), [(1, [1]), (49, [49]), (50, [50]), (51, [50, 1]), (101, [50, 50, 1])])
def test_rows_are_stored_fifty_to_a_file(n_steps: int, sizes: list[int], tmp_path: Path) -> None:
    walk = Walk(tmp_path / "recording", n_steps)
    files = sorted((tmp_path / "recording").glob("rows-*.safetensors"))
    assert [file.name for file in files] == [f"rows-{i:05d}.safetensors" for i in range(len(sizes))]
    stored = [load_file(file)["rows"] for file in files]
    assert [len(part) for part in stored] == sizes
    assert np.array_equal(torch.cat(stored).numpy(), walk.updates)
    trajectory = Trajectory(tmp_path / "recording")
    assert (trajectory.n_steps, trajectory.n_blocks) == (n_steps, len(sizes))
    assert trajectory.space == walk.space.space
    assert np.allclose(trajectory.gram().gram, walk.updates @ walk.updates.T, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("held", "sizes"), [(7, [7, 4]), (3, [3, 3, 3, 2]), (1, [1] * 11), (0.5, [1] * 11)])
def test_a_recorder_holds_no_more_bytes_than_allowed(
    held: float, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`held` rows fit; a row larger than that is held alone. Every question has the same answer."""
    monkeypatch.setattr(writer, "MAX_BYTES_BUFFERED", int(held * N_PARAMS * 8))
    monkeypatch.setattr(rows, "MAX_BYTES_HELD", int(held * N_PARAMS * 8))
    walk = Walk(tmp_path / "recording", 11)
    files = sorted((tmp_path / "recording").glob("rows-*.safetensors"))
    assert [len(load_file(file)["rows"]) for file in files] == sizes
    assert read_json(tmp_path / "recording" / "index.json")["rows_per_file"] == sizes[0]
    found = walk.trajectory
    assert np.allclose(found.gram().gram, walk.updates @ walk.updates.T, rtol=1e-12, atol=1e-10)
    assert np.array_equal(found.updates(2, 9).rows.numpy(), walk.updates[1:9])
    assert np.allclose(found.position(11).numpy(), walk.thetas[11], atol=1e-12)
    basis = from_vectors(found.updates(3, 5), "basis")
    assert np.allclose(found.coefficients(basis).values, basis.columns.numpy().T @ walk.updates.T, atol=1e-11)


def test_a_recording_without_steps_has_an_empty_gram(tmp_path: Path) -> None:
    gram = Recorder(ParameterSpace.trainable(nn.Linear(2, 2)), tmp_path / "recording").close().gram()
    assert gram.gram.shape == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_have_the_precision_that_was_asked_for(dtype: torch.dtype, tmp_path: Path) -> None:
    walk = Walk(tmp_path / "recording", 5, dtype)
    updates = walk.trajectory.updates(1, 5).rows
    assert updates.dtype == dtype
    assert np.allclose(updates.double().numpy(), walk.updates, rtol=1e-6 if dtype == torch.float32 else 1e-15)
    assert walk.trajectory.start().dtype == dtype


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 55), (50, 50), (51, 51), (49, 52), (55, 55)])
def test_updates_are_counted_from_one_and_inclusive(walk: Walk, first: int, last: int) -> None:
    assert np.array_equal(walk.trajectory.updates(first, last).rows.numpy(), walk.updates[first - 1 : last])


@pytest.mark.parametrize(("first", "last"), [(0, 3), (3, 2), (5, 56)])
def test_updates_that_do_not_exist_are_refused(walk: Walk, first: int, last: int) -> None:
    with pytest.raises(InputError, match=f"updates {first}..{last} were asked for"):
        walk.trajectory.updates(first, last)


@pytest.mark.parametrize("step", [0, 1, 49, 50, 51, 55])
def test_positions_are_where_the_model_was(walk: Walk, step: int) -> None:
    found = walk.trajectory.position(step)
    assert found.dtype == torch.float64
    assert np.allclose(found.numpy(), walk.thetas[step], atol=1e-12)


def test_all_positions_at_once_are_the_same(walk: Walk) -> None:
    found = walk.trajectory.positions()
    assert found.shape[0] == walk.trajectory.n_steps + 1
    assert torch.equal(found[0], walk.trajectory.start().double())
    for step in (1, 50, 51, 55):
        assert np.allclose(found[step].numpy(), walk.thetas[step], atol=1e-12)


def test_steps_that_were_not_recorded_are_refused(walk: Walk) -> None:
    """Silently answering with the last position would hide a lag that runs off the recording."""
    with pytest.raises(InputError, match="55 updates"):
        walk.trajectory.position(56)
    with pytest.raises(InputError, match="55 updates"):
        walk.trajectory.combine(np.ones((56, 1)))
    for steps in ([0], [56], []):
        with pytest.raises(InputError, match="between 1 and 55"):
            walk.trajectory.gram().span(steps)


@pytest.mark.parametrize("n", [1, 50, 51, 55])
def test_combinations_are_weighted_sums(walk: Walk, n: int) -> None:
    weights = np.random.default_rng(n).standard_normal((n, 3))
    assert np.allclose(walk.trajectory.combine(weights).rows.numpy(), weights.T @ walk.updates[:n], atol=1e-11)


def test_captures_by_gram_equal_the_dense_route(walk: Walk) -> None:
    gram, end = walk.trajectory.gram(), 40
    displacement = walk.updates[:end].sum(axis=0)
    for rank in (1, 5, 20):
        dense = from_vectors(walk.trajectory.updates(1, rank), "prefix")
        whole = gram.capture(gram.prefix(rank), gram.displacement(1, end))
        rest = gram.capture(gram.prefix(rank), gram.displacement(rank + 1, end))
        targets = np.stack([displacement, walk.updates[rank:end].sum(axis=0)])
        expected = capture(dense, Vectors(torch.from_numpy(targets), walk.space.space)).tolist()
        assert (whole, rest) == pytest.approx(expected, abs=1e-9)
        assert whole == pytest.approx(oracles.dense_capture(walk.updates[:rank], displacement), abs=1e-9)
        top = top_directions(walk.trajectory.updates(1, end), rank, "top")
        by_gram = gram.capture(gram.top(rank, end), gram.displacement(1, end))
        expected = capture(top, Vectors(torch.from_numpy(targets[:1]), walk.space.space)).item()
        assert by_gram == pytest.approx(expected, abs=1e-9)
        later = from_vectors(walk.trajectory.updates(21, 20 + rank), "later")
        found = gram.overlap(gram.prefix(rank), gram.span(range(21, 21 + rank)))
        assert found == pytest.approx(overlap(dense, later), abs=1e-9)
        outside = gram.capture(walk.trajectory.coefficients(later), gram.displacement(1, end))
        assert outside == pytest.approx(oracles.dense_capture(walk.updates[20 : 20 + rank], displacement), abs=1e-9)


def test_coefficients_are_inner_products_in_one_space(walk: Walk) -> None:
    basis = from_vectors(walk.trajectory.updates(3, 6), "basis")
    found = walk.trajectory.coefficients(basis)
    assert np.allclose(found.values, basis.columns.numpy().T @ walk.updates.T, atol=1e-11)
    assert found.space == walk.space.space
    assert np.array_equal(found.leading(2).values, found.values[:2])
    other = from_vectors(Vectors(torch.eye(N_PARAMS)[:2], Space("full", N_PARAMS, "other")), "other")
    with pytest.raises(SpaceMismatchError, match="'other'"):
        walk.trajectory.coefficients(other)


def test_weights_and_coefficients_of_another_space_are_refused(walk: Walk) -> None:
    """The effective weights' Gram matrix has as many steps, so nothing but the space tells the two apart."""
    own = walk.trajectory.gram()
    effective = TrajectoryGram(own.gram, Space("lora_effective", 7, "dW"))
    whole, basis = own.displacement(1, 55), own.prefix(3)
    outside = walk.trajectory.coefficients(from_vectors(walk.trajectory.updates(1, 3), "basis"))
    assert effective.capture(effective.prefix(3), whole) == own.capture(basis, whole)
    for mixed in (
        lambda: effective.capture(basis, whole),
        lambda: effective.capture(outside, whole),
        lambda: effective.coefficients(basis),
        lambda: effective.overlap(basis, effective.prefix(3)),
        lambda: effective.overlap(outside, effective.prefix(3)),
        lambda: effective.overlap(effective.prefix(3), basis),
    ):
        with pytest.raises(SpaceMismatchError, match=r"lora_effective of 7 .*full of 60"):
            mixed()
    with pytest.raises(SpaceMismatchError, match=r"full of 60 .*lora_effective of 7"):
        walk.trajectory.combine(effective.prefix(3))
    assert torch.equal(walk.trajectory.combine(basis).rows, walk.trajectory.combine(basis.weights).rows)


def test_a_folder_without_a_recording_is_a_clear_error_and_one_with_is_kept(tmp_path: Path) -> None:
    space = ParameterSpace.trainable(nn.Linear(2, 2))
    with pytest.raises(LineamentError, match="no recording"):
        Trajectory(tmp_path / "recording")
    recorder = Recorder(space, tmp_path / "recording")
    for _ in range(60):
        recorder.append()
    assert recorder.close().n_steps == 60
    with pytest.raises(InputError, match="already holds"):
        Recorder(space, tmp_path / "recording")


def test_recording_does_not_touch_the_model(tmp_path: Path) -> None:
    module = nn.Linear(3, 3)
    before = module.weight.detach().clone()
    recorder = Recorder(ParameterSpace.trainable(module), tmp_path / "recording")
    recorder.append()
    assert torch.equal(module.weight, before)
    assert float(recorder.close().updates(1, 1).rows.norm()) == 0


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**16))
def test_gram_identities(n_steps: int, n_params: int, rank: int, seed: int) -> None:
    """Bases are orthonormal, captures are shares, and a basis captures all of what it spans."""
    updates = np.random.default_rng(seed).standard_normal((n_steps, n_params))
    gram, rank = TrajectoryGram(updates @ updates.T, Space("full", n_params, "drawn")), min(rank, n_steps)
    whole = gram.displacement(1, n_steps)
    assert gram.squared_norm(whole) == pytest.approx(np.square(updates.sum(axis=0)).sum())
    for basis in (gram.prefix(rank), gram.top(rank, n_steps), gram.span([n_steps])):
        directions = basis.weights.T @ updates
        assert np.allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-7)
        found = gram.capture(basis, whole)
        assert -1e-9 <= found <= 1 + 1e-7
        assert gram.capture(gram.coefficients(basis), whole) == pytest.approx(found, abs=1e-12)
        assert gram.overlap(gram.coefficients(basis), basis) == pytest.approx(1, abs=1e-6)
        assert found == pytest.approx(oracles.dense_capture(directions, updates.sum(axis=0)), abs=1e-6)
    assert gram.capture(gram.prefix(rank), gram.displacement(1, rank)) == pytest.approx(1, abs=1e-6)
    assert gram.prefix(rank).rank == min(rank, n_params)
    assert not gram.prefix(rank).weights[rank:].any()


def test_top_directions_hold_more_energy_than_any_other_span() -> None:
    updates = np.random.default_rng(0).standard_normal((12, 40)) * np.logspace(0, -1, 12)[:, None]
    gram = TrajectoryGram(updates @ updates.T, Space("full", 40, "drawn"))

    def energy(basis: StepBasis) -> float:
        return float(np.square(gram.coefficients(basis).values).sum())

    assert energy(gram.top(3, 12)) == pytest.approx(np.square(np.linalg.svd(updates)[1][:3]).sum())
    assert all(energy(gram.top(3, 12)) > energy(gram.span([i, i + 1, i + 2])) for i in range(1, 10))
    assert not gram.top(3, 7).weights[7:].any()


def test_displacements_that_are_empty_or_zero() -> None:
    gram = TrajectoryGram(np.diag([1.0, 0.0, 4.0]), Space("full", 3, "drawn"))
    assert not gram.displacement(3, 2).any()
    assert np.isnan(gram.capture(gram.prefix(1), gram.displacement(3, 2)))
    assert gram.span([1, 2, 3]).weights.shape == (3, 2)
    with pytest.raises(InputError, match="all zero"):
        gram.span([2])
