"""Random perturbations of a parameter space, each known by a few numbers and made again whenever it is needed.

Noise comes from counter-based generators keyed (run, member, tensor): any worker makes the same draw alone, tensors of
equal shape get independent noise, and nothing is stored. Members 2 j and 2 j + 1 of an antithetic family are +z and -z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.parameters import ParameterSpace, Space
from lineament.streams import Streams


class Members(Protocol):
    """n perturbations of one space, made in pieces."""

    @property
    def space(self) -> Space:
        """Where the perturbations live."""

    def __len__(self) -> int: ...

    def deltas(self, start: int, stop: int) -> Float32[Tensor, "n_drawn n_params"]:
        """Make delta_start .. delta_(stop - 1), (stop - start, n_params) float32 on the CPU."""


@dataclass(frozen=True)
class GaussianMembers:
    """delta_i = sigma z_i, z_i ~ N(0, I) over the whole space.

    Attributes:
        parameters: the space; its tensors' names key the noise.
        streams: the run's family of streams.
        numbers: member numbers; a draw depends on (streams, number) alone, whatever else is drawn.
        sigma: standard deviation per parameter, above 0.
    """

    parameters: ParameterSpace
    streams: Streams
    numbers: Sequence[int]
    sigma: float
    antithetic: bool = False

    def __post_init__(self) -> None:
        _require(self.numbers, self.sigma)

    @property
    def space(self) -> Space:
        """The whole parameter space."""
        return self.parameters.space

    def __len__(self) -> int:
        return len(self.numbers)

    def deltas(self, start: int, stop: int) -> Float32[Tensor, "n_drawn n_params"]:
        """Make sigma z of members start .. stop - 1."""
        rows = np.empty((stop - start, self.space.n_params), dtype=np.float32)
        for row, number in zip(rows, self.numbers[start:stop], strict=True):
            draw, sign = _draw_and_sign(number, self.antithetic)
            # One stream per tensor, keyed by its name: with one stream over the flat vector, a tensor more in the space
            # would change the noise of all that follow.
            for name, part in zip(self.parameters.names, self.parameters.slices, strict=True):
                self.streams.generator(draw, name).standard_normal(dtype=np.float32, out=row[part])
            row *= np.float32(sign * self.sigma)
        return torch.from_numpy(rows)


@dataclass(frozen=True)
class BasisMembers:
    """delta_i = U c_i for explicit coefficients.

    Attributes:
        basis: U, (n_params, rank).
        coefficients: c, (n, rank) float64.
    """

    basis: Basis
    coefficients: Float64[np.ndarray, "n_members rank"]

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 2 or self.coefficients.shape[1] != self.basis.rank or not len(self.coefficients):
            raise InputError(
                f"coefficients have shape {self.coefficients.shape}, which does not fit basis {self.basis.label!r}; "
                f"give (n_members, {self.basis.rank}) with at least one member."
            )

    @property
    def space(self) -> Space:
        """The basis's space."""
        return self.basis.space

    def __len__(self) -> int:
        return len(self.coefficients)

    def deltas(self, start: int, stop: int) -> Float32[Tensor, "n_drawn n_params"]:
        """Make U c of members start .. stop - 1."""
        return torch.from_numpy(self.coefficients[start:stop]).to(torch.float32) @ self._directions

    @cached_property
    def _directions(self) -> Float32[Tensor, "rank n_params"]:
        """U^T in single precision, made once for all pieces; in one layout, since last bits depend on it."""
        return self.basis.columns.to(torch.float32).T.contiguous()


@dataclass(frozen=True)
class LowRankMembers:
    """Rank-r noise on whole weight matrices: dW_i = sigma / sqrt(r) B_i A_i with standard normal A_i, B_i.

    Every entry of dW has variance sigma^2, and <G, dW> has variance sigma^2 |G|^2 as for dense noise; a member is an
    ordinary LoRA adapter of rank r. Tensors that are not matrices stay as they are.

    Attributes:
        parameters: a `full` space; its two-dimensional tensors are perturbed.
        rank: r of every matrix.
    """

    parameters: ParameterSpace
    streams: Streams
    numbers: Sequence[int]
    sigma: float
    rank: int = 1
    antithetic: bool = False

    def __post_init__(self) -> None:
        _require(self.numbers, self.sigma)
        if self.rank < 1:
            raise InputError(f"the rank of low-rank noise is {self.rank}; it must be at least 1.")
        if self.parameters.space.kind != "full":
            raise InputError(f"rank-r noise perturbs whole weight matrices, not {self.parameters.space}.")

    @property
    def space(self) -> Space:
        """The whole parameter space."""
        return self.parameters.space

    @cached_property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Names and shapes of the perturbed tensors."""
        pairs = zip(self.parameters.names, self.parameters.tensors, strict=True)
        return {name: (p.shape[0], p.shape[1]) for name, p in pairs if p.ndim == 2}

    def __len__(self) -> int:
        return len(self.numbers)

    def factors(
        self, name: str, start: int, stop: int
    ) -> tuple[Float32[Tensor, "n_drawn n_rows rank"], Float32[Tensor, "n_drawn rank n_columns"]]:
        """Make (left, right) of one tensor: (n, shape[0], r) with sigma / sqrt(r) folded in, and (n, r, shape[1])."""
        rows, columns = self.matrices[name]
        drawn = np.empty((stop - start, self.rank * (rows + columns)), dtype=np.float32)
        signs = np.empty((stop - start, 1, 1), dtype=np.float32)
        for i, number in enumerate(self.numbers[start:stop]):
            draw, signs[i] = _draw_and_sign(number, self.antithetic)
            self.streams.generator(draw, name).standard_normal(dtype=np.float32, out=drawn[i])
        left, right = np.split(drawn, [self.rank * rows], axis=1)
        scale = signs * np.float32(self.sigma / np.sqrt(self.rank))
        return (
            torch.from_numpy(left.reshape(-1, rows, self.rank) * scale),
            torch.from_numpy(right.reshape(-1, self.rank, columns)),
        )

    def deltas(self, start: int, stop: int) -> Float32[Tensor, "n_drawn n_params"]:
        """Write out the same perturbations, (n, n_params); zero for tensors that are not matrices."""
        flat = torch.zeros(stop - start, self.space.n_params)
        for name, part in zip(self.parameters.names, self.parameters.slices, strict=True):
            if name in self.matrices:
                left, right = self.factors(name, start, stop)
                flat[:, part] = torch.bmm(left, right).flatten(1)
        return flat


def normal_coefficients(
    streams: Streams, numbers: Sequence[int], rank: int, sigma: float, *, antithetic: bool = False
) -> Float64[np.ndarray, "n_members rank"]:
    """Draw sigma c_i, c_i ~ N(0, I) in a rank-k basis, (n, rank) float64; a row depends on (streams, number) alone."""
    _require(numbers, sigma)
    rows = []
    for number in numbers:
        draw, sign = _draw_and_sign(number, antithetic)
        rows.append(sign * sigma * streams.generator(draw).standard_normal(rank))
    return np.stack(rows)


def _draw_and_sign(number: int, antithetic: bool) -> tuple[int, float]:
    # The number alone decides, never a running count: any worker makes its members without the others.
    return (number // 2, 1.0 - 2.0 * (number % 2)) if antithetic else (number, 1.0)


def _require(numbers: Sequence[int], sigma: float) -> None:
    if not len(numbers):
        raise InputError("a population needs at least 1 member.")
    if not (sigma > 0 and np.isfinite(sigma)):
        raise InputError(f"sigma is {sigma}; it must be above 0 and finite.")
