"""Captures from coefficients: candidates, the three definitions, and the bases made of the recovery's own updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lineament.records import Label, Quantity
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

MOMENTUM_GAP_STEPS = 10
# Bases made of the recovery's own updates, which exist in every space that has a Gram matrix of updates.
OWN = ("prefix", "control_random_times", "trajectory_top")
DEFINED = ("whole", "rest", "rest_gap")


@dataclass(frozen=True)
class Candidate:
    """A basis at one rank as the captures need it.

    Attributes:
        coefficients: U^T u_t of every step.
        own: 1 for each update the basis was built from, (n_steps,); None if it was built from none.
    """

    coefficients: Coefficients
    own: np.ndarray | None


def spanned(gram: TrajectoryGram, steps: np.ndarray) -> Candidate:
    """Return the basis of the updates at 1-based `steps`."""
    own = np.zeros(gram.n_steps)
    own[steps - 1] = 1
    return Candidate(gram.coefficients(gram.span(steps.tolist())), own)


def own_candidates(
    gram: TrajectoryGram, end: int, draws: int, generator_at: Callable[[int], np.random.Generator]
) -> dict[str, Callable[[int], list[Candidate]]]:
    """Return bases made of a trajectory's own updates u_1 .. u_end, as functions of the rank.

    Args:
        draws: sets of random times at each rank, drawn with `generator_at(rank)`.
    """

    def prefix(rank: int) -> list[Candidate]:
        return [spanned(gram, np.arange(1, rank + 1))]

    def random_times(rank: int) -> list[Candidate]:
        generator = generator_at(rank)
        return [spanned(gram, 1 + generator.permutation(end)[:rank]) for _ in range(draws)]

    def top(rank: int) -> list[Candidate]:
        return [Candidate(gram.coefficients(gram.top(rank, end)), gram.displacement(1, end))]

    return dict(zip(OWN, (prefix, random_times, top), strict=True))


def definitions(
    gram: TrajectoryGram, rank: int, ends: Mapping[str, int]
) -> Iterator[tuple[dict[str, Label], Callable[[Candidate], np.ndarray]]]:
    """Yield labels, and candidate -> weights of the vector to capture, for every definition and end point.

    Args:
        ends: name -> number of updates whose sum is D there.
    """
    first = gram.displacement(1, rank)
    gap = gram.displacement(1, min(rank + MOMENTUM_GAP_STEPS, gram.n_steps))

    def own(c: Candidate) -> np.ndarray:
        return first if c.own is None else c.own

    left_out: dict[str, Callable[[Candidate], np.ndarray]] = {
        "whole": lambda c: np.zeros(gram.n_steps),
        "rest": own,
        "rest_gap": lambda c: np.maximum(own(c), gap),
    }
    for at, end in ends.items():
        whole = gram.displacement(1, min(end, gram.n_steps))
        for name in DEFINED:
            yield {"definition": name, "at": at}, lambda c, w=whole, out=left_out[name]: w * (1 - out(c))  # type: ignore[misc]


def mean_capture(
    gram: TrajectoryGram,
    drawn: list[Candidate],
    weights_of: Callable[[Candidate], np.ndarray],
    labels: Mapping[str, Label],
) -> Quantity:
    """Average over draws of one basis, with their standard error; give a reason where there is no value."""
    values = [gram.capture(c.coefficients, weights_of(c)) for c in drawn]
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        reason = "nothing is left of D" if values else "the basis has fewer directions than this rank"
        return Quantity("capture", None, "fraction", labels=labels, reason=reason)
    spread = float(np.std(finite, ddof=1) / np.sqrt(len(finite))) if len(finite) > 1 else None
    return Quantity("capture", float(np.mean(finite)), "fraction", stderr=spread, labels=labels)
