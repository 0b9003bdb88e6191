"""What a plane of recorded gradients is still good for some steps later: the energy of later gradients that it holds.

retention(t, t') = sum_i |U_t^T g_i|^2 / sum_i |g_i|^2 over the gradients of a window at t', with U_t the rank-k plane
of the even or of the odd gradients of a window at t (protocol, section 3). Ceiling: a fresh plane of t', from the even
gradients of its window judged on the odd ones, and the other way round. Floor: k / n_params. The overlap of two planes
counts every direction alike; where gradients are strong in steady directions and weak in turning ones, it halves while
the old plane still holds nearly all that matters. Advice on refreshing therefore comes from here alone, and is untested
until a training was run with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lineament.measurements.crossings import REFRESH_SHARES
from lineament.measurements.recording.lags import PHASES, Window, by_lag, in_phase, lag_quantity, windows_of
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.planes import fitting_window
from lineament.records import Label, Quantity, is_told
from lineament.vectors.trajectory_gram import TrajectoryGram

NO_GRADIENTS = "no gradients were recorded, and retention is of gradients; record with gradients=True"
NO_CEILING = "a fresh plane holds no more than a random one, to within 3 standard errors"
DEFINITIONS = {
    "retention": "share of the energy of recorded gradients in a window that a plane of gradients a lag earlier holds, "
    "sum |U^T g|^2 / sum |g|^2 (protocol 3); ceiling: a plane of that window, judged on other gradients; null: the "
    "floor k / n_params, a random plane",
    "retention_share": "retention over what a fresh plane holds, ratio of means over starting times; left out where a "
    "fresh plane is within 3 standard errors of a random one",
    "refresh_lag": "lag in optimizer steps at which the isotonic fit of the retention share first falls to this share; "
    "error: jackknife over starting times of this run; early: windows that start in the first third, late: later",
}


@dataclass(frozen=True)
class Kept:
    """What a plane of one window holds of another's gradients, with the lag in rows.

    Attributes:
        retained: share of the later window's energy inside the earlier plane.
        fresh: share inside a plane of the later window itself, judged on other gradients.
    """

    start: int
    lag: int
    retained: float
    fresh: float


def retention_figures(run: MovingRows, options: AnalysisOptions) -> list[Quantity]:
    """Retention against lag, and the lags at which a plane should be made anew.

    Args:
        run: recorded gradients, equally many steps apart.
    """
    gram, per_row = run.gram, run.steps_per_row
    options = replace(options, window=fitting_window(gram.n_steps, 0, options))
    which: dict[str, Label] = {"rows": "gradients", "width": options.window, "rank": options.plane_rank}
    if per_row is None:
        return _undefined(which, "the recorded rows are not equally many steps apart")
    if gram.n_steps < 3 * options.window:
        return _undefined(which, f"{gram.n_steps} rows, where planes of rank {options.plane_rank} need more")
    floor, pairs = options.plane_rank / gram.space.n_params, compared(gram, options)
    spread = float(np.std([pair.fresh for pair in pairs], ddof=1)) if len(pairs) > 1 else np.inf
    figures: list[Quantity] = []
    for phase in PHASES:
        own = in_phase(pairs, phase, gram.n_steps)
        labels: dict[str, Label] = {**which, "from": phase}
        figures += _lag_figures(own, floor, spread, per_row, labels)
        for share in REFRESH_SHARES:
            where = {**labels, "share": share}
            figures.append(
                lag_quantity("refresh_lag", own, lambda some: _share(some, floor, spread), share, per_row, where)
            )
    return figures


def not_recorded() -> list[Quantity]:
    """Return what stands in the record of a recording without gradients."""
    return _undefined({"rows": "gradients"}, NO_GRADIENTS)


def compared(gram: TrajectoryGram, options: AnalysisOptions) -> list[Kept]:
    """Compare all pairs of windows that share no row, up to half of the run apart."""
    width, energy = options.window, np.diag(gram.gram)
    windows = windows_of(gram, options)
    fresh = {window.start: _fresh(window, energy, width) for window in windows}
    found = []
    for i, first in enumerate(windows):
        for second in windows[i + 1 :]:
            lag = second.start - first.start
            if width <= lag <= max(width, gram.n_steps // 2):
                retained = _held(first, energy, slice(second.start, second.start + width))
                found.append(Kept(first.start, lag, retained, fresh[second.start]))
    return found


def _held(window: Window, energy: np.ndarray, rows: slice) -> float:
    """Mean share of the energy of some rows inside the two planes of a window."""
    total = float(energy[rows].sum())
    return float(np.mean([np.square(values[:, rows]).sum() / total for values in window.rows]))


def _fresh(window: Window, energy: np.ndarray, width: int) -> float:
    """Mean share of a window's odd rows inside its even plane and of its even rows inside its odd one."""
    shares = []
    for values, offset in zip(window.rows, (1, 0), strict=True):
        rows = slice(window.start + offset, window.start + width, 2)
        shares.append(float(np.square(values[:, rows]).sum() / energy[rows].sum()))
    return float(np.mean(shares))


def _share(pairs: Sequence[Kept], floor: float, spread: float) -> float | None:
    """Retention over the fresh plane's; None where that is not told from a random plane's."""
    fresh = float(np.mean([pair.fresh for pair in pairs]))
    # windows begin half a window apart, so that two neighbours count for one
    if not is_told(fresh - floor, spread / np.sqrt(max(1.0, len(pairs) / 2))):
        return None
    return float(np.mean([pair.retained for pair in pairs])) / fresh


def _lag_figures(
    pairs: Sequence[Kept], floor: float, spread: float, steps_per_row: int, which: dict[str, Label]
) -> list[Quantity]:
    figures = []
    for lag, own in by_lag(pairs).items():
        labels: dict[str, Label] = {**which, "lag": lag * steps_per_row}
        kept = np.array([pair.retained for pair in own])
        error = float(kept.std(ddof=1) / np.sqrt(len(own) / 2)) if len(own) > 1 else None
        fresh, share = float(np.mean([pair.fresh for pair in own])), _share(own, floor, spread)
        scaled = None if error is None or share is None else error / fresh
        reason = NO_CEILING if share is None else None
        figures += [
            Quantity(
                "retention", float(kept.mean()), "fraction", stderr=error, null=floor, ceiling=fresh, labels=labels
            ),
            Quantity("retention_share", share, "fraction", stderr=scaled, labels=labels, reason=reason),
        ]
    return figures


def _undefined(which: dict[str, Label], reason: str) -> list[Quantity]:
    return [
        Quantity("refresh_lag", None, "steps", labels={**which, "from": phase, "share": share}, reason=reason)
        for phase in PHASES
        for share in REFRESH_SHARES
    ]
