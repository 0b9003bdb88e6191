"""What bases and weights are known by: hashes of their numbers, the same in every dtype that holds them exactly."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from lineament.bases import Basis
from lineament.parameters import Space

# Numbers that are widened at a time: bounds memory at 8 MB.
CHUNK = 1_000_000


def basis_hash(basis: Basis) -> str:
    """Hash a basis by its space and the numbers of its columns, so that coefficients know what they belong to."""
    return numbers_hash(basis.columns, str(basis.space))


def weights_hash(theta: Float[Tensor, " n_params"], space: Space) -> str:
    """Hash weights (n_params,) by their space and numbers."""
    return numbers_hash(theta, str(space))


def numbers_hash(numbers: Tensor, what: str = "") -> str:
    """Hash a tensor by its shape and numbers, and by a word that says what they are."""
    digest = hashlib.blake2b(f"{what}:{tuple(numbers.shape)}".encode(), digest_size=8)
    flat = numbers.detach().reshape(-1)
    for start in range(0, len(flat), CHUNK):
        digest.update(flat[start : start + CHUNK].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()
