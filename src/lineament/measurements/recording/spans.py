"""How much of a run its first updates span: captures at fixed ranks, and the first steps that reach a share.

capture(U, D) = |U^T D|^2 / |D|^2 for D = u_1 + .. + u_T (protocol, section 2). Null of the steps that reach a share s:
s T, what independent updates of equal length would need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lineament.measurements.captures import Candidate, definitions, mean_capture, own_candidates
from lineament.measurements.recording.options import AnalysisOptions
from lineament.records import Label, Quantity
from lineament.streams import Streams
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

DEFINITIONS = {
    "capture": "|U^T d|^2 / |d|^2; definition whole: d = D, the displacement of the whole recording; rest: D less the "
    "updates that U was built from (for a basis built from none, less u_1..u_k); rest_gap: less u_1..u_(k+10) too "
    "(protocol 2); null: k / T, independent updates",
    "steps_to_span": "first steps whose updates span this share of D (the smallest k with whole capture at or above "
    "it, in optimizer steps); null: share times T, independent updates of equal length",
}
# Name of a basis from another recording -> its coefficients on this one's updates at a rank, or none beyond its rows.
Foreign = Mapping[str, Callable[[int], Coefficients | None]]


def capture_figures(gram: TrajectoryGram, foreign: Foreign, options: AnalysisOptions, space_of: str) -> list[Quantity]:
    """Captures of the whole displacement and of what is left of it, by own and foreign bases at every rank."""
    end = gram.n_steps
    candidates = own_candidates(gram, end, options.draws, _generator(options))
    for name, at_rank in foreign.items():
        candidates[name] = _fixed(at_rank)
    figures = []
    for rank in _usable(options.ranks, end):
        for name, make in candidates.items():
            drawn = make(rank)
            for labels, weights_of in definitions(gram, rank, {"end": end}):
                where: dict[str, Label] = {"basis": name, "rank": rank, "space_of": space_of, **labels}
                found = mean_capture(gram, drawn, weights_of, where)
                figures.append(_with_null(found, rank / end))
    return figures


def span_figures(
    gram: TrajectoryGram, steps: Sequence[int], options: AnalysisOptions, space_of: str
) -> Iterator[Quantity]:
    """First steps that reach each share, beside updates at random times of the same run.

    Args:
        steps: optimizer steps after which each row was taken, (n_rows,).
    """
    whole = gram.displacement(1, gram.n_steps)
    per_row = steps[-1] / len(steps)

    def prefix(rank: int) -> float:
        return gram.capture(gram.prefix(rank), whole)

    def random_times(rank: int) -> float:
        generator = _generator(options)(rank)
        drawn = [1 + generator.permutation(gram.n_steps)[:rank] for _ in range(options.draws)]
        return float(np.mean([gram.capture(gram.span(times.tolist()), whole) for times in drawn]))

    for share in options.shares:
        for name, capture_at in (("prefix", prefix), ("control_random_times", random_times)):
            rank = first_to_reach(capture_at, share, gram.n_steps)
            value = float(steps[rank - 1]) if name == "prefix" else rank * per_row
            labels: dict[str, Label] = {"share": share, "basis": name, "space_of": space_of}
            yield Quantity("steps_to_span", value, "steps", null=share * steps[-1], labels=labels)


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


def _with_null(figure: Quantity, share_of_steps: float) -> Quantity:
    null = share_of_steps if figure.labels["definition"] == "whole" else None
    return Quantity(
        "capture",
        figure.value,
        figure.unit,
        stderr=figure.stderr,
        null=null,
        labels=figure.labels,
        reason=figure.reason,
    )
