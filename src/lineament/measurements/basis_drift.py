"""Drift of the task-gradient basis along the recovery (protocol, section 3).

Quantity: overlap(t, t') = |U_t^T U_t'|_F^2 / k of rank-k bases of fresh minibatch gradients at two steps. Ceiling: the
geometric mean of the two times' split-half overlaps, each part with as many gradients as the bases compared. Floor:
k / n_params. Rescaled: (overlap - floor) / (ceiling - floor). Structured null: the plane of another task at the same
point. Half-life: first crossing of 1/2 by the decreasing isotonic fit of the rescaled overlap against lag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

import numpy as np
from scipy.optimize import isotonic_regression

from lineament.bases import Basis, overlap, principal_angles, top_directions
from lineament.measurements.measurement import Measurement, make_record
from lineament.records import Label, Quantity, Record
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.study.points import DAMAGED, RECOVERED
from lineament.study.study import Study
from lineament.vectors.gradients import group_gradients

NAME = "basis_drift"
LAGS = (1, 2, 5, 10, 20, 50, 100)
# Independent gradient sets per time: three give three split-half overlaps, hence a standard error of the ceiling.
PARTS = 3
RECOVERED_LOSS_SHARE = 0.9
NO_CEILING = "the ceiling is within 3 standard errors of the floor"
DEFINITIONS = {
    "overlap": "|U_t^T U_t'|_F^2 / k of rank-k planes of fresh task gradients at steps t and t + lag (protocol 3)",
    "ceiling": "geometric mean of the two times' split-half overlaps, equally many gradients in each part",
    "floor": "k / n_params: two random planes",
    "rescaled_overlap": "(overlap - floor) / (ceiling - floor); null: another task's plane at the same point",
    "overlap_at_claim_lag": "the rescaled overlap at lag min(100, T / 2), by which the claim is judged",
    "smallest_angle": "smallest principal angle between the two planes",
    "median_angle": "median principal angle between the two planes",
    "half_life": "lag at which the isotonic fit of the rescaled overlap first falls to 1/2, interpolated",
    "drift_rate": "(1 - rescaled overlap) / lag over successive times, before and after 90 % of the loss is recovered",
    "window_overlap": "overlap of planes of w successive updates, at lags >= w + 3 / (1 - beta1) only",
}


@dataclass(frozen=True)
class Pair:
    """Two compared times: lag, overlap, ceiling with its standard error, and angles in degrees."""

    start: int
    lag: int
    overlap: float
    stderr: float
    ceiling: float
    ceiling_stderr: float
    smallest_angle: float
    median_angle: float

    def rescaled(self, floor: float) -> float | None:
        """Return the rescaled overlap; None when the ceiling is within 3 standard errors of the floor."""
        room = self.ceiling - floor
        return (self.overlap - floor) / room if room > 3 * self.ceiling_stderr and room > 0 else None


def measure(study: Study) -> Record:
    """Measure overlap against lag from theta_broken and theta_recovered, half-lives, and drift against loss."""
    if study.curve.recovered_at is None:
        reason = f"not recovered within {study.settings.recovery.steps} steps"
        return make_record(study, NAME, [Quantity("half_life", None, "steps", reason=reason)], DEFINITIONS)
    end = study.recovered_at
    lags = sorted({*lags_up_to(_longest_lag(end)), claim_lag(end)})
    times = {start: [start + lag for lag in lags] for start in (0, end)}
    grid = _even_grid(end)
    every = sorted({0, end, *times[0], *times[end], *grid})
    planes = {time: _planes(study, time, number, len(every)) for number, time in enumerate(every)}
    rank = study.settings.measurement.drift_rank
    floor = rank / study.problem.parameters.n_params
    null = _other_task_null(study, planes[0], floor)
    figures = [Quantity("floor", floor, "fraction")]
    for start, name in ((0, DAMAGED), (end, RECOVERED)):
        pairs = [_compare(planes, start, time - start) for time in times[start] if time in planes]
        figures += _pair_figures(study, pairs, name, floor, null)
        figures.append(_half_life_figure(pairs, name, floor))
        figures += _at_claim_lag(pairs, name, claim_lag(end), floor, null)
    figures += _drift_rates(study, planes, grid, floor) + _windows(study)
    return make_record(study, NAME, figures, DEFINITIONS)


def half_life(lags: np.ndarray, rescaled: np.ndarray) -> float | None:
    """Return where the decreasing isotonic fit, linear between lags from (0, 1), first crosses 1/2, or None."""
    fitted = isotonic_regression(np.asarray(rescaled, dtype=float), increasing=False).x
    x, y = np.concatenate([[0.0], lags]), np.concatenate([[1.0], np.minimum(fitted, 1.0)])
    below = np.flatnonzero(y <= 0.5)
    if len(below) == 0:
        return None
    j = int(below[0])
    return float(x[j - 1] + (y[j - 1] - 0.5) / (y[j - 1] - y[j]) * (x[j] - x[j - 1]))


def lags_up_to(longest: int) -> list[int]:
    """Return the fixed lags below `longest`, and `longest` itself."""
    return sorted({lag for lag in LAGS if lag < longest} | {longest})


def claim_lag(end: int) -> int:
    """Return the lag at which drift is judged: min(100, T / 2)."""
    return max(1, min(100, end // 2))


def _at_claim_lag(pairs: list[Pair], name: str, lag: int, floor: float, null: float | None) -> list[Quantity]:
    value = next(pair.rescaled(floor) for pair in pairs if pair.lag == lag)
    labels: dict[str, Label] = {"from": name, "lag": lag}
    reason = NO_CEILING if value is None else None
    return [Quantity("overlap_at_claim_lag", value, "fraction", null=null, labels=labels, reason=reason)]


def _longest_lag(end: int) -> int:
    """Return half of the recorded run (2 T steps): T, at most 100."""
    return max(1, min(100, end))


def _even_grid(end: int) -> list[int]:
    """Return evenly spaced times over the whole run, for drift rates at one common lag."""
    step = max(1, end // 4)
    return list(range(0, 2 * end + 1, step))


def _planes(study: Study, time: int, number: int, total: int) -> list[Basis]:
    study.progress("drift of the gradient plane", number, total)
    return [_plane(study, study.target, time, part) for part in range(PARTS)]


def _plane(study: Study, task: str, time: int, part: int) -> Basis:
    m = study.settings.measurement
    batch = study.gradient_batch(task, m.drift_gradients, m.minibatch, f"drift {time} {part}")
    with study.problem.parameters.temporarily(study.trajectory.position(time)):
        rows = group_gradients(study.problem, batch, m.minibatch)
    return top_directions(rows, m.drift_rank, f"step {time}")


def _split_overlaps(parts: list[Basis]) -> np.ndarray:
    return np.array([overlap(a, b) for a, b in combinations(parts, 2)])


def _compare(planes: dict[int, list[Basis]], start: int, lag: int) -> Pair:
    first, second = planes[start], planes[start + lag]
    crossed = np.array([overlap(first[i], second[j]) for i, j in permutations(range(PARTS), 2)])
    halves = [_split_overlaps(first), _split_overlaps(second)]
    means = [float(h.mean()) for h in halves]
    errors = [float(h.std(ddof=1) / np.sqrt(len(h))) for h in halves]
    ceiling = float(np.sqrt(means[0] * means[1]))
    relative = [error / mean if mean > 0 else 0.0 for error, mean in zip(errors, means, strict=True)]
    angles = np.degrees(principal_angles(first[0], second[1]).numpy())
    return Pair(
        start,
        lag,
        float(crossed.mean()),
        float(crossed.std(ddof=1) / np.sqrt(len(crossed))),
        ceiling,
        ceiling * 0.5 * float(np.hypot(relative[0], relative[1])),
        float(angles[0]),
        float(np.median(angles)),
    )


def _other_task_null(study: Study, own: list[Basis], floor: float) -> float | None:
    """Return the rescaled overlap of the target's plane at theta_broken with another task's there."""
    others = [task for task in study.problem.tasks if task != study.target]
    if not others:
        return None
    other = [_plane(study, others[0], 0, part) for part in range(PARTS)]
    crossed = np.mean([overlap(a, b) for a in own for b in other])
    ceiling = np.sqrt(_split_overlaps(own).mean() * _split_overlaps(other).mean())
    return float((crossed - floor) / (ceiling - floor)) if ceiling > floor else None


def _pair_figures(study: Study, pairs: list[Pair], name: str, floor: float, null: float | None) -> list[Quantity]:
    figures = []
    for pair in pairs:
        loss = study.curve.loss[pair.start + pair.lag]
        labels: dict[str, Label] = {"from": name, "lag": pair.lag, "loss": loss}
        rescaled = pair.rescaled(floor)
        reason = NO_CEILING if rescaled is None else None
        figures += [
            Quantity("overlap", pair.overlap, "fraction", stderr=pair.stderr, labels=labels),
            Quantity("ceiling", pair.ceiling, "fraction", stderr=pair.ceiling_stderr, labels=labels),
            Quantity("rescaled_overlap", rescaled, "fraction", null=null, labels=labels, reason=reason),
            Quantity("smallest_angle", pair.smallest_angle, "degrees", labels=labels),
            Quantity("median_angle", pair.median_angle, "degrees", labels=labels),
        ]
    return figures


def _half_life_figure(pairs: list[Pair], name: str, floor: float) -> Quantity:
    known = [(pair.lag, value) for pair in pairs if (value := pair.rescaled(floor)) is not None]
    labels: dict[str, Label] = {"from": name}
    if not known:
        return Quantity("half_life", None, "steps", labels=labels, reason="undefined: no ceiling above the floor")
    found = half_life(np.array([lag for lag, _ in known]), np.array([value for _, value in known]))
    reason = None if found is not None else f"> {known[-1][0]} (largest lag; it does not cross)"
    return Quantity("half_life", found, "steps", labels=labels, reason=reason)


def _drift_rates(study: Study, planes: dict[int, list[Basis]], grid: list[int], floor: float) -> list[Quantity]:
    """Measure the mean drift rate over successive times, before and after 90 % of the loss is recovered."""
    loss = np.asarray(study.curve.loss)
    lowest = loss[: study.recovered_at + 1].min()
    share = (loss[0] - loss) / max(loss[0] - lowest, 1e-12)
    reached = int(np.argmax(share >= RECOVERED_LOSS_SHARE))
    rates: dict[str, list[float]] = {"before": [], "after": []}
    for start, stop in pairwise(grid):
        value = _compare(planes, start, stop - start).rescaled(floor)
        if value is not None:
            phase = "before" if start < reached else "after"
            rates[phase].append((1 - value) / (stop - start))
    figures = [Quantity("drift_rate", float(reached), "steps", labels={"phase": "boundary"})]
    for phase, values in rates.items():
        mean = float(np.mean(values)) if values else None
        reason = None if values else "no pair of times in this phase has a defined overlap"
        figures.append(Quantity("drift_rate", mean, "per step", labels={"phase": phase}, reason=reason))
    return figures


def _windows(study: Study, width: int = 10) -> list[Quantity]:
    """Measure overlaps of planes of `width` successive updates that share neither updates nor momentum."""
    recovery, gram = study.settings.recovery, study.gram
    memory = 0.0 if recovery.optimizer == "sgd" else 3 / (1 - recovery.momentum)
    shortest = width + int(np.ceil(memory))
    figures = []
    for lag in range(shortest, gram.n_steps - width + 1, width):
        later = gram.span(range(lag + 1, lag + width + 1))
        value = gram.overlap(gram.prefix(width), later)
        figures.append(Quantity("window_overlap", value, "fraction", labels={"lag": lag, "width": width}))
    return figures


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of one target."""
    m, times = settings.measurement, 2 * (len(lags_up_to(100)) + 1) + 8
    return {"drift": float(PARTS * times * m.drift_gradients * m.minibatch)}


def check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what the keys of the drift demand of each other."""
    m = settings.measurement
    yield (
        m.drift_rank <= m.drift_gradients,
        f"measurement.drift_rank is {m.drift_rank}; it must be at most measurement.drift_gradients, "
        f"{m.drift_gradients}: so many gradients span no more directions.",
    )


MEASUREMENT = Measurement(NAME, measure, cost, check)
