"""Drift of the plane that successive recorded rows span: overlap against lag, and its half-life.

A window of w rows gives two planes, of its even and its odd rows. overlap(t, t') is the mean over planes of one window
with planes of the other; the ceiling is the geometric mean of the two windows' own overlaps, equally many rows in each
plane; floor k / n_params (protocol, section 3). Rows are minibatch gradients where they were recorded, else updates.
Updates that are near in time share momentum: they are compared at lags >= w + 3 / (1 - beta1) only, and their ceiling,
which shares it too, makes their half-life a lower bound. An overlap counts every direction alike: what an old plane
still holds of later gradients is their `retention`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lineament.measurements.basis_drift import NO_CEILING
from lineament.measurements.recording.lags import PHASES, Window, by_lag, in_phase, lag_quantity, windows_of
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.staleness import Estimated
from lineament.records import Label, Quantity, is_told
from lineament.vectors.trajectory_gram import TrajectoryGram

DEFINITIONS = {
    "plane_overlap": "|U_t^T U_t'|_F^2 / k of planes of recorded rows (gradients or updates) in windows a lag apart, "
    "mean over starting times (protocol 3); null: the floor k / n_params; blind: of a blind run's updates",
    "plane_ceiling": "geometric mean of the two windows' own overlaps, between planes of their even and odd rows",
    "plane_rescaled": "(overlap - floor) / (ceiling - floor); left out where the ceiling is within 3 standard errors "
    "of the floor; noise can put it above 1",
    "plane_half_life": "lag in optimizer steps at which the isotonic fit of the rescaled overlap first falls to 1/2; "
    "error: jackknife over starting times of this run; early: windows that start in the first third, late: later",
}


@dataclass(frozen=True)
class Scale:
    """What overlaps of one recording are measured against.

    Attributes:
        floor: k / n_params, the overlap of two random planes.
        spread: standard deviation of single ceilings.
        steps_per_row: optimizer steps between rows.
    """

    floor: float
    spread: float
    steps_per_row: int


@dataclass(frozen=True)
class WindowPair:
    """Two compared windows, with lag in rows."""

    start: int
    lag: int
    overlap: float
    ceiling: float


def plane_figures(
    gram: TrajectoryGram,
    rows: str,
    steps_per_row: int | None,
    gap: int,
    options: AnalysisOptions,
    blind: TrajectoryGram | None = None,
) -> list[Quantity]:
    """Overlap against lag and half-lives of one recording.

    Args:
        rows: what the Gram matrix is of, `gradients` or `updates`.
        steps_per_row: optimizer steps between rows; None if they differ.
        blind: of a blind run at the same rows, whose windows are compared alike; None where there is none.
        gap: rows beyond the window that share something with it (momentum).
    """
    options = replace(options, window=fitting_window(gram.n_steps, gap, options))
    which: dict[str, Label] = {"rows": rows, "width": options.window, "rank": options.plane_rank}
    shortest = options.window + gap
    if steps_per_row is None:
        return _undefined(which, "the recorded rows are not equally many steps apart")
    if gram.n_steps < options.window + 2 * shortest:
        needed = options.window + 2 * shortest
        reason = f"{gram.n_steps} rows, where planes of rank {options.plane_rank} and this momentum need {needed}"
        return _undefined(which, reason)
    floor = options.plane_rank / gram.space.n_params
    pairs = compared_windows(gram, options, shortest)
    scale = Scale(floor, _spread(pairs), steps_per_row)
    by_chance = compared_windows(blind, options, shortest) if blind is not None else []
    figures: list[Quantity] = []
    for phase in PHASES:
        own, chance = (in_phase(some, phase, gram.n_steps) for some in (pairs, by_chance))
        labels: dict[str, Label] = {**which, "from": phase}
        figures += _lag_figures(own, chance, scale, labels)
        figures.append(_half_life(own, scale, labels))
    return figures


def fitting_window(n_rows: int, gap: int, options: AnalysisOptions) -> int:
    """The options' window, or in a short recording the longest of which three lie `gap` rows apart.

    It has at least as many rows as its two planes have directions together.
    """
    fitting = (n_rows - 2 * gap) // 3 // 2 * 2
    return max(2 * options.plane_rank, min(options.window, fitting))


def compared_windows(gram: TrajectoryGram, options: AnalysisOptions, shortest: int) -> list[WindowPair]:
    """All pairs of windows on an even grid that are at least `shortest` rows apart, up to half of the run."""
    windows = windows_of(gram, options)
    own = {window.start: _overlap(window, window, crossed=False) for window in windows}
    found = []
    for i, first in enumerate(windows):
        for second in windows[i + 1 :]:
            lag = second.start - first.start
            if shortest <= lag <= max(shortest, gram.n_steps // 2):
                ceiling = float(np.sqrt(own[first.start] * own[second.start]))
                found.append(WindowPair(first.start, lag, _overlap(first, second, crossed=True), ceiling))
    return found


def _overlap(first: Window, second: Window, *, crossed: bool) -> float:
    """Mean overlap of the planes of two windows, or of one window's even with its odd plane."""
    chosen = [(i, j) for i in (0, 1) for j in (0, 1)] if crossed else [(0, 1)]
    values = []
    for i, j in chosen:
        rank = min(first.planes[i].rank, second.planes[j].rank)
        values.append(float(np.square(first.rows[i] @ second.planes[j].weights).sum()) / rank)
    return float(np.mean(values))


