"""Search methods behind one ask/tell interface: they propose perturbations and learn from losses, nothing else.

A method is a pure function of its settings and of the losses it was told: told the same losses again, it is in the same
state, which is how an interrupted search goes on. To add a method, write one class and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import Space
from lineament.perturbations import BasisMembers, Members
from lineament.population import ranked
from lineament.search_space import Region
from lineament.streams import Streams

# Re-centring: a generation without a better member shrinks sigma by this factor.
SHRINK = 0.7


@dataclass(frozen=True)
class Position:
    """A point theta_0 + sum_j weight_j z_j of a region, in a few numbers.

    Attributes:
        draws: (draw number, weight) pairs; z_j is draw j of the region at sigma 1.
        coefficients: for methods that propose coordinates of a basis themselves: U c is added.
    """

    draws: tuple[tuple[int, float], ...] = ()
    coefficients: tuple[float, ...] = ()

    def moved(self, number: int, weight: float) -> Position:
        """This point plus weight z_number."""
        return Position((*self.draws, (number, weight)), self.coefficients)

    def delta(self, region: Region, streams: Streams) -> Tensor:
        """theta - theta_0, (n_params,) float32."""
        total = torch.zeros(region.parameters.n_params)
        for number, weight in self.draws:
            total += weight * region.members(streams, [number], 1.0).deltas(0, 1)[0]
        if self.coefficients:
            assert region.basis is not None
            total += BasisMembers(region.basis, np.asarray([self.coefficients])).deltas(0, 1)[0]
        return total


@dataclass(frozen=True)
class Generation:
    """What a method asks to have scored: members as perturbations of theta_0, and each one's position."""

    members: Members
    positions: Sequence[Position]


@dataclass(frozen=True)
class Shifted:
    """Members around another centre: the same perturbations plus one vector."""

    members: Members
    centre: Tensor

    @property
    def space(self) -> Space:
        """The members' space."""
        return self.members.space

    def __len__(self) -> int:
        return len(self.members)

    def deltas(self, start: int, stop: int) -> Tensor:
        """centre + delta of members start .. stop - 1."""
        return self.members.deltas(start, stop) + self.centre


class Method(Protocol):
    """Proposes generations of members."""

    def ask(self, size: int) -> Generation:
        """The next at most `size` members."""

    def tell(self, losses: np.ndarray) -> None:
        """Losses of the members last asked for, nan for failed ones."""


@dataclass
class OneShot:
    """N draws around theta_0; the best wins. What the theorem speaks of."""

    region: Region
    streams: Streams
    sigma: float
    base: float
    _asked: int = 0

    def ask(self, size: int) -> Generation:
        """Draws in the order of their numbers."""
        numbers = range(self._asked, self._asked + size)
        self._asked += size
        members = self.region.members(self.streams, numbers, self.sigma)
        return Generation(members, [Position(((number, self.sigma),)) for number in numbers])

    def tell(self, losses: np.ndarray) -> None:
        """Nothing to learn."""


@dataclass
class Centred:
    """What methods that move share: a centre in numbers and as a vector, and the draws around it."""

    region: Region
    streams: Streams
    sigma: float
    base: float
    centre: Position = field(default_factory=Position)
    _vector: Tensor | None = None
    _numbers: Sequence[int] = ()
    _asked: int = 0

    def ask(self, size: int) -> Generation:
        """Fresh draws around the centre."""
        self._numbers = range(self._asked, self._asked + size)
        self._asked += size
        if self._vector is None:
            self._vector = self.centre.delta(self.region, self.streams)
        members = Shifted(self.region.members(self.streams, self._numbers, self.sigma), self._vector)
        return Generation(members, [self.centre.moved(number, self.sigma) for number in self._numbers])

    def _move(self, weights: Sequence[tuple[int, float]]) -> None:
        """Shift the centre by sum of weight z_number."""
        for number, weight in weights:
            self.centre = self.centre.moved(number, weight)
        if self._vector is not None:
            self._vector = self._vector + Position(tuple(weights)).delta(self.region, self.streams)


@dataclass
class Recentring(Centred):
    """Random search that moves to the best member whenever it is better, and else draws nearer."""

    def tell(self, losses: np.ndarray) -> None:
        """Move to an improvement, or shrink sigma."""
        best = ranked(losses)[:1]
        if best and losses[best[0]] < self.base:
            self.base = float(losses[best[0]])
            self._move([(self._numbers[best[0]], self.sigma)])
        else:
            self.sigma *= SHRINK


@dataclass
class EvolutionStrategy(Centred):
    """(mu / mu_w, lambda): the centre moves by the better half's draws, weighted by rank (Hansen 2016, section 1)."""

    def tell(self, losses: np.ndarray) -> None:
        """Recombine the better half."""
        order = ranked(losses)
        half = order[: max(1, len(order) // 2)]
        raw = np.log(len(half) + 0.5) - np.log(np.arange(1, len(half) + 1))
        weights = raw / raw.sum() if len(half) else raw
        self._move([(self._numbers[i], float(self.sigma * w)) for i, w in zip(half, weights, strict=True)])


class CmaEs:
    """CMA-ES over the coordinates of a basis, by the `cmaes` package (Hansen and Ostermeier 2001)."""

    def __init__(self, region: Region, streams: Streams, sigma: float, base: float) -> None:
        from cmaes import CMA

        if region.basis is None:
            raise InputError(f"CMA-ES keeps a {region.dimension} x {region.dimension} matrix; choose a basis for it.")
        if region.dimension < 2:
            raise InputError("CMA-ES needs a basis of rank 2 or more.")
        self.region = region
        self._make: Callable[[int], CMA] = lambda size: CMA(
            mean=np.zeros(region.dimension), sigma=sigma, seed=streams.integer("cma") % 2**31, population_size=size
        )
        self._cma: CMA | None = None
        self._rows: list[np.ndarray] = []

    def ask(self, size: int) -> Generation:
        """One population; the last may be cut short by the budget and is then not learned from."""
        if self._cma is None:
            self._cma = self._make(max(2, size))
        self._rows = [self._cma.ask() for _ in range(size)]
        assert self.region.basis is not None
        members = BasisMembers(self.region.basis, np.stack(self._rows))
        return Generation(members, [Position((), tuple(map(float, row))) for row in self._rows])

    def tell(self, losses: np.ndarray) -> None:
        """Update mean and covariance; failed members count as the worst."""
        assert self._cma is not None
        if len(losses) == self._cma.population_size and np.isfinite(losses).any():
            filled = np.where(np.isfinite(losses), losses, losses[np.isfinite(losses)].max() + 1.0)
            self._cma.tell(list(zip(self._rows, map(float, filled), strict=True)))


METHODS: dict[str, Callable[[Region, Streams, float, float], Method]] = {
    "one_shot": OneShot,
    "recentre": Recentring,
    "es": EvolutionStrategy,
    "cmaes": CmaEs,
}
