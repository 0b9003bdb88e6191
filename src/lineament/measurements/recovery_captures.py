"""Captures of one recovery at its two end points, each capture by updates beside that of a blind run (protocol, 2).

T is fixed beforehand; T_loss is where 95 % of the loss gap was closed. The blind run is the same optimizer on gradients
that know nothing, asked the same question at the same rank, definition and end point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lineament.measurements.captures import DEFINED, OWN, Candidate, definitions, mean_capture, own_candidates, spanned
from lineament.records import Label, Quantity
from lineament.streams import Streams
from lineament.study.horizon import RecoveryCurve
from lineament.study.study import Recovery
from lineament.vectors.trajectory_gram import TrajectoryGram

WINDOWS = "control_windows"
WINDOW_DEFINITION = (
    "capture by k successive updates from step s = 1, k + 1, 2 k + 1, ...; blind: of a blind run (protocol 2)"
)
# Made of the updates of other runs: for a blind one they are random directions, which hold k / n_params of D.
OTHER_RUNS = (
    "control_frozen_run",
    "control_other_data",
    "control_other_data_2",
    "null_noise_prefix",
    "null_mean_free_prefix",
)
TOP = "trajectory_top"
# Neighbouring eigenvalues of a simulated blind run without momentum differ by less; one with beta1 = 0.9 has 2 to 20 %.
LEAST_GAP = 0.01
NO_BLIND_TOP = "no blind value: without momentum the updates of a blind run have no strongest directions"
LOSS_GAP_OPEN = "95 % of the loss gap was not closed by T"
# rank -> candidates of one basis; several are draws to be averaged.
CandidatesAt = Callable[[int], list[Candidate]]


@dataclass(frozen=True)
class CaptureSite:
    """What captures are taken of: one recovery in one space.

    Attributes:
        gram: geometry of its updates, as parameters or as dW.
        streams: of the study, for random times.
        draws: sets of random times.
        fixed: bases that are made of something else than this recovery's updates.
        missing: basis -> why it could not be made.
        space_of: label of every quantity, `parameters` or `lora_effective`.
    """

    recovery: Recovery
    gram: TrajectoryGram
    streams: Streams
    draws: int
    fixed: Mapping[str, CandidatesAt] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    space_of: str = "parameters"

    def labels(self, basis: str, rank: int) -> dict[str, Label]:
        """Return what every capture by a basis at a rank is labelled with."""
        return {"basis": basis, "rank": rank, "space_of": self.space_of}

    def own(self, gram: TrajectoryGram, end: int) -> dict[str, CandidatesAt]:
        """Return the bases made of u_1 .. u_end; the random times are the same whatever the Gram matrix."""
        return own_candidates(gram, end, self.draws, lambda rank: self.streams.generator("random times", rank))


def end_points(curve: RecoveryCurve) -> dict[str, int | None]:
    """Return T and T_loss by their labels; None where the loss gap was not closed."""
    return {"T": curve.n_steps, "T_loss": curve.loss_step}


def step_counts(curve: RecoveryCurve) -> list[Quantity]:
    """Return T, the steps to recovery and T_loss."""
    first, loss = curve.steps_to_recovery, curve.loss_step
    never = "accuracy did not stay at the threshold" if first is None else None
    return [
        Quantity("recovery_steps", float(curve.n_steps), "steps"),
        Quantity("steps_to_recovery", first, "steps", reason=never),
        Quantity("loss_step", loss, "steps", reason=LOSS_GAP_OPEN if loss is None else None),
    ]


def site_captures(site: CaptureSite, ranks: Sequence[int]) -> list[Quantity]:
    """Return captures by every basis at every rank, definition and end point, undefined ones with their reason."""
    quantities: list[Quantity] = []
    for at, end in end_points(site.recovery.curve).items():
        for rank in ranks:
            quantities += _at_rank(site, at, end, rank)
    return quantities


def window_captures(site: CaptureSite, rank: int) -> list[Quantity]:
    """Return captures by `rank` successive updates from step 1, k + 1, 2 k + 1, ..., each beside its blind value."""
    quantities: list[Quantity] = []
    blind = site.recovery.blind_gram
    for at, end in end_points(site.recovery.curve).items():
        for start in range(1, (end or 0) - rank + 2, rank):
            steps = np.arange(start, start + rank)
            where: dict[str, Label] = {**site.labels(WINDOWS, rank), "from_step": start}
            measured = _defined(site.gram, [spanned(site.gram, steps)], rank, {at: end or 0}, where)
            expected = _defined(blind, [spanned(blind, steps)], rank, {at: end or 0}, where)
            quantities += [
                replace(q, name="window_capture", blind=b.value) for q, b in zip(measured, expected, strict=True)
            ]
    return quantities


def why_no_capture(at: str, end: int | None, rank: int) -> str | None:
    """Return why there is no capture at an end point, or None: a prefix of more updates than it has does not exist."""
    if end is None:
        return LOSS_GAP_OPEN
    return f"{at} = {end} is below rank {rank}" if rank > end else None


def _at_rank(site: CaptureSite, at: str, end: int | None, rank: int) -> Iterator[Quantity]:
    names = [*OWN, *site.fixed]
    reason = why_no_capture(at, end, rank)
    own = site.own(site.gram, end or 1)
    blind = site.recovery.blind_gram
    blind_own = site.own(blind, end or 1)
    for name in names:
        where = site.labels(name, rank)
        why = reason or site.missing.get(name)
        if why or end is None:
            yield from _undefined(where, at, str(why))
            continue
        drawn = own[name](rank) if name in own else site.fixed[name](rank)
        measured = _defined(site.gram, drawn, rank, {at: end}, where)
        arbitrary = name == TOP and not blind.top_gap(rank, end) > LEAST_GAP
        if arbitrary:
            measured = [replace(q, reason=q.reason or NO_BLIND_TOP) for q in measured]
        if name in own and not arbitrary:
            expected = [q.value for q in _defined(blind, blind_own[name](rank), rank, {at: end}, where)]
        else:
            chance = rank / site.gram.space.n_params if name in OTHER_RUNS else None
            expected = [chance if q.value is not None else None for q in measured]
        yield from (replace(q, blind=b) for q, b in zip(measured, expected, strict=True))


def _defined(
    gram: TrajectoryGram, drawn: list[Candidate], rank: int, ends: Mapping[str, int], where: Mapping[str, Label]
) -> list[Quantity]:
    """Return the capture in each definition: whole, rest and rest_gap."""
    return [
        mean_capture(gram, drawn, weights_of, {**where, **labels})
        for labels, weights_of in definitions(gram, rank, ends)
    ]


def _undefined(where: Mapping[str, Label], at: str, reason: str) -> Iterator[Quantity]:
    for definition in DEFINED:
        labels = {**where, "definition": definition, "at": at}
        yield Quantity("capture", None, "fraction", labels=labels, reason=reason)
