"""Bases and coefficients on disk: bit for bit, and with nothing but what they belong to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_subspace import in_plane, network, plane, train, weights
from torch import Tensor

from lineament.bases import Basis, random_basis
from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import ParameterSpace, Space
from lineament.subspace.basis_files import load_basis, save_basis
from lineament.subspace.coefficients import apply_coefficients, load_coefficients, save_coefficients
from lineament.subspace.hashes import CHUNK, basis_hash, numbers_hash

START = torch.linspace(-1, 1, 30)


@pytest.fixture
def basis() -> Basis:
    return random_basis(Space("full", 30, "layout"), 4, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_basis_comes_back_bit_for_bit(basis: Basis, dtype: torch.dtype, tmp_path: Path) -> None:
    kept = replace(basis, columns=basis.columns.to(dtype))
    save_basis(tmp_path / "deep" / "b.safetensors", kept)
    again = load_basis(tmp_path / "deep" / "b.safetensors", basis.space)
    assert torch.equal(again.columns, kept.columns)
    assert (again.columns.dtype, again.space, again.label) == (dtype, basis.space, basis.label)
    assert basis_hash(again) == basis_hash(kept)
    with pytest.raises(SpaceMismatchError, match="layout elsewhere"):
        load_basis(tmp_path / "deep" / "b.safetensors", replace(basis.space, layout="elsewhere"))


def test_a_basis_is_known_by_its_numbers(basis: Basis) -> None:
    narrow = replace(basis, columns=basis.columns.float())
    assert basis_hash(replace(narrow, columns=narrow.columns.double())) == basis_hash(narrow)
    assert basis_hash(narrow) != basis_hash(basis)  # rounding makes another plane
    assert basis_hash(replace(basis, label="renamed")) == basis_hash(basis)
    long = torch.zeros(CHUNK + 3)
    hashes = [numbers_hash(long)]
    for i in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        changed = long.clone()
        changed[i] = 1
        hashes.append(numbers_hash(changed))
    assert len({*hashes, numbers_hash(long[None]), numbers_hash(long, "other")}) == 7


def test_a_rounded_basis_of_many_parameters_is_orthonormal(tmp_path: Path) -> None:
    """A product of skinny float32 matrices adds up thousands of numbers in float32, and says 1e-4 where it is 1e-8."""
    rounded = random_basis(Space("full", 120_000, "layout"), 5, np.random.default_rng(0))
    rounded = replace(rounded, columns=rounded.columns.float())
    columns = rounded.columns.double()
    assert (columns.T @ columns - torch.eye(5)).abs().max() < 1e-7
    save_basis(tmp_path / "b.safetensors", rounded)
    assert torch.equal(load_basis(tmp_path / "b.safetensors").columns, rounded.columns)
    with pytest.raises(InputError, match="not orthonormal"):
        columns[-1] += 0.1  # past the rows that are looked at first
        save_basis(tmp_path / "never.safetensors", replace(rounded, columns=columns))


def test_a_file_that_holds_no_such_basis_is_refused(basis: Basis, tmp_path: Path) -> None:
    save_basis(tmp_path / "good.safetensors", basis)
    with safe_open(tmp_path / "good.safetensors", framework="pt") as stored:
        about = stored.metadata()
    unmarked = {key: value for key, value in about.items() if key != "hash"}
    for name, columns, said in (
        ("changed", basis.columns.flip(0), about),
        ("long", 2 * basis.columns, unmarked),
        ("flat", basis.columns[:, 0], unmarked),
        ("whole", torch.ones(30, 4, dtype=torch.int64), unmarked),
        ("foreign", basis.columns, {"format": "pt"}),
    ):
        save_file({"columns": columns.contiguous()}, tmp_path / f"{name}.safetensors", said)
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for name, words in (
        ("changed", "other columns than were written"),
        ("long", "not orthonormal"),
        ("flat", r"shape \(30,\)"),
        ("whole", r"shape \(30, 4\)"),
        ("foreign", "holds no basis"),
        ("torn", "cannot be read"),
        ("none", r"none\.safetensors"),
    ):
        with pytest.raises(InputError, match=words):
            load_basis(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="not orthonormal"):
        save_basis(tmp_path / "never.safetensors", replace(basis, columns=2 * basis.columns))
    assert not (tmp_path / "never.safetensors").exists()


def test_coefficients_come_back_with_their_basis_and_weights_alone(basis: Basis, tmp_path: Path) -> None:
    path, values = tmp_path / "deep" / "c.safetensors", torch.arange(4.0)
    save_coefficients(path, values, basis, START)
    assert torch.equal(load_coefficients(path, basis, START.double()), values.double())
    assert path.stat().st_size < 400
    others = {
        "columns": Basis(-basis.columns, basis.space, basis.label),
        "space": Basis(basis.columns, Space("full", 30, "other"), basis.label),
        "rank": basis.leading(3),
    }
    for other in others.values():
        with pytest.raises(InputError, match="belongs to a basis with hash"):
            load_coefficients(path, other, START)
    with pytest.raises(InputError, match=r"from weights with hash .* before that training"):
        load_coefficients(path, basis, START.nextafter(torch.ones(())))
    with pytest.raises(InputError, match=r"theta_start has shape \(29,\)"):
        load_coefficients(path, basis, START[:29])


@pytest.mark.parametrize("values", [torch.zeros(3), torch.tensor([0.0, 1.0, math.nan, 0.0])])
def test_wrong_coefficients_are_not_written(basis: Basis, tmp_path: Path, values: Tensor) -> None:
    with pytest.raises(InputError, match="finite"):
        save_coefficients(tmp_path / "c.safetensors", values, basis, START)
    with pytest.raises(InputError, match="theta_start"):
        save_coefficients(tmp_path / "c.safetensors", torch.zeros(4), basis, START[None])
    assert not list(tmp_path.iterdir())


def test_files_without_coefficients_are_refused(basis: Basis, tmp_path: Path) -> None:
    save_file({"coefficients": torch.zeros(4)}, tmp_path / "foreign.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for name, words in (("foreign", "holds no coefficients"), ("torn", "cannot be read"), ("none", "none.safe")):
        with pytest.raises(InputError, match=words):
            load_coefficients(tmp_path / f"{name}.safetensors", basis, START)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_training_is_made_again_from_two_files(dtype: torch.dtype, tmp_path: Path) -> None:
    """In bfloat16 the float32 copy starts at the weights and is rounded at the end: so are they."""
    model, again = network(dtype=dtype), network(dtype=dtype)
    basis, start = plane(model, 6), ParameterSpace.trainable(model).read()
    optimizer = in_plane(model, basis, "adam")
    train(model, optimizer, range(8))
    save_basis(tmp_path / "b.safetensors", basis)
    save_coefficients(tmp_path / "c.safetensors", optimizer.coefficients, basis, start)
    space = ParameterSpace.trainable(again)
    found = load_basis(tmp_path / "b.safetensors", space.space)
    apply_coefficients(tmp_path / "c.safetensors", found, space)
    apart = (weights(again) - weights(model)).abs().max()
    assert (weights(model) - weights(network(dtype=dtype))).abs().max() > 0.05
    assert apart < {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    trained = weights(again)
    with pytest.raises(InputError, match="from weights with hash"):
        apply_coefficients(tmp_path / "c.safetensors", found, space)  # not a second time
    assert torch.equal(weights(again), trained)
    other = network(1, dtype=dtype)
    with pytest.raises(InputError, match="from weights with hash"):
        apply_coefficients(tmp_path / "c.safetensors", found, ParameterSpace.trainable(other))
    assert torch.equal(weights(other), weights(network(1, dtype=dtype)))
