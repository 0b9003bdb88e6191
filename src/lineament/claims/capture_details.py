"""Statistics of `basis_capture` records beside their captures: what every basis holds, and whether capture predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from lineament.claims.evidence import WHOLE, Evidence
from lineament.records import Record

# Fewer bases rank as they like; random directions are left out, since every basis beats them.
MIN_BASES = 8
NOT_COMPARED = ("random",)


def rank_correlation(record: Record, rank: int) -> float | None:
    """Return Spearman's correlation over bases of one rank: whole capture with minus the loss after training inside.

    None where fewer than `MIN_BASES` bases have both, or all of them tie.
    """
    captures, losses = [], []
    for trained in record.select("trained_inside", rank=rank, statistic="loss"):
        value = record.value("capture", **WHOLE, basis=trained.labels["basis"], rank=rank)
        if value is not None and trained.value is not None and trained.labels["basis"] not in NOT_COMPARED:
            captures.append(value)
            losses.append(trained.value)
    if len(captures) < MIN_BASES:
        return None
    correlation = float(stats.spearmanr(captures, [-loss for loss in losses]).statistic)
    return correlation if np.isfinite(correlation) else None


def capture_details(e: Evidence) -> dict[str, Any]:
    """Return means over seeds: definition -> basis -> rank -> capture, and the accuracy after training inside."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in e.of("basis_capture").values():
        for q in record.select("capture", at="T", space_of="parameters"):
            if q.value is not None:
                key = (str(q.labels["definition"]), str(q.labels["basis"]), str(q.labels["rank"]))
                values.setdefault(key, []).append(q.value)
        for q in record.select("trained_inside", statistic="accuracy"):
            if q.value is not None:
                key = ("trained_inside_accuracy", str(q.labels["basis"]), str(q.labels["rank"]))
                values.setdefault(key, []).append(q.value)
    details: dict[str, Any] = {}
    for (kind, basis, rank), of_seeds in values.items():
        details.setdefault(kind, {}).setdefault(basis, {})[rank] = float(np.mean(of_seeds))
    return details
