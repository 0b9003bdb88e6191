"""Gradients along a recorded way, made again where none were recorded: advice on refreshing needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lineament.advice.inside import gradient_at
from lineament.advice.run import CheckedRun
from lineament.errors import InputError
from lineament.measurements.recording import retention
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Quantity
from lineament.vectors.trajectory_gram import TrajectoryGram

# Label of figures of gradients that were not recorded.
MADE_AGAIN = {"made": "again"}
# Largest set of gradients that is held, in float32.
MAX_BYTES = 4 * 2**30
COLUMNS = 2**16


def retention_made_again(run: CheckedRun, options: AnalysisOptions, tell: Callable[[], None]) -> list[Quantity]:
    """Return the retention figures of the gradients that the training has at each recorded point.

    Args:
        tell: told of each gradient.
    """
    n_rows, n_params = run.trajectory.n_steps, run.space.n_params
    if (needed := 4 * n_rows * n_params) > MAX_BYTES:
        return _undefined(f"{n_rows} gradients of {n_params:,} parameters would take {needed / 2**30:.0f} GiB")
    rows = torch.empty(n_rows, n_params)
    theta, began = run.start.clone(), (0, *run.trajectory.steps)
    with run.space.restored():
        for number in range(n_rows):
            run.space.write(theta)
            gradient = gradient_at(run, began[number])
            if gradient is None:
                return _undefined(f"the gradient of step {began[number] + 1} is not finite")
            rows[number] = gradient.cpu()
            theta += run.trajectory.updates(number + 1, number + 1).rows[0]
            tell()
    gram = TrajectoryGram(_gram(rows), run.space.space)
    try:
        moving = MovingRows.of(gram, run.trajectory.steps, None, f"gradients of {run.trajectory.folder}")
    except InputError as error:
        return _undefined(str(error))
    return [_marked(one) for one in retention.retention_figures(moving.evenly_spaced(), options)]


def _gram(rows: Tensor) -> np.ndarray:
    """Return all inner products in float64, a range of parameters at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for first in range(0, rows.shape[1], COLUMNS):
        exact = rows[:, first : first + COLUMNS].double()
        total += exact @ exact.T
    return total.numpy()


def _undefined(reason: str) -> list[Quantity]:
    return [replace(_marked(one), reason=reason) for one in retention.not_recorded()]


def _marked(one: Quantity) -> Quantity:
    return replace(one, labels={**one.labels, **MADE_AGAIN})
