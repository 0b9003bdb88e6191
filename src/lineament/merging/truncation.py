"""Adapters of lower rank: the best approximation of dW in each module, with what it costs in |dW|.

The leading singular directions of dW are the best approximation of their rank (Eckart and Young). They come from the
factors exactly; the error is known before anything is written, and says nothing yet about the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from lineament.errors import InputError
from lineament.merging.spectra import Decomposition, decompose, require_finite
from lineament.problems.factor_names import PREFIX
from lineament.problems.stored_adapters import Factors, StoredAdapter
from lineament.vectors.adapter_algebra import adapter_of


@dataclass(frozen=True)
class Truncated:
    """An adapter of lower rank.

    Attributes:
        adapter: its factors are balanced, B = U sqrt(S) and A = sqrt(S) V^T, of scale 1.
        error: |dW - truncated dW| / |dW| over all modules; 0 where dW is zero.
        ranks: module -> rank kept.
    """

    adapter: StoredAdapter
    error: float
    ranks: Mapping[str, int]


def truncate_to_rank(adapter: StoredAdapter, rank: int) -> Truncated:
    """Keep the `rank` strongest directions of every module's dW, or all where there are fewer.

    Raises:
        InputError: a rank below 1, or factors that are not finite.
    """
    if rank < 1:
        raise InputError(f"the rank to truncate to must be at least 1; got {rank}.")
    return _truncated(adapter, lambda _: rank)


def truncate_to_share(adapter: StoredAdapter, share: float) -> Truncated:
    """Keep in every module the fewest directions that hold a share of its |dW|^2, at least one.

    The error is then at most sqrt(1 - share), in every module and over all.

    Raises:
        InputError: a share outside (0, 1], or factors that are not finite.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of |dW|^2 to keep must be above 0 and at most 1; got {share:g}.")
    return _truncated(adapter, lambda parts: parts.rank(share))


def _truncated(adapter: StoredAdapter, rank_of: Callable[[Decomposition], int]) -> Truncated:
    require_finite(adapter)
    kept: dict[str, Factors] = {}
    left_out = total = 0.0
    for module, factors in adapter.factors.items():
        parts = decompose(factors)
        rank = min(max(1, rank_of(parts)), len(parts.values))
        energies = parts.values.square()
        left_out, total = left_out + float(energies[rank:].sum()), total + float(energies.sum())
        root = parts.values[:rank].sqrt()
        length = torch.where(root > 0, root, 1.0)  # A and B both 0 would never train again
        a, b = length[:, None] * parts.right[:, :rank].T, parts.left[:, :rank] * root
        dtype = torch.float64 if factors.a.dtype == torch.float64 else torch.float32
        kept[module] = Factors(a.to(dtype), b.to(dtype), 1.0)
    ranks = {module.removeprefix(PREFIX): len(own.a) for module, own in kept.items()}
    error = math.sqrt(left_out / total) if total > 0 else 0.0
    return Truncated(adapter_of(kept, adapter.config), error, ranks)
