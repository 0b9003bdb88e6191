"""Captures of one recovery judged after every horizon T', beside a blind run's: where a prefix says something at all.

Quantity: capture(U, theta_T' - theta_0) of the first k updates and of k updates at random times among the first T', for
T' from 2 k to T. Unit: fraction. Null: `blind`, the same optimizer on gradients that know nothing (protocol 2). Short
recoveries under momentum lie in few directions whatever the gradients say, so a capture without its T means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from lineament.measurements.captures import Candidate, definitions, mean_capture, own_candidates
from lineament.measurements.measurement import Measurement, make_record
from lineament.records import Label, Quantity, Record
from lineament.study.study import Study
from lineament.vectors.trajectory_gram import TrajectoryGram

NAME = "capture_by_horizon"
DEFINITIONS = {
    "horizon_capture": "|U^T d|^2 / |d|^2 with d = theta_T' - theta_0 (whole), or d without the updates that U was "
    "built from (rest); blind: of as many updates of the same optimizer on gradients that know nothing (protocol 2)",
    "closed_share": "share of the loss gap between the damaged and the trained model that is closed at T'",
}
BASES = ("prefix", "control_random_times")
SHOWN = ("whole", "rest")
MAX_HORIZONS = 12


def horizons(rank: int, n_steps: int) -> list[int]:
    """Return up to `MAX_HORIZONS` horizons from 2 k to T, evenly on a log scale; none where T is below 2 k."""
    if n_steps < 2 * rank:
        return []
    return sorted({round(t) for t in np.geomspace(2 * rank, n_steps, MAX_HORIZONS)})


def measure(study: Study) -> Record:
    """Measure captures at every horizon, whether or not the task is recovered there."""
    rank = study.settings.measurement.headline_rank
    at = horizons(rank, study.curve.n_steps)
    if not at:
        reason = f"T = {study.curve.n_steps} is below twice the rank {rank}"
        return make_record(study, NAME, [Quantity("horizon_capture", None, "fraction", reason=reason)], DEFINITIONS)
    quantities = chain.from_iterable(
        (_closed_share(study, horizon), *_captures(study, rank, horizon)) for horizon in at
    )
    return make_record(study, NAME, list(quantities), DEFINITIONS)


def _closed_share(study: Study, horizon: int) -> Quantity:
    curve, labels = study.curve, {"horizon": horizon}
    gap = curve.loss_at(0) - curve.trained_loss
    if not gap > 0:
        reason = "damage did not raise the loss, so that there is no gap"
        return Quantity("closed_share", None, "fraction", labels=labels, reason=reason)
    return Quantity("closed_share", (curve.loss_at(0) - curve.loss_at(horizon)) / gap, "fraction", labels=labels)


def _captures(study: Study, rank: int, horizon: int) -> Iterator[Quantity]:
    """Yield the captures at one horizon; measured and blind random times are the same steps."""
    measured, blind = study.gram, study.recovery.blind_gram
    draws = study.settings.measurement.random_draws

    def made_of(gram: TrajectoryGram) -> dict[str, Callable[[int], list[Candidate]]]:
        return own_candidates(gram, horizon, draws, lambda k: study.streams.generator("random times", k, horizon))

    ours, theirs = made_of(measured), made_of(blind)
    for basis in BASES:
        drawn, expected = ours[basis](rank), theirs[basis](rank)
        for labels, weights_of in definitions(measured, rank, {"T": horizon}):
            if labels["definition"] not in SHOWN:
                continue
            where: dict[str, Label] = {
                "basis": basis,
                "rank": rank,
                "definition": labels["definition"],
                "horizon": horizon,
            }
            capture = mean_capture(measured, drawn, weights_of, where)
            null = mean_capture(blind, expected, weights_of, where)
            yield replace(capture, name="horizon_capture", blind=null.value)


# no cost: everything comes from the recorded updates
MEASUREMENT = Measurement(NAME, measure)
