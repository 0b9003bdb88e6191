"""How much of a run its first updates span: captures at fixed ranks, and the first steps that reach a share.

capture(U, D) = |U^T D|^2 / |D|^2 for D = u_1 + .. + u_T (protocol, section 2), of the T rows that moved the weights.
Null: what independent updates of equal length would give, k / T, or need, s T steps for a share s. It knows nothing of
momentum: the null that counts is the blind run's value, which stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from lineament.measurements.captures import Candidate, definitions, mean_capture, own_candidates
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity
from lineament.streams import Streams
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

DEFINITIONS = {
    "capture": "|U^T d|^2 / |d|^2; definition whole: d = D, the displacement of the whole recording; rest: D less the "
    "updates that U was built from (for a basis built from none, less u_1..u_k); rest_gap: less u_1..u_(k+10) too "
    "(protocol 2); null: k / T, independent updates; blind: the same optimizer on gradients that know nothing",
    "steps_to_span": "first steps whose updates span this share of D (the smallest k with whole capture at or above "
    "it, in optimizer steps); null: share times T, independent updates of equal length; blind: those of a blind run",
}
# A share that is reached exactly counts as reached.
ROUNDING = 1e-9
# Name of a basis from another recording -> its coefficients on this one's updates at a rank, or none beyond its rows.
Foreign = Mapping[str, Callable[[int], Coefficients | None]]
Capture = Callable[[TrajectoryGram, int], float]


def capture_figures(run: MovingRows, foreign: Foreign, options: AnalysisOptions, space_of: str) -> list[Quantity]:
    """Captures of the whole displacement and of what is left of it, by own and foreign bases at every rank.

    Own bases stand beside those of the blind run, made alike.
    """
    gram, blind, end = run.gram, run.blind, run.n_rows
    candidates = own_candidates(gram, end, options.draws, _generator(options))
    blind_candidates = {} if blind is None else own_candidates(blind, end, options.draws, _generator(options))
    for name, at_rank in foreign.items():
        candidates[name] = _fixed(at_rank)
    figures = []
    for rank in _usable(options.ranks, end):
        for name, make in candidates.items():
            drawn = make(rank)
            blind_drawn = blind_candidates[name](rank) if name in blind_candidates else []
            blind_definitions = definitions(blind or gram, rank, {"end": end})
            for (labels, weights_of), (_, blind_of) in zip(
                definitions(gram, rank, {"end": end}), blind_definitions, strict=True
            ):
                where: dict[str, Label] = {"basis": name, "rank": rank, "space_of": space_of, **labels}
                found = mean_capture(gram, drawn, weights_of, where)
                null = rank / end if labels["definition"] == "whole" else None
                chance = mean_capture(blind, blind_drawn, blind_of, where).value if blind and blind_drawn else None
                figures.append(replace(found, null=null, blind=chance))
    return figures


def span_figures(run: MovingRows, options: AnalysisOptions, space_of: str) -> Iterator[Quantity]:
    """First steps that reach each share, beside updates at random times of the same run, and beside a blind run."""
    steps, n_rows = run.steps, run.n_rows

    def prefix(gram: TrajectoryGram, rank: int) -> float:
        return gram.capture(gram.prefix(rank), gram.displacement(1, n_rows))

    def random_times(gram: TrajectoryGram, rank: int) -> float:
        generator = _generator(options)(rank)
        drawn = [1 + generator.permutation(n_rows)[:rank] for _ in range(options.draws)]
        whole = gram.displacement(1, n_rows)
        return float(np.mean([gram.capture(gram.span(times.tolist()), whole) for times in drawn]))

    for share in options.shares:
        independent = float(steps[max(1, ceil(share * n_rows - ROUNDING)) - 1])
        for name, capture_at in (("prefix", prefix), ("control_random_times", random_times)):
            ranks = [_first(capture_at, gram, share) for gram in (run.gram, run.blind) if gram is not None]
            prefixed = name == "prefix"
            values = [float(steps[rank - 1]) if prefixed else rank * steps[-1] / n_rows for rank in ranks]
            labels: dict[str, Label] = {"share": share, "basis": name, "space_of": space_of}
            chance = values[1] if len(values) > 1 else None
            yield Quantity("steps_to_span", values[0], "steps", null=independent, blind=chance, labels=labels)


def _first(capture_at: Capture, gram: TrajectoryGram, share: float) -> int:
    return first_to_reach(lambda rank: capture_at(gram, rank), share - ROUNDING, gram.n_steps)


def first_to_reach(capture_at: Callable[[int], float], share: float, most: int) -> int:
    """Smallest rank from 1 to `most` whose capture is at least `share`, for captures that do not fall with the rank."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if capture_at(middle) >= share else (middle + 1, high)
    return low


def _generator(options: AnalysisOptions) -> Callable[[int], np.random.Generator]:
    streams = Streams(options.seed).child("recording")
    return lambda rank: streams.generator("random times", rank)


def _usable(ranks: Sequence[int], n_rows: int) -> list[int]:
    """Ranks of which at least as much of the run lies outside the prefix as in it."""
    return [rank for rank in ranks if 2 * rank <= n_rows]


def _fixed(at_rank: Callable[[int], Coefficients | None]) -> Callable[[int], list[Candidate]]:
    def at(rank: int) -> list[Candidate]:
        found = at_rank(rank)
        return [] if found is None else [Candidate(found, None)]

    return at
