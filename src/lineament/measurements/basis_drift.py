"""Drift of the task-gradient plane along the recovery, and what an old plane is still good for (protocol, section 3).

Overlap: |U_t^T U_t'|_F^2 / k of rank-k planes of fresh minibatch gradients at two steps. Ceiling: the geometric mean of
the two times' split-half overlaps. Floor: k / n_params. Rescaled: (overlap - floor) / (ceiling - floor). A plane counts
every direction alike, gradients do not. So beside it the retention: the share of the energy of fresh gradients at t'
that the plane of t still holds, and that share over what a fresh plane of t' holds. Unit: fraction. Null: the planes of
the other tasks at the same point, each in turn. Half-life: first crossing of 1/2 by the decreasing isotonic fit of the
rescaled overlap, in steps and in |theta_t - theta_0|.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lineament.bases import Basis, top_directions
from lineament.measurements.crossings import REFRESH_SHARES, crossing
from lineament.measurements.gradient_planes import (
    PARTS,
    Compared,
    FreshPlanes,
    compare,
    jackknife,
    off_diagonal,
    overlap_table,
    retained,
)
from lineament.measurements.measurement import Measurement, make_record
from lineament.parameters import Vectors
from lineament.records import Label, Quantity, Record, is_told
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.study.points import DAMAGED, RECOVERED
from lineament.study.study import Study
from lineament.vectors.gradients import group_gradients

NAME = "basis_drift"
# Lags at which the claim is judged, as shares of T; one lag alone moves by 0.1 from seed to seed.
CLAIM_SHARES = (0.25, 0.375, 0.5)
# Lags up to half of the run.
MAX_LAG_SHARE = 0.5
RECOVERED_LOSS_SHARE = 0.9
WINDOW_UPDATES = 10
NO_CEILING = "the ceiling is within 3 standard errors of the floor"
NO_FRESH = "a fresh plane holds no more than a random one, to within 3 standard errors"
DEFINITIONS = {
    "overlap": "|U_t^T U_t'|_F^2 / k of rank-k planes of fresh task gradients at steps t and t + lag (protocol 3)",
    "ceiling": "geometric mean of the two times' split-half overlaps, equally many gradients in each part",
    "floor": "k / n_params: two random planes",
    "rescaled_overlap": "(overlap - floor) / (ceiling - floor); null: the other tasks' planes at the starting point",
    "retention": "share of the energy of fresh gradients at t + lag inside the plane of t: sum |U^T g|^2 / sum |g|^2; "
    "ceiling: a fresh plane of t + lag, judged on other gradients; null: the other tasks' planes at t",
    "retention_share": "retention over what a fresh plane holds; left out where that is within 3 standard errors of "
    "what a random plane holds",
    "retention_at_claim_lags": "mean retention share over lags of T / 4, 3 T / 8 and T / 2; the claim is judged by it",
    "overlap_at_claim_lags": "mean rescaled overlap over the same lags",
    "refresh_lag": "lag at which the isotonic fit of the retention share first falls to this share, interpolated",
    "smallest_angle": "smallest principal angle between the two planes",
    "median_angle": "median principal angle between the two planes",
    "half_life": "lag at which the isotonic fit of the rescaled overlap first falls to 1/2, interpolated",
    "half_life_distance": "the same against the distance |theta_(t + lag) - theta_t| instead of the lag",
    "drift_rate": "(1 - rescaled overlap) / lag over successive times, before and after 90 % of the loss is recovered",
    "window_overlap": "overlap of planes of w successive updates, at lags >= w + 3 / (1 - beta1) only",
}

# Mean rescaled overlap of the target's planes with the other tasks' at one point, and mean share of the target's
# gradient energy inside those; None where there is no other task.
Nulls = tuple[float | None, float | None]


@dataclass(frozen=True)
class Side:
    """What is compared from one starting time.

    Attributes:
        start: time of the old plane, in steps.
        name: the point there, `broken` or `recovered`.
        compared: lag -> comparison.
        null: of the start.
    """

    start: int
    name: str
    compared: dict[int, Compared]
    null: Nulls


def measure(study: Study) -> Record:
    """Measure overlap and retention against lag from theta_broken and theta_recovered, and drift against loss."""
    if reason := study.curve.why_not_recovered:
        return make_record(study, NAME, [Quantity("half_life", None, "steps", reason=reason)], DEFINITIONS)
    end, floor = study.recovered_at, study.settings.measurement.drift_rank / study.problem.parameters.n_params
    fixed = study.settings.measurement.drift_lags
    first, second = int(MAX_LAG_SHARE * end), study.trajectory.n_steps - end
    lags = {0: lags_within(fixed, first, end), end: lags_within(fixed, second)}
    grid = _even_grid(end)
    fresh, energy, nulls = _all_planes(study, lags, grid, floor)
    quantities = [Quantity("floor", floor, "fraction")]
    for start, name in ((0, DAMAGED), (end, RECOVERED)):
        compared = {lag: compare(fresh[start], fresh[start + lag], energy[start, start + lag]) for lag in lags[start]}
        side = Side(start, name, compared, nulls[start])
        quantities += [*_comparisons(study, side, floor), *_lives(study, side, floor), *_refreshes(side, floor)]
        quantities += _at_claim_lags(side, claim_lags(end), floor) if start == 0 else []
    quantities += [*_drift_rates(study, fresh, grid, floor), *_windows(study)]
    return make_record(study, NAME, quantities, DEFINITIONS)


def lags_within(fixed: Sequence[int], longest: int, end: int | None = None) -> list[int]:
    """Return the fixed lags up to `longest`, with `longest` itself, and the claim's if the run's T is given."""
    judged = set(claim_lags(end)) if end else set()
    return sorted({lag for lag in fixed if lag < longest} | {max(1, longest)} | judged)


def claim_lags(end: int) -> list[int]:
    """Return the lags over which the claim's mean is taken: T / 4, 3 T / 8 and T / 2."""
    return sorted({max(1, int(share * end)) for share in CLAIM_SHARES})