def _rescaled(pairs: Sequence[WindowPair], floor: float, spread: float) -> tuple[Estimated, float]:
    """(mean rescaled overlap, mean ceiling); no value where the ceiling is within 3 standard errors of the floor.

    Args:
        spread: standard deviation of single ceilings over the whole recording. One lag may have a single pair of
            windows, whose own spread of 0 would let any ceiling pass.
    """
    ceiling = float(np.mean([pair.ceiling for pair in pairs]))
    # windows begin half a window apart, so that two neighbours count for one
    ceiling_error = spread / np.sqrt(max(1.0, len(pairs) / 2))
    room = ceiling - floor
    if not is_told(room, ceiling_error):
        return Estimated(None, reason=NO_CEILING), ceiling
    overlap, error = _mean_overlap(pairs)
    value = (overlap - floor) / room
    stderr = None if error is None else float(np.hypot(error, value * ceiling_error) / room)
    return Estimated(value, stderr), ceiling


def _mean_overlap(pairs: Sequence[WindowPair]) -> tuple[float, float | None]:
    """Mean overlap and its standard error over pairs of windows, of which neighbours share half of their rows."""
    overlaps = np.array([pair.overlap for pair in pairs])
    error = float(overlaps.std(ddof=1) / np.sqrt(len(pairs) / 2)) if len(pairs) > 1 else None
    return float(overlaps.mean()), error


def _spread(pairs: Sequence[WindowPair]) -> float:
    """Standard deviation of the pairs' ceilings; infinite for a single pair, which tells none."""
    return float(np.std([pair.ceiling for pair in pairs], ddof=1)) if len(pairs) > 1 else math.inf


def _lag_figures(
    pairs: Sequence[WindowPair], by_chance: Sequence[WindowPair], scale: Scale, which: dict[str, Label]
) -> list[Quantity]:
    figures = []
    blind = {lag: _mean_overlap(own)[0] for lag, own in by_lag(by_chance).items()}
    for lag, own in by_lag(pairs).items():
        labels: dict[str, Label] = {**which, "lag": lag * scale.steps_per_row}
        overlap, error = _mean_overlap(own)
        rescaled, ceiling = _rescaled(own, scale.floor, scale.spread)
        figures += [
            Quantity(
                "plane_overlap",
                overlap,
                "fraction",
                stderr=error,
                null=scale.floor,
                blind=blind.get(lag),
                labels=labels,
            ),
            Quantity("plane_ceiling", ceiling, "fraction", labels=labels),
            Quantity(
                "plane_rescaled",
                rescaled.value,
                "fraction",
                stderr=rescaled.stderr,
                labels=labels,
                reason=rescaled.reason,
            ),
        ]
    return figures


def _half_life(pairs: Sequence[WindowPair], scale: Scale, labels: dict[str, Label]) -> Quantity:
    def height(own: Sequence[WindowPair]) -> float | None:
        return _rescaled(own, scale.floor, scale.spread)[0].value

    return lag_quantity("plane_half_life", pairs, height, 0.5, scale.steps_per_row, labels)


def _undefined(which: dict[str, Label], reason: str) -> list[Quantity]:
    return [Quantity("plane_half_life", None, "steps", labels={**which, "from": p}, reason=reason) for p in PHASES]
