"""Bases on disk, bit for bit: safetensors files of the columns, with the space that they live in and their hash."""

from __future__ import annotations

from pathlib import Path

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.files.tensors import described_tensors, open_tensors
from lineament.files.writing import write_bytes
from lineament.parameters import Space
from lineament.subspace.hashes import numbers_hash
from lineament.subspace.projections import require_orthonormal

COLUMNS, HASH, MODEL = "columns", "hash", "model"
SPACE_KEYS = ("kind", "layout")


def save_basis(path: Path | str, basis: Basis, model: str | None = None) -> None:
    """Write a basis as a safetensors file, its columns (n_params, rank) in the dtype that they have.

    Args:
        model: hash of the model that it was made on, as run folders keep it; `lineament search` refuses another model.

    Raises:
        InputError: the columns are not orthonormal.
    """
    require_orthonormal(basis)
    about = {
        "kind": basis.space.kind,
        "layout": basis.space.layout,
        "label": basis.label,
        HASH: numbers_hash(basis.columns),
    }
    if model is not None:
        about[MODEL] = model
    write_bytes(Path(path), described_tensors({COLUMNS: basis.columns.detach().cpu().contiguous()}, about))


def load_basis(path: Path | str, space: Space | None = None) -> Basis:
    """Read a basis that `save_basis` or a run wrote, with the bits that it had: coefficients of it are known again.

    Args:
        space: where it is to live, as `ParameterSpace.space`; None takes the file's own.

    Raises:
        InputError: the file cannot be read, holds no basis or other columns than were written, or they are not
            orthonormal.
        SpaceMismatchError: it is one of another space.
    """
    basis, _ = read_basis(Path(path))
    require_orthonormal(basis)
    if space is not None:
        space.require(basis.space, f"the model and basis {basis.label!r} of {path}")
    return basis


def read_basis(path: Path) -> tuple[Basis, str | None]:
    """Read a basis and the hash of the model that it was made on, None where the file does not say it."""
    with open_tensors(path, "the basis") as stored:
        about = stored.metadata() or {}
        if COLUMNS not in stored.keys() or any(key not in about for key in SPACE_KEYS):  # noqa: SIM118 (no mapping)
            raise InputError(f"{path} holds no basis. Give a file that save_basis or a run wrote.")
        columns = stored.get_tensor(COLUMNS)
    if columns.ndim != 2 or not columns.is_floating_point() or not columns.numel():
        raise InputError(f"{path} holds columns of shape {tuple(columns.shape)}; a basis has (n_params, rank) numbers.")
    space = Space(about["kind"], len(columns), about["layout"])
    basis = Basis(columns, space, about.get("label", path.stem))
    if about.get(HASH) not in (None, numbers_hash(columns)):
        raise InputError(f"{path} holds other columns than were written to it. Give the file as it was saved.")
    return basis, about.get(MODEL)
