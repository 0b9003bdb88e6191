"""The null of a composition: an adapter of the same singular values in every module, in directions drawn at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lineament.problems.stored_adapters import StoredAdapter
from lineament.vectors.adapter_algebra import adapter_singular_values


def with_random_vectors(adapter: StoredAdapter, generator: np.random.Generator) -> StoredAdapter:
    """Return an adapter with the singular values of the given one, module by module, and random singular vectors.

    Both sets of vectors are Haar-distributed: dW' = U' S V'^T with U' (d_out, rank) and V' (d_in, rank) from the QR
    decompositions of Gaussian matrices. Lengths, ranks and spectra stay, and directions mean nothing.
    """
    tensors: list[Tensor] = []
    for module, values in adapter_singular_values(adapter).items():
        a, b, _ = adapter.factors[module]
        left, right = (_orthonormal(size, len(values), generator) for size in (b.shape[0], a.shape[1]))
        tensors += [right.T.contiguous().to(a.dtype), (left * values).to(b.dtype)]
    names = tuple(f"{module}.lora_{factor}.default.weight" for module in adapter.factors for factor in "AB")
    return StoredAdapter(names, tuple(tensors), dict.fromkeys(adapter.factors, 1.0), adapter.config)


def _orthonormal(size: int, n: int, generator: np.random.Generator) -> Tensor:
    """Return a Haar-distributed matrix of orthonormal columns, (size, n) float64: with the signs of R's diagonal."""
    q, r = torch.linalg.qr(torch.from_numpy(generator.standard_normal((size, n))))
    signed: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return signed
