"""How stale a direction of step t is at step t': cosines of displacements, and of mean rows, of one run.

A task vector of step t is theta_t - theta_0. Null: sqrt(t / t'), the expected cosine of a sum of independent updates
with its continuation; beside it the value of a blind run of the same optimizer. A single update or gradient is mostly
noise: their means over a window are compared. The noise that is left in a mean makes its cosine with another too small;
where the rows of a window tell a direction from noise, the cosine is given corrected for that too (the correction for
attenuation of Spearman, 1904), with a standard error.
What such a weight step does to activations (its steering vector) is its image under the Jacobian, so that it ages at
least as the step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity, is_told
from lineament.vectors.trajectory_gram import TrajectoryGram

# Fewer rows have no delete-one standard error worth the name: the rule would let noise pass.
MIN_ROWS = 4
NO_DIRECTION = "a window's mean is within 3 standard errors of noise alone"
SHARED_NOISE = "neighbouring updates share momentum, which no correction tells from a direction; record gradients"
DEFINITIONS = {
    "task_vector_cosine": "cosine of theta_t - theta_0 with theta_t' - theta_0; null: sqrt(t / t'), independent "
    "updates",
    "task_vector_length": "|theta_t - theta_0| over |theta_end - theta_0|; null: sqrt(t / T), independent updates",
    "direction_cosine": "cosine of the mean recorded row (gradient or update) in a window at t with that at t'; error: "
    "jackknife over rows",
    "direction_cosine_corrected": "<m, m'> / sqrt(|m|^2 |m'|^2) for the expected rows m, m' of the two windows, |m|^2 "
    "as the mean inner product of two different rows of a window, which their noise leaves alone (Spearman 1904); left "
    "out where |m|^2 is below 3 of its jackknife standard errors; error: jackknife over rows",
}


def task_vector_figures(run: MovingRows, options: AnalysisOptions, space_of: str) -> list[Quantity]:
    """Cosines and lengths of displacements at the options' times, beside those of a blind run."""
    rows = list(_times(options, run.n_rows).items())
    figures = []
    for i, (share, first) in enumerate(rows):
        labels: dict[str, Label] = {"share": share, "step": run.steps[first - 1], "space_of": space_of}
        lengths = [_length(gram, first) for gram in (run.gram, run.blind) if gram is not None]
        figures.append(
            Quantity(
                "task_vector_length",
                lengths[0],
                "fraction",
                null=float(np.sqrt(first / run.n_rows)),
                blind=lengths[1] if len(lengths) > 1 else None,
                labels=labels,
            )
        )
        for at_share, second in rows[i + 1 :]:
            cosines = [_displaced(gram, first, second) for gram in (run.gram, run.blind) if gram is not None]
            labels = {**_when(share, at_share, run.steps[first - 1], run.steps[second - 1]), "space_of": space_of}
            figures.append(
                Quantity(
                    "task_vector_cosine",
                    cosines[0],
                    "cosine",
                    null=float(np.sqrt(first / second)),
                    blind=cosines[1] if len(cosines) > 1 else None,
                    labels=labels,
                )
            )
    return figures


def _length(gram: TrajectoryGram, row: int) -> float:
    """|theta_row - theta_0| over the whole run's."""
    whole = gram.squared_norm(gram.displacement(1, gram.n_steps))
    return float(np.sqrt(_ratio(gram.squared_norm(gram.displacement(1, row)), whole)))


def _displaced(gram: TrajectoryGram, first: int, second: int) -> float:
    return cosine(gram, gram.displacement(1, first), gram.displacement(1, second))


def step_figures(run: MovingRows, rows: str, options: AnalysisOptions, *, independent: bool) -> list[Quantity]:
    """Cosines of mean rows at the options' times, as they are and corrected for the noise of the means.

    Args:
        run: the rows that are averaged. rows: what they are, `gradients` or `updates`.
        independent: whether the noise of different rows is; that of updates under momentum is shared by neighbours.
    """
    width, gram = options.window, run.gram
    ends = [(share, end) for share, end in _times(options, gram.n_steps).items() if end >= width]
    figures = []
    for i, (share, first) in enumerate(ends):
        for at_share, second in ends[i + 1 :]:
            if second - first < width:
                continue
            labels = {**_when(share, at_share, run.steps[first - 1], run.steps[second - 1]), "rows": rows}
            labels["width"] = width
            pair = WindowMeans.of(gram, first, second, width)
            chance = None if run.blind is None else WindowMeans.of(run.blind, first, second, width).cosine().value
            figures.append(replace(_as_quantity("direction_cosine", pair.cosine(), labels), blind=chance))
            corrected = pair.corrected() if independent else Estimated(None, reason=SHARED_NOISE)
            figures.append(_as_quantity("direction_cosine_corrected", corrected, labels))
    return figures