def _even_grid(end: int) -> list[int]:
    """Return evenly spaced times up to T, for drift rates at one common lag."""
    return list(range(0, end + 1, max(1, end // 4)))


def _all_planes(
    study: Study, lags: dict[int, list[int]], grid: Sequence[int], floor: float
) -> tuple[dict[int, FreshPlanes], dict[tuple[int, int], np.ndarray], dict[int, Nulls]]:
    """Return the planes of every time, what each start's planes hold of later gradients, and each start's nulls.

    Gradients of one time are held at once, those of the others are gone: a language model's would fill the memory.
    """
    times = sorted({*lags, *grid, *(start + lag for start, own in lags.items() for lag in own)})
    fresh: dict[int, FreshPlanes] = {}
    energy: dict[tuple[int, int], np.ndarray] = {}
    nulls: dict[int, Nulls] = {}
    for number, time in enumerate(times):
        study.progress("drift of the gradient plane", number, len(times))
        gradients = [_gradients(study, study.target, time, part) for part in range(PARTS)]
        planes = tuple(_plane(study, vectors, time) for vectors in gradients)
        fresh[time] = FreshPlanes(planes, retained(planes, gradients))
        for start in lags:
            if start <= time:
                energy[start, time] = retained(fresh[start].planes, gradients)
        if time in lags:
            nulls[time] = _other_tasks(study, time, fresh[time], gradients, floor)
    return fresh, energy, nulls


def _gradients(study: Study, task: str, time: int, part: int) -> Vectors:
    m = study.settings.measurement
    batch = study.gradient_batch(task, m.drift_gradients, m.minibatch, f"drift {time} {part}")
    with study.problem.parameters.temporarily(study.trajectory.position(time)):
        return group_gradients(study.problem, batch, m.minibatch)


def _plane(study: Study, gradients: Vectors, time: int) -> Basis:
    return top_directions(gradients, study.settings.measurement.drift_rank, f"step {time}")


def _other_tasks(study: Study, time: int, own: FreshPlanes, gradients: Sequence[Vectors], floor: float) -> Nulls:
    """Return both nulls at one point: the mean over the other tasks, never the target itself."""
    others = [task for task in study.problem.tasks if task != study.target]
    if not others:
        return None, None
    planes = [_plane(study, _gradients(study, task, time, 0), time) for task in others]
    table = overlap_table(own.planes, own.planes)
    ceiling, error = jackknife(lambda kept: off_diagonal(table, kept))
    overlap = float(overlap_table(own.planes, planes).mean())
    energy = float(np.mean(retained(planes, gradients)))
    return (overlap - floor) / (ceiling - floor) if is_told(ceiling - floor, error) else None, energy


def _comparisons(study: Study, side: Side, floor: float) -> Iterator[Quantity]:
    for lag, pair in side.compared.items():
        labels: dict[str, Label] = {
            "from": side.name,
            "lag": lag,
            "loss": study.curve.loss_at(side.start + lag),
            "distance": _distance(study, side.start, lag),
        }
        (value, error), (ceiling, ceiling_error) = pair.overlap, pair.ceiling
        rescaled, (kept, kept_error), share = pair.rescaled(floor), pair.retained, pair.retained_share(floor)
        reason = NO_CEILING if rescaled is None else None
        null, energy_null = side.null
        yield Quantity("overlap", value, "fraction", stderr=error, ceiling=ceiling, labels=labels)
        yield Quantity("ceiling", ceiling, "fraction", stderr=ceiling_error, labels=labels)
        yield Quantity("rescaled_overlap", rescaled, "fraction", null=null, labels=labels, reason=reason)
        yield Quantity(
            "retention",
            kept,
            "fraction",
            stderr=kept_error,
            null=energy_null,
            ceiling=pair.fresh_retained[0],
            labels=labels,
        )
        if share is None:
            yield Quantity("retention_share", None, "fraction", labels=labels, reason=NO_FRESH)
        else:
            yield Quantity("retention_share", share[0], "fraction", stderr=share[1], labels=labels)
        yield Quantity("smallest_angle", pair.smallest_angle, "degrees", labels=labels)
        yield Quantity("median_angle", pair.median_angle, "degrees", labels=labels)


def _distance(study: Study, start: int, lag: int) -> float:
    """Return |theta_(start + lag) - theta_start|."""
    return float(np.sqrt(study.gram.squared_norm(study.gram.displacement(start + 1, start + lag))))


def _lives(study: Study, side: Side, floor: float) -> Iterator[Quantity]:
    """Yield the half-life of the rescaled overlap, in steps and as a distance."""
    known = [(lag, value) for lag, pair in side.compared.items() if (value := pair.rescaled(floor)) is not None]
    labels: dict[str, Label] = {"from": side.name}
    units = {"half_life": "steps", "half_life_distance": "weight units"}
    if not known:
        for name, unit in units.items():
            yield Quantity(name, None, unit, labels=labels, reason="undefined: no ceiling above the floor")
        return
    lags, values = zip(*known, strict=True)
    life = crossing(lags, values)
    reason = None if life is not None else f"> {lags[-1]} (largest lag; it does not cross)"
    yield Quantity("half_life", life, "steps", labels=labels, reason=reason)
    distances = [_distance(study, side.start, lag) for lag in lags]
    order = np.argsort(distances)
    far = crossing(np.array(distances)[order], np.array(values)[order])
    why = None if far is not None else f"> {max(distances):.3g} (largest distance; it does not cross)"
    yield Quantity("half_life_distance", far, "weight units", labels=labels, reason=why)


def _refreshes(side: Side, floor: float) -> Iterator[Quantity]:
    """Yield the lags at which an old plane holds 90 % and 50 % of what a fresh one holds, jackknifed over the sets."""
    told = {lag: pair for lag, pair in side.compared.items() if pair.retained_share(floor) is not None}
    lags = list(told)
    for share in REFRESH_SHARES:
        labels: dict[str, Label] = {"from": side.name, "share": share}
        if not told:
            yield Quantity("refresh_lag", None, "steps", labels=labels, reason=NO_FRESH)
            continue

        def lag_without(kept: Sequence[int], share: float = share) -> float | None:
            return crossing(lags, [pair.share_without(kept) for pair in told.values()], share)

        lag = lag_without(range(PARTS))
        without = [lag_without([part for part in range(PARTS) if part != out]) for out in range(PARTS)]
        known = [value for value in without if value is not None]
        error = float(np.sqrt((PARTS - 1) * np.var(known))) if len(known) == PARTS else None
        reason = None if lag is not None else f"> {lags[-1]} (largest lag; it does not cross)"
        yield Quantity("refresh_lag", lag, "steps", stderr=error, labels=labels, reason=reason)


def _at_claim_lags(side: Side, lags: Sequence[int], floor: float) -> Iterator[Quantity]:
    pairs = [side.compared[lag] for lag in lags]
    labels: dict[str, Label] = {"from": side.name}
    null, energy_null = side.null
    shares = [share[0] for pair in pairs if (share := pair.retained_share(floor)) is not None]
    kept = float(np.mean(shares)) if len(shares) == len(pairs) else None
    fresh = float(np.mean([pair.fresh_retained[0] for pair in pairs]))
    chance = energy_null / fresh if energy_null is not None and kept is not None else None
    why = NO_FRESH if kept is None else None
    yield Quantity("retention_at_claim_lags", kept, "fraction", null=chance, labels=labels, reason=why)
    rescaled = [value for pair in pairs if (value := pair.rescaled(floor)) is not None]
    mean = float(np.mean(rescaled)) if len(rescaled) == len(pairs) else None
    reason = NO_CEILING if mean is None else None
    yield Quantity("overlap_at_claim_lags", mean, "fraction", null=null, labels=labels, reason=reason)


def _drift_rates(study: Study, fresh: dict[int, FreshPlanes], grid: Sequence[int], floor: float) -> Iterator[Quantity]:
    """Yield mean drift rates over successive grid times, before and after 90 % of the loss is recovered."""
    loss = np.array([study.curve.loss_at(step) for step in range(study.recovered_at + 1)])
    share = (loss[0] - loss) / max(loss[0] - loss.min(), 1e-12)
    reached = int(np.argmax(share >= RECOVERED_LOSS_SHARE))
    rates: dict[str, list[float]] = {"before": [], "after": []}
    unknown = np.full((PARTS, PARTS), np.nan)
    for start, stop in pairwise(grid):
        value = compare(fresh[start], fresh[stop], unknown).rescaled(floor)
        if value is not None:
            rates["before" if start < reached else "after"].append((1 - value) / (stop - start))
    yield Quantity("drift_rate", float(reached), "steps", labels={"phase": "boundary"})
    for phase, values in rates.items():
        mean = float(np.mean(values)) if values else None
        reason = None if values else "no pair of times in this phase has a defined overlap"
        yield Quantity("drift_rate", mean, "per step", labels={"phase": phase}, reason=reason)


def _windows(study: Study, width: int = WINDOW_UPDATES) -> Iterator[Quantity]:
    """Yield overlaps of windows of updates beside those of a blind run, where they share no update and no momentum."""
    recovery, gram, blind = study.settings.recovery, study.gram, study.recovery.blind_gram
    memory = 0.0 if recovery.optimizer == "sgd" else 3 / (1 - recovery.momentum)
    for lag in range(width + int(np.ceil(memory)), gram.n_steps - width + 1, width):
        later = range(lag + 1, lag + width + 1)
        value, chance = (g.overlap(g.prefix(width), g.span(later)) for g in (gram, blind))
        labels: dict[str, Label] = {"lag": lag, "width": width}
        yield Quantity("window_overlap", value, "fraction", blind=chance, labels=labels)


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of one target."""
    m, end = settings.measurement, settings.recovery.steps
    times = {0, *lags_within(m.drift_lags, int(MAX_LAG_SHARE * end), end), *_even_grid(end)}
    n_sets = PARTS * (len(times) + len(lags_within(m.drift_lags, end // 5))) + 2 * (PARTS + n_tasks - 1)
    return {"drift": float(n_sets * m.drift_gradients * m.minibatch)}


def check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what the keys of the drift demand of each other."""
    m = settings.measurement
    yield (
        m.drift_rank <= m.drift_gradients,
        f"measurement.drift_rank is {m.drift_rank}; it must be at most measurement.drift_gradients, "
        f"{m.drift_gradients}: so many gradients span no more directions.",
    )


MEASUREMENT = Measurement(NAME, measure, cost, check)
