"""Coefficients on disk: k numbers that say how far a training went, in which basis, and from which weights."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.files.tensors import described_tensors, open_tensors
from lineament.files.writing import write_bytes
from lineament.parameters import ParameterSpace
from lineament.subspace.hashes import basis_hash, weights_hash

NAME, HASH, SPACE, START = "coefficients", "lineament_basis", "lineament_space", "lineament_start"


def save_coefficients(
    path: Path | str, coefficients: Float[Tensor, " rank"], basis: Basis, start: Float[Tensor, " n_params"]
) -> None:
    """Write the coefficients of a basis, (rank,), as a safetensors file in float64, with the hashes of what they need.

    Args:
        basis: their basis; `save_basis` keeps it bit for bit.
        start: theta_start (n_params,), the weights before the training, as `ParameterSpace.read` gives them.

    Raises:
        InputError: there are more or fewer of them than the basis has columns, one is not finite, or `start` is of
            another size.
    """
    values = coefficients.detach().to("cpu", torch.float64)
    if values.shape != (basis.rank,) or not bool(torch.isfinite(values).all()):
        raise InputError(
            f"basis {basis.label!r} has {basis.rank} columns; give as many finite coefficients, not {values.numel()} "
            f"of which {int(torch.isfinite(values).sum())} are finite."
        )
    about = {HASH: basis_hash(basis), SPACE: str(basis.space), START: _start_hash(start, basis)}
    write_bytes(Path(path), described_tensors({NAME: values.contiguous()}, about))


def load_coefficients(path: Path | str, basis: Basis, start: Float[Tensor, " n_params"]) -> Float[Tensor, " rank"]:
    """Read the coefficients of this very basis, (rank,) float64; start + U c are the trained weights.

    Args:
        start: theta_start (n_params,), in any dtype that holds its numbers exactly.

    Raises:
        InputError: the file cannot be read, is none of ours, or belongs to another basis or to other weights.
    """
    path = Path(path)
    with open_tensors(path, "the coefficients") as stored:
        about = stored.metadata() or {}
        if any(key not in about for key in (HASH, START)) or NAME not in stored.keys():  # noqa: SIM118 (no mapping)
            raise InputError(f"{path} holds no coefficients of a basis. Give a file that save_coefficients wrote.")
        values: Tensor = stored.get_tensor(NAME)
    if about[HASH] != basis_hash(basis):
        raise InputError(
            f"{path} belongs to a basis with hash {about[HASH]} of {about.get(SPACE, 'another space')}, and basis "
            f"{basis.label!r}, with hash {basis_hash(basis)}, is one of {basis.space}. Give the trained one."
        )
    if about[START] != _start_hash(start, basis):
        raise InputError(
            f"{path} says how far a training went from weights with hash {about[START]}, and these have hash "
            f"{_start_hash(start, basis)}. Give the weights from before that training."
        )
    if values.shape != (basis.rank,):
        raise InputError(f"{path} holds {values.numel()} coefficients; its basis has {basis.rank} columns.")
    return values.double()


def apply_coefficients(path: Path | str, basis: Basis, space: ParameterSpace) -> None:
    """Take a model from theta_start to the trained weights, start + U c, in place.

    Raises:
        InputError: as `load_coefficients`; the model, which must stand at theta_start, has other weights.
        SpaceMismatchError: the basis is of another space.
    """
    space.space.require(basis.space, f"the model and basis {basis.label!r}")
    start = space.read()
    coefficients = load_coefficients(path, basis, start)
    wide = torch.promote_types(basis.columns.dtype, start.dtype)
    columns = basis.columns.to(start.device, wide)
    space.write(start.to(wide) + columns @ coefficients.to(columns))


def _start_hash(start: Tensor, basis: Basis) -> str:
    if start.shape != (basis.space.n_params,):
        raise InputError(
            f"theta_start has shape {tuple(start.shape)}, and basis {basis.label!r} is one of {basis.space}. Give the "
            "weights as ParameterSpace.read gives them."
        )
    return weights_hash(start, basis.space)
