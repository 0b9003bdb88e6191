"""Effective ranks of a spectrum: how many directions its energy is spread over, or needs (protocol, section 1)."""

from __future__ import annotations

import numpy as np

STATISTICS = ("participation_ratio", "entropy_rank", "k90", "stable_rank")
# Sums of shares that should be equal to a share differ from it by rounding.
ROUNDING = 1e-12


def spectrum_statistics(energies: np.ndarray) -> dict[str, float]:
    """Compute the effective ranks of a spectrum.

    Args:
        energies: squared singular values (n,), any order.

    Returns:
        Statistic -> directions; all nan for energies that are all zero, which have no rank.
    """
    p = np.sort(np.clip(energies, 0, None))[::-1]
    if not p.sum() > 0:
        return dict.fromkeys(STATISTICS, float("nan"))
    p = p / p.sum()
    inside = p[p > 0]
    return {
        "participation_ratio": float(1 / np.square(p).sum()),
        "entropy_rank": float(np.exp(-(inside * np.log(inside)).sum())),
        "k90": float(rank_for_share(p, 0.9)),
        "stable_rank": float(1 / p[0]),
    }


def rank_for_share(energies: np.ndarray, share: float) -> int:
    """Return the fewest directions that hold a share of all energy; 0 where there is none.

    Args:
        energies: squared singular values (n,), largest first. share: in (0, 1].
    """
    total = float(energies.sum())
    if not total > 0:
        return 0
    held = np.cumsum(energies) / total
    return min(int(np.searchsorted(held, share - ROUNDING) + 1), len(energies))
