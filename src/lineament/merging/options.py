"""How a composition of two adapters is foretold and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.streams import Streams

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# Beyond it losses are those of a broken model, and float32 sums lose the smaller adapter.
LARGEST_SCALE = 100.0
# How often the smallest scale is halved, along s = t, to find where the prediction begins to hold.
HALVINGS = 5
FEWEST_EXAMPLES = 8


@dataclass(frozen=True)
class CompositionOptions:
    """How a composition is measured.

    Attributes:
        scales: of the grid, above 0; 0 and 1 are added.
        draws: adapters of the null: B with random singular vectors.
        seed: of the halves of the data and of these draws.
    """

    scales: Sequence[float] = SCALES
    draws: int = 8
    seed: int = 0
    streams: Streams = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", Streams(self.seed).child("composition"))
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise InputError(
                f"scales are {tuple(self.scales)}; give at least one, above 0 and at most {LARGEST_SCALE:g}."
            )
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}; the null needs at least 1.")

    @property
    def grid(self) -> tuple[float, ...]:
        """Scales of the grid, ascending from 0."""
        return tuple(sorted({0.0, 1.0, *map(float, self.scales)}))

    @property
    def small(self) -> tuple[float, ...]:
        """Scales below those of the grid, ascending."""
        return tuple(self.grid[1] / 2**n for n in range(HALVINGS, 0, -1))


def require_examples(n: int, what: str) -> None:
    """Raise `InputError` unless a data set has enough examples for two halves with an interval."""
    if n < FEWEST_EXAMPLES:
        raise InputError(
            f"{what} has {n} examples; at least {FEWEST_EXAMPLES} are needed, half of them to choose scales."
        )


def random_half(n: int, options: CompositionOptions, place: int) -> Tensor:
    """Choose a half of a data set's examples at random, (n,) True for those that may choose scales."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.from_numpy(options.streams.generator("halves", place).permutation(n)[: n // 2])] = True
    return chosen