@dataclass(frozen=True)
class Estimated:
    """A number with its standard error, or the reason why there is none."""

    value: float | None
    stderr: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class WindowMeans:
    """Inner products of the rows of two windows that share none, from which their mean directions are compared.

    Attributes:
        own: Gram matrices of the rows of each window, (n_rows, n_rows).
        crossed: inner products of rows of the first with rows of the second, (n_rows, n_rows).
    """

    own: tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n n"]]
    crossed: Float64[np.ndarray, "n n"]

    @classmethod
    def of(cls, gram: TrajectoryGram, first: int, second: int, width: int) -> WindowMeans:
        """Take the windows of `width` rows that end at two rows, counted from 1."""
        one, two = (slice(end - width, end) for end in (first, second))
        return cls((gram.gram[one, one], gram.gram[two, two]), gram.gram[one, two])

    def cosine(self) -> Estimated:
        """Return the cosine of the two means, and its jackknife standard error over rows."""
        squared = [(own.mean(), _means_without(own)) for own in self.own]
        return self._ratio(squared)

    def corrected(self) -> Estimated:
        """Return the cosine of the two expected rows: the squared length of each mean without its noise.

        It is estimated by the mean inner product of two different rows of a window, and left out where that is below
        3 of its standard errors. Noise can put it beyond 1; then 1 is given, and the reason says so.
        """
        if len(self.crossed) < MIN_ROWS:
            return Estimated(None, reason=f"a window of {len(self.crossed)} rows tells no noise; {MIN_ROWS} do")
        squared = [_pair_mean(own) for own in self.own]
        for value, without in squared:
            if not is_told(value, jackknife_stderr(without)) or not min(without) > 0:
                return Estimated(None, reason=NO_DIRECTION)
        found = self._ratio(squared)
        if found.value is None or abs(found.value) <= 1:
            return found
        return replace(
            found, value=float(np.sign(found.value)), reason=f"held to its bound; estimated {found.value:.3g}"
        )

    def _ratio(self, squared: Sequence[tuple[float, np.ndarray]]) -> Estimated:
        """Divide the mean inner product across by the root of two squared lengths, each with its delete-one values."""
        lengths = [value for value, _ in squared]
        if not min(lengths) > 0:
            return Estimated(None, reason="the mean of a window is zero")
        inner, n = float(self.crossed.mean()), len(self.crossed)
        variance = 0.0
        for (_, without), other, sums in zip(squared, reversed(lengths), self._sums(), strict=True):
            if n < 2 or not min(without) > 0:
                return Estimated(inner / float(np.sqrt(np.prod(lengths))))
            left = (self.crossed.sum() - sums) / (n * (n - 1)) / np.sqrt(without * other)
            variance += jackknife_stderr(left) ** 2
        return Estimated(inner / float(np.sqrt(np.prod(lengths))), float(np.sqrt(variance)))

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        return self.crossed.sum(axis=1), self.crossed.sum(axis=0)


def jackknife_stderr(without: np.ndarray) -> float:
    """Return the standard error that delete-one values of a statistic give."""
    n = len(without)
    return float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))


def _means_without(own: np.ndarray) -> np.ndarray:
    """Squared length of a window's mean row, without each row in turn."""
    n = len(own)
    if n < 2:
        return np.zeros(n)
    return np.asarray((own.sum() - 2 * own.sum(axis=1) + np.diag(own)) / (n - 1) ** 2)


def _pair_mean(own: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean inner product of two different rows, free of the rows' own noise; and without each row in turn."""
    n, beside = len(own), own.sum(axis=1) - np.diag(own)
    return float(beside.sum()) / (n * (n - 1)), (beside.sum() - 2 * beside) / ((n - 1) * (n - 2))


def _as_quantity(name: str, found: Estimated, labels: dict[str, Label]) -> Quantity:
    return Quantity(name, found.value, "cosine", stderr=found.stderr, labels=labels, reason=found.reason)


def cosine(gram: TrajectoryGram, first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors given as weights over rows; nan if one is zero."""
    lengths = gram.squared_norm(first) * gram.squared_norm(second)
    return float(first @ gram.gram @ second / np.sqrt(lengths)) if lengths > 0 else float("nan")


def _when(share: float, at_share: float, step: int, at: int) -> dict[str, Label]:
    """Both times, as shares of the run, by which replicates are compared, and as steps of this one."""
    return {"share": share, "at_share": at_share, "step": step, "at": at}


def _times(options: AnalysisOptions, n_rows: int) -> dict[float, int]:
    """Share of the run -> row, where rows differ."""
    by_row = {max(1, round(share * n_rows)): share for share in sorted(options.times)}
    return {share: row for row, share in by_row.items()}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
