"""LoRA effective weights dW = scale B A without ever forming them.

Inner products come from the factors: <B1 A1, B2 A2> = tr(B1^T B2 A2 A1^T). They are invariant under the gauge
(A, B) -> (R A, B R^-1), which moves every factor-space cosine (protocol, section 0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lineament.parameters import Space
from lineament.problems.adapters import FactorPair
from lineament.vectors.trajectories import TrajectoryGram


def position_gram(pairs: Sequence[FactorPair], thetas: Tensor) -> np.ndarray:
    """Inner products <dW_s, dW_t> of adapters, (n, n) float64.

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
    """The space of dW, of as many dimensions as it has entries; adapters of any rank on the same weights share it."""
    shapes = [(pair.module, pair.b_shape[0], pair.a_shape[1]) for pair in pairs]
    layout = "\n".join(f"{module}:({d_out}, {d_in})" for module, d_out, d_in in shapes)
    n_params = sum(d_out * d_in for _, d_out, d_in in shapes)
    return Space("lora_effective", n_params, hashlib.blake2b(layout.encode(), digest_size=6).hexdigest())


def update_gram(pairs: Sequence[FactorPair], thetas: Tensor) -> TrajectoryGram:
    """Gram matrix of the dW updates between consecutive positions theta_0 .. theta_n."""
    positions = position_gram(pairs, thetas)
    return TrajectoryGram(np.diff(np.diff(positions, axis=0), axis=1), effective_space(pairs))
