"""Search methods behind one ask/tell interface: they propose perturbations and learn from losses, nothing else.

A method is a pure function of its settings and of the losses it was told: told the same losses again, it is in the same
state, which is how an interrupted search goes on. To add a method, write one class and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lineament.errors import InputError, require_package
from lineament.parameters import Space
from lineament.population.members import BasisMembers, Members
from lineament.population.population import ranked
from lineament.population.region import Region
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
        """Return this point plus weight z_number."""
        return Position((*self.draws, (number, weight)), self.coefficients)

    def delta(self, region: Region, streams: Streams) -> Tensor:
        """Return theta - theta_0, (n_params,) float32."""
        total = torch.zeros(region.parameters.n_params)
        for number, weight in self.draws:
            total += weight * region.members(streams, [number], 1.0).deltas(0, 1)[0]
        if self.coefficients:
            assert region.basis is not None
            total += BasisMembers(region.basis, np.asarray([self.coefficients])).deltas(0, 1)[0]
        return total


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
        """Return centre + delta of members start .. stop - 1."""
        return self.members.deltas(start, stop) + self.centre


# (draw number, weight) pairs: one generation's shift of a centre.
Move = tuple[tuple[int, float], ...]


class MemberMaker:
    """Makes members of a region from their numbers, and keeps the centre's vector between generations.

    The vector is the sum of the moves in their order, each summed first by itself: every process that adds them up
    comes to the same bits, whether it followed the search from its start or joins late.
    """

    def __init__(self, region: Region, streams: Streams) -> None:
        self.region, self.streams = region, streams
        self._moves: tuple[Move, ...] = ()
        self._vector = torch.zeros(region.parameters.n_params)

    def centre(self, moves: tuple[Move, ...]) -> Tensor:
        """Return the centre less theta_0 after these moves, (n_params,) float32; only new moves are added."""
        if moves[: len(self._moves)] != self._moves:
            self._moves, self._vector = (), torch.zeros(self.region.parameters.n_params)
        for move in moves[len(self._moves) :]:
            self._vector = self._vector + Position(move).delta(self.region, self.streams)
        self._moves = moves
        return self._vector


@dataclass(frozen=True)
class Draws:
    """Members in a few numbers, from which any process makes the very same perturbations.

    Attributes:
        numbers: of the region's draws, at standard deviation `sigma` per coordinate.
        moves: of the centre that the draws are around; None for draws around theta_0.
        rows: coordinates in the region's basis, one row per member, in place of draws.
    """

    numbers: tuple[int, ...] = ()
    sigma: float = 0.0
    moves: tuple[Move, ...] | None = None
    rows: tuple[tuple[float, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.rows or self.numbers)

    def part(self, start: int, stop: int) -> Draws:
        """Return members start .. stop - 1."""
        return replace(self, numbers=self.numbers[start:stop], rows=self.rows[start:stop])

    def members(self, maker: MemberMaker) -> Members:
        """Return the members as perturbations of theta_0."""
        region = maker.region
        if self.rows:
            assert region.basis is not None
            return BasisMembers(region.basis, np.asarray(self.rows))
        drawn = region.members(maker.streams, self.numbers, self.sigma)
        return drawn if self.moves is None else Shifted(drawn, maker.centre(self.moves))


@dataclass(frozen=True)
class Generation:
    """What a method asks to have scored: members in numbers, and each one's position."""

    draws: Draws
    positions: Sequence[Position]
    maker: MemberMaker

    @property
    def members(self) -> Members:
        """The members as perturbations of theta_0, made when they are asked for."""
        return self.draws.members(self.maker)


class Method(Protocol):
    """Proposes generations of members."""

    def ask(self, size: int) -> Generation:
        """Return the next members, at most `size`."""

    def tell(self, losses: np.ndarray) -> None:
        """Take the losses of the members last asked for; failed ones are nan."""


@dataclass
class OneShot:
    """N draws around theta_0; the best wins. What the theorem speaks of."""

    region: Region
    streams: Streams
    sigma: float
    base: float
    _asked: int = 0

    def __post_init__(self) -> None:
        self._maker = MemberMaker(self.region, self.streams)

    def ask(self, size: int) -> Generation:
        """Return draws in the order of their numbers."""
        numbers = tuple(range(self._asked, self._asked + size))
        self._asked += size
        positions = [Position(((number, self.sigma),)) for number in numbers]
        return Generation(Draws(numbers, self.sigma), positions, self._maker)

    def tell(self, losses: np.ndarray) -> None:
        """Learn nothing."""


@dataclass
class Centred:
    """What methods that move share: a centre in numbers, the moves that led to it, and the draws around it."""

    region: Region
    streams: Streams
    sigma: float
    base: float
    centre: Position = field(default_factory=Position)
    _moves: tuple[Move, ...] = ()
    _numbers: tuple[int, ...] = ()
    _asked: int = 0

    def __post_init__(self) -> None:
        self._maker = MemberMaker(self.region, self.streams)

    def ask(self, size: int) -> Generation:
        """Return fresh draws around the centre."""
        self._numbers = tuple(range(self._asked, self._asked + size))
        self._asked += size
        positions = [self.centre.moved(number, self.sigma) for number in self._numbers]
        return Generation(Draws(self._numbers, self.sigma, self._moves), positions, self._maker)

    def _move(self, move: Move) -> None:
        """Shift the centre by sum of weight z_number."""
        for number, weight in move:
            self.centre = self.centre.moved(number, weight)
        self._moves = (*self._moves, move)


@dataclass
class Recentring(Centred):
    """Random search that moves to the best member whenever it is better, and else draws nearer."""

    def tell(self, losses: np.ndarray) -> None:
        """Move to an improvement, or shrink sigma."""
        best = ranked(losses)[:1]
        if best and losses[best[0]] < self.base:
            self.base = float(losses[best[0]])
            self._move(((self._numbers[best[0]], self.sigma),))
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
        self._move(tuple((self._numbers[i], float(self.sigma * w)) for i, w in zip(half, weights, strict=True)))


class CmaEs:
    """CMA-ES over the coordinates of a basis, by the `cmaes` package (Hansen and Ostermeier 2001)."""

    def __init__(self, region: Region, streams: Streams, sigma: float, base: float) -> None:
        require_package("cmaes", "search", "--method cmaes")
        from cmaes import CMA

        if region.basis is None:
            raise InputError(f"CMA-ES keeps a {region.dimension} x {region.dimension} matrix; choose a basis for it.")
        if region.dimension < 2:
            raise InputError("CMA-ES needs a basis of rank 2 or more.")
        self._maker = MemberMaker(region, streams)
        self._make: Callable[[int], CMA] = lambda size: CMA(
            mean=np.zeros(region.dimension), sigma=sigma, seed=streams.integer("cma") % 2**31, population_size=size
        )
        self._cma: CMA | None = None
        self._rows: list[np.ndarray] = []

    def ask(self, size: int) -> Generation:
        """Return one population; nothing is learned from a last one that the budget cuts short."""
        if self._cma is None:
            self._cma = self._make(max(2, size))
        self._rows = [self._cma.ask() for _ in range(size)]
        rows = tuple(tuple(map(float, row)) for row in self._rows)
        return Generation(Draws(rows=rows), [Position((), row) for row in rows], self._maker)

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
