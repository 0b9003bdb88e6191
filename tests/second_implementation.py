"""A second implementation of what is read from recorded rows: numpy alone, in parameter space, nothing of the package.

It takes other ways on purpose: QR of the rows instead of eigenvectors of a Gram matrix, pool-adjacent-violators instead
of scipy's isotonic regression, and Adam's recursions written out as weighted sums.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


def recorded_rows(recording: Path) -> np.ndarray:
    """All updates of a recording, (n_steps, n_params) float64."""
    files = sorted(recording.glob("rows-*.safetensors"))
    return np.concatenate([load_file(file)["rows"] for file in files]).astype(np.float64)


def record(run: Path, measurement: str, target: str, seed: int) -> dict[str, Any]:
    """A record as its JSON file has it."""
    body: dict[str, Any] = json.loads((run / "records" / f"{measurement}-{target}-seed{seed}.json").read_text())
    return body


def captured(rows: np.ndarray, chosen: np.ndarray, vector: np.ndarray) -> float:
    """|Q^T d|^2 / |d|^2 for the span of the chosen rows, by QR."""
    q, _ = np.linalg.qr(rows[chosen].T)
    return float(np.square(q.T @ vector).sum() / np.square(vector).sum())


def left_of_displacement(rows: np.ndarray, end: int, chosen: np.ndarray, definition: str, gap: int = 10) -> np.ndarray:
    """The vector that a capture is of: D, D less the basis' own updates, or less those of the first k + gap too."""
    kept = np.zeros(len(rows), dtype=bool)
    kept[:end] = True
    if definition != "whole":
        kept[chosen] = False
    if definition == "rest_gap":
        kept[: len(chosen) + gap] = False
    return np.asarray(rows[kept].sum(axis=0))


def decreasing_fit(values: list[float]) -> list[float]:
    """The decreasing sequence nearest to `values`, by pooling neighbours that rise."""
    blocks: list[list[float]] = []  # mean, count
    for value in values:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (mean, count), (last, n) = blocks[-2], blocks.pop()
            blocks[-1] = [(mean * count + last * n) / (count + n), count + n]
    return [mean for mean, count in blocks for _ in range(int(count))]


def half_life(lags: list[float], rescaled: list[float], level: float = 0.5) -> float | None:
    """Where the decreasing fit, from (0, 1) and at most 1, first falls to the level."""
    x, y = 0.0, 1.0
    for lag, value in zip(lags, decreasing_fit(rescaled), strict=True):
        now = min(value, 1.0)
        if now <= level:
            return x + (y - level) / (y - now) * (lag - x)
        x, y = lag, now
    return None


def blind_adam_rows(
    n_steps: int, n_params: int, beta1: float, beta2: float, eps: float, generator: np.random.Generator
) -> np.ndarray:
    """Updates of Adam with step size 1 on Gaussian noise, from weighted sums over all earlier gradients."""
    g = generator.standard_normal((n_steps, n_params))
    steps = np.arange(1, n_steps + 1)

    def averages(beta: float, x: np.ndarray) -> np.ndarray:
        ages = steps[:, None] - steps[None, :]
        weights = np.where(ages >= 0, beta ** np.maximum(ages, 0).astype(float), 0.0)
        return np.asarray((weights / weights.sum(axis=1, keepdims=True)) @ x)

    return np.asarray(-averages(beta1, g) / (np.sqrt(averages(beta2, g**2)) + eps))
