"""How stale a direction of step t is at step t': cosines of displacements, and of mean rows, of one run.

A task vector of step t is theta_t - theta_0. Null: sqrt(t / t'), the expected cosine of a sum of independent updates
with its continuation. A single update or gradient is mostly noise: their means over a window are compared, and the
cosine is given over the ceiling, the geometric mean of the two windows' own even-odd cosines. What such a weight
step does to activations (its steering vector) is its image under the Jacobian, so that it ages at least as the step
does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity
from lineament.vectors.trajectory_gram import TrajectoryGram

DEFINITIONS = {
    "task_vector_cosine": "cosine of theta_t - theta_0 with theta_t' - theta_0; null: sqrt(t / t'), independent "
    "updates",
    "task_vector_length": "|theta_t - theta_0| over |theta_end - theta_0|; null: sqrt(t / T), independent updates",
    "direction_cosine": "cosine of the mean recorded row (gradient or update) in a window at t with that at t', over "
    "the geometric mean of the two windows' own even-odd cosines; null: 0, unrelated directions",
}


def task_vector_figures(
    gram: TrajectoryGram, steps: Sequence[int], options: AnalysisOptions, space_of: str
) -> list[Quantity]:
    """Cosines and lengths of displacements at the options' times."""
    rows = list(_times(options, gram.n_steps).items())
    whole = gram.displacement(1, gram.n_steps)
    figures = []
    for i, (share, first) in enumerate(rows):
        vector = gram.displacement(1, first)
        length = np.sqrt(_ratio(gram.squared_norm(vector), gram.squared_norm(whole)))
        labels: dict[str, Label] = {"share": share, "step": steps[first - 1], "space_of": space_of}
        null = float(np.sqrt(first / gram.n_steps))
        figures.append(Quantity("task_vector_length", float(length), "fraction", null=null, labels=labels))
        for at_share, second in rows[i + 1 :]:
            value = cosine(gram, vector, gram.displacement(1, second))
            labels = {**_when(share, at_share, steps[first - 1], steps[second - 1]), "space_of": space_of}
            figures.append(
                Quantity(
                    "task_vector_cosine",
                    value,
                    "cosine",
                    stderr=None,
                    null=float(np.sqrt(first / second)),
                    labels=labels,
                )
            )
    return figures


def step_figures(gram: TrajectoryGram, steps: Sequence[int], rows: str, options: AnalysisOptions) -> list[Quantity]:
    """Cosines of mean rows at the options' times, over their ceilings."""
    width = options.window
    ends = [(share, end) for share, end in _times(options, gram.n_steps).items() if end >= width]
    figures = []
    for i, (share, first) in enumerate(ends):
        for at_share, second in ends[i + 1 :]:
            if second - first < width:
                continue
            labels = {**_when(share, at_share, steps[first - 1], steps[second - 1]), "rows": rows, "width": width}
            value, reason = _rescaled_cosine(gram, first, second, width)
            figures.append(Quantity("direction_cosine", value, "cosine", null=0.0, labels=labels, reason=reason))
    return figures


def cosine(gram: TrajectoryGram, first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors given as weights over rows; nan if one is zero."""
    lengths = gram.squared_norm(first) * gram.squared_norm(second)
    return float(first @ gram.gram @ second / np.sqrt(lengths)) if lengths > 0 else float("nan")


def _rescaled_cosine(gram: TrajectoryGram, first: int, second: int, width: int) -> tuple[float | None, str | None]:
    """Cosine over ceiling of the windows of `width` rows that end at two rows."""
    halves = [[_mean(gram, end - width + offset, end) for offset in (0, 1)] for end in (first, second)]
    own = [cosine(gram, even, odd) for even, odd in halves]
    if not min(own) > 0:
        return None, "the even and odd rows of a window do not agree on a direction"
    crossed = np.mean([cosine(gram, one, other) for one in halves[0] for other in halves[1]])
    return float(crossed / np.sqrt(own[0] * own[1])), None


def _mean(gram: TrajectoryGram, start: int, end: int) -> np.ndarray:
    """Weights of the mean of every other row from `start` (0-based) to `end`."""
    weights = np.zeros(gram.n_steps)
    weights[start:end:2] = 1.0
    weights /= weights.sum()
    return weights


def _when(share: float, at_share: float, step: int, at: int) -> dict[str, Label]:
    """Both times, as shares of the run, by which replicates are compared, and as steps of this one."""
    return {"share": share, "at_share": at_share, "step": step, "at": at}


def _times(options: AnalysisOptions, n_rows: int) -> dict[float, int]:
    """Share of the run -> row, where rows differ."""
    by_row = {max(1, round(share * n_rows)): share for share in sorted(options.times)}
    return {share: row for row, share in by_row.items()}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
