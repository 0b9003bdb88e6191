"""What one adapter holds: singular values of dW = scale B A by module, from the factors alone.

Every figure is of dW, so that the gauge (A, B) -> (R A, B R^-1) leaves it alone. No matrix of the size of a weight is
formed. Shares are of energy, |dW|^2. Beside what a module uses stands what a training that learned nothing would use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.merging.blind_factors import BlindFactors, blind_factors
from lineament.problems.factor_names import PREFIX
from lineament.problems.stored_adapters import Factors, StoredAdapter
from lineament.vectors.adapter_algebra import adapter_singular_values
from lineament.vectors.spectrum import rank_for_share, spectrum_statistics

# Norms whose squares, and products of these, are numbers in float64; a smaller dW is zero, a larger one refused.
LEAST_NORM, LARGEST_NORM = 1e-140, 1e140


@dataclass(frozen=True)
class Decomposition:
    """dW = left diag(values) right^T of one module.

    Attributes:
        left: (d_out, n) orthonormal columns. values: (n,), largest first. right: (d_in, n) orthonormal columns.
    """

    left: Float64[Tensor, "d_out n_values"]
    values: Float64[Tensor, " n_values"]
    right: Float64[Tensor, "d_in n_values"]

    def rank(self, share: float) -> int:
        """Return the fewest directions that hold a share of |dW|^2; 0 where dW is zero."""
        return rank_for_share(self.values.square().numpy(), share)


@dataclass(frozen=True)
class ModuleSpectrum:
    """The singular values of one module's dW.

    Attributes:
        module: name in the base model. d_out, d_in: shape of its weight. paid: rank of its factors.
        values: singular values, largest first, (min(paid, d_out, d_in),).
    """

    module: str
    d_out: int
    d_in: int
    paid: int
    values: Float64[np.ndarray, " n_values"]

    @property
    def energy(self) -> float:
        """|dW|^2."""
        return float(np.square(self.values).sum())

    @property
    def norm(self) -> float:
        """|dW|, the Frobenius norm."""
        return math.sqrt(self.energy)

    @property
    def blind(self) -> BlindFactors:
        """What a blind training of this shape gives."""
        return blind_factors(self.d_out, self.paid, self.d_in)

    @property
    def participation(self) -> float:
        """Participation ratio (sum s^2)^2 / sum s^4, in directions; nan where dW is zero."""
        return _participation(self.values)

    @property
    def blind_participation(self) -> float:
        """Participation ratio after a blind training of this shape."""
        return _participation(self.blind.values)

    def rank(self, share: float) -> int:
        """Return the fewest directions that hold a share of |dW|^2; 0 where dW is zero."""
        return rank_for_share(np.square(self.values), share)

    def blind_rank(self, share: float) -> int:
        """Return the same after a blind training of this shape."""
        return rank_for_share(np.square(self.blind.values), share)

    def tail(self, rank: int) -> float:
        """Return |dW - dW_rank|^2, what the best approximation of a rank leaves out."""
        return float(np.square(self.values[rank:]).sum())

    @property
    def floor(self) -> float | None:
        """Largest singular value that noise would have (`BlindFactors.floor`); None where there is no floor."""
        return self.blind.floor(self.values) if self.energy > 0 else None

    @property
    def above_floor(self) -> int | None:
        """How many singular values noise would not have; None where there is no floor."""
        return None if self.floor is None else int((self.values > self.floor).sum())


@dataclass(frozen=True)
class AdapterSpectrum:
    """The spectra of an adapter's modules, in the order of the model, and what they say together."""

    modules: tuple[ModuleSpectrum, ...]

    def __repr__(self) -> str:
        """Say in one line what the adapter uses of what was paid for."""
        used = self.used(0.9)
        uses = "changes nothing" if used is None else f"{used:.2g} used (90 %), |dW| {self.norm:.3g}"
        return f"AdapterSpectrum({len(self.modules)} modules, rank {self.paid:.3g} paid for, {uses})"

    @property
    def norm(self) -> float:
        """|dW| over all modules."""
        return math.sqrt(sum(module.energy for module in self.modules))

    @cached_property
    def moved(self) -> tuple[ModuleSpectrum, ...]:
        """The modules whose dW is not zero."""
        return tuple(module for module in self.modules if module.energy > 0)

    def mean(self, of: Callable[[ModuleSpectrum], float | None]) -> float | None:
        """Return the mean of a figure over the modules whose dW is not zero and that have it; None without any."""
        found = [value for module in self.moved if (value := of(module)) is not None]
        return float(np.mean(found)) if found else None

    @property
    def paid(self) -> float:
        """Mean rank of the factors."""
        return float(np.mean([module.paid for module in self.modules]))

    def used(self, share: float) -> float | None:
        """Return the mean over modules of the fewest directions that hold a share of |dW|^2."""
        return self.mean(lambda module: module.rank(share))

    def blind_used(self, share: float) -> float | None:
        """Return the same after a blind training of the same shapes."""
        return self.mean(lambda module: module.blind_rank(share))

    def truncation_error(self, rank: int) -> float:
        """Return |dW - dW_rank| / |dW| over all modules, each cut to a rank; nan where dW is zero."""
        total = sum(module.energy for module in self.modules)
        return math.sqrt(sum(module.tail(rank) for module in self.modules) / total) if total > 0 else math.nan

    def rank(self, share: float) -> int:
        """Return the fewest directions that, in every module, hold a share of |dW|^2 over all modules."""
        most = max((len(module.values) for module in self.modules), default=0)
        allowed = math.sqrt(max(0.0, 1 - share)) + 1e-9
        return next((rank for rank in range(most + 1) if self.truncation_error(rank) <= allowed), 0)

    @property
    def share_above_floor(self) -> float | None:
        """Share of |dW|^2 in directions above their module's floor, of the modules that have one."""
        judged = [module for module in self.moved if module.above_floor is not None]
        total = sum(module.energy for module in judged)
        return 1 - sum(module.tail(module.above_floor or 0) for module in judged) / total if judged else None


