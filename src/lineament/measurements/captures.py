"""Captures from coefficients: candidates, the three definitions, and the bases made of the recovery's own updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lineament.records import Figure, Label
from lineament.study import Study
from lineament.vectors.trajectories import TrajectoryGram

MOMENTUM_GAP_STEPS = 10


@dataclass(frozen=True)
class Candidate:
    """A basis at one rank as the captures need it.

    Attributes:
        coefficients: U^T u_t, (rank, n_steps).
        own: 1 for each update the basis was built from, (n_steps,); None if it was built from none.
    """

    coefficients: np.ndarray
    own: np.ndarray | None


def own_candidates(gram: TrajectoryGram, study: Study) -> dict[str, Callable[[int], list[Candidate]]]:
    """Bases made of the recovery's own updates, answered from a Gram matrix (of parameters or of dW)."""
    end, draws = study.recovered_at, study.settings.measurement.random_draws

    def spanned(steps: np.ndarray) -> Candidate:
        own = np.zeros(gram.n_steps)
        own[steps - 1] = 1
        return Candidate(gram.span(steps.tolist()).T @ gram.gram, own)

    def prefix(rank: int) -> list[Candidate]:
        return [spanned(np.arange(1, rank + 1))]

    def random_times(rank: int) -> list[Candidate]:
        generator = study.streams.generator("random times", rank)
        return [spanned(1 + generator.permutation(end)[:rank]) for _ in range(draws)]

    def top(rank: int) -> list[Candidate]:
        return [Candidate(gram.top(rank, end).T @ gram.gram, gram.displacement(1, end))]

    return {"prefix": prefix, "control_random_times": random_times, "trajectory_top": top}


def definitions(
    study: Study, gram: TrajectoryGram, rank: int
) -> Iterator[tuple[dict[str, Label], Callable[[Candidate], np.ndarray]]]:
    """(labels, candidate -> weights of the vector to capture) for every definition and end point."""
    for at, end in (("T", study.recovered_at), ("2T", 2 * study.recovered_at)):
        whole = gram.displacement(1, min(end, gram.n_steps))
        first = gram.displacement(1, rank)
        gap = gram.displacement(1, min(rank + MOMENTUM_GAP_STEPS, gram.n_steps))

        def own(c: Candidate, first: np.ndarray = first) -> np.ndarray:
            return first if c.own is None else c.own

        yield {"definition": "whole", "at": at}, lambda c, w=whole: w  # type: ignore[misc]
        yield {"definition": "rest", "at": at}, lambda c, w=whole: w * (1 - own(c))  # type: ignore[misc]
        yield {"definition": "rest_gap", "at": at}, lambda c, w=whole, g=gap: w * (1 - np.maximum(own(c), g))  # type: ignore[misc]


def mean_capture(
    gram: TrajectoryGram,
    drawn: list[Candidate],
    weights_of: Callable[[Candidate], np.ndarray],
    labels: Mapping[str, Label],
) -> Figure:
    values = [gram.capture_outside(c.coefficients, weights_of(c)) for c in drawn]
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        reason = "nothing is left of D" if values else "the basis has fewer directions than this rank"
        return Figure("capture", None, "fraction", labels=labels, reason=reason)
    spread = float(np.std(finite, ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else None
    return Figure("capture", float(np.mean(finite)), "fraction", stderr=spread, labels=labels)
