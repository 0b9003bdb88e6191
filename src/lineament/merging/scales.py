"""The best pair of scales: chosen on validation examples, reported on held-out ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lineament.merging.interference import Composition


@dataclass(frozen=True)
class BestScales:
    """The pair of the grid with the lowest mean of both data sets' validation losses.

    Attributes:
        first, second: the scales of A and B; 0 says that the other adapter alone is better than any sum.
        place: their places in the grid.
        loss: that mean, nats per target token.
        at_edge: whether a scale is the largest of the grid, so that a larger one may be better.
    """

    first: float
    second: float
    place: tuple[int, int]
    loss: float
    at_edge: bool


def best_scales(composition: Composition) -> BestScales:
    """Choose the pair of scales; held-out examples have no say in it."""
    means = [meeting.grid[..., meeting.validation].mean(dim=-1) for meeting in composition.meetings]
    mean = (means[0] + means[1]) / 2
    mean = torch.where(mean.isfinite(), mean, torch.inf)
    row, column = divmod(int(mean.argmin()), mean.shape[1])
    scales, last = composition.scales, len(composition.scales) - 1
    return BestScales(scales[row], scales[column], (row, column), float(mean[row, column]), last in (row, column))