def decompose(factors: Factors) -> Decomposition:
    """Decompose dW = scale B A of one module, from QR of both factors and the SVD of a matrix of rank by rank."""
    left, left_triangle = torch.linalg.qr(factors.b.double())
    right, right_triangle = torch.linalg.qr(factors.a.double().T)
    inner = torch.linalg.svd(factors.scale * left_triangle @ right_triangle.T, full_matrices=False)
    return Decomposition(left @ inner.U, _above_least(inner.S), right @ inner.Vh.T)


def adapter_spectrum(adapter: StoredAdapter) -> AdapterSpectrum:
    """Return the singular values of an adapter's dW by module, with what follows from them.

    Raises:
        InputError: factors that are not finite; names the module.
    """
    return AdapterSpectrum(tuple(_spectra(adapter)))


def require_finite(adapter: StoredAdapter) -> None:
    """Raise `InputError` where a factor is NaN or infinite, or dW too large to square; names the module."""
    for module, (a, b, scale) in adapter.factors.items():
        bound = abs(scale) * float(a.double().norm()) * float(b.double().norm())  # NaN and infinity stay what they are
        if not bound <= LARGEST_NORM:
            name = module.removeprefix(PREFIX)
            raise InputError(f"{name} has factors that are NaN or infinite: the adapter's training failed.")


def _above_least(values: Float64[Tensor, " n_values"]) -> Float64[Tensor, " n_values"]:
    return torch.where(values < LEAST_NORM, 0.0, values)


def _spectra(adapter: StoredAdapter) -> Iterator[ModuleSpectrum]:
    require_finite(adapter)
    values = adapter_singular_values(adapter)
    for module, (a, b, _) in adapter.factors.items():
        name = module.removeprefix(PREFIX)
        yield ModuleSpectrum(name, b.shape[0], a.shape[1], len(a), _above_least(values[module]).numpy())


def _participation(values: Float64[np.ndarray, " n_values"]) -> float:
    return spectrum_statistics(np.square(values))["participation_ratio"]
