"""Coefficients on disk: k numbers that say how far a training went, with the hash of the basis that they belong to."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.files.tensors import described_tensors, open_tensors
from lineament.files.writing import write_bytes
from lineament.subspace.projections import basis_hash

NAME, HASH, SPACE = "coefficients", "lineament_basis", "lineament_space"


def save_coefficients(path: Path | str, coefficients: Float[Tensor, " rank"], basis: Basis) -> None:
    """Write the coefficients of a basis, (rank,), as a safetensors file in float64, with the basis' hash.

    Raises:
        InputError: there are more or fewer of them than the basis has columns, or one is not finite.
    """
    values = coefficients.detach().to("cpu", torch.float64)
    if values.shape != (basis.rank,) or not bool(torch.isfinite(values).all()):
        raise InputError(
            f"basis {basis.label!r} has {basis.rank} columns; give as many finite coefficients, not {values.numel()} "
            f"of which {int(torch.isfinite(values).sum())} are finite."
        )
    about = {HASH: basis_hash(basis), SPACE: str(basis.space)}
    write_bytes(Path(path), described_tensors({NAME: values.contiguous()}, about))


def load_coefficients(path: Path | str, basis: Basis) -> Float[Tensor, " rank"]:
    """Read the coefficients of this very basis, (rank,) float64; theta_start + U c are the weights.

    Raises:
        InputError: the file cannot be read, is none of ours, or belongs to another basis.
    """
    path = Path(path)
    with open_tensors(path, "the coefficients") as stored:
        about = stored.metadata() or {}
        if HASH not in about or NAME not in stored.keys():  # noqa: SIM118 (no mapping)
            raise InputError(f"{path} holds no coefficients of a basis. Give a file that save_coefficients wrote.")
        if about[HASH] != basis_hash(basis):
            raise InputError(
                f"{path} belongs to a basis with hash {about[HASH]} of {about.get(SPACE, 'another space')}, and basis "
                f"{basis.label!r}, with hash {basis_hash(basis)}, is one of {basis.space}. Give the trained one."
            )
        values: Tensor = stored.get_tensor(NAME)
    if values.shape != (basis.rank,):
        raise InputError(f"{path} holds {values.numel()} coefficients; its basis has {basis.rank} columns.")
    return values.double()
