"""Rows made smaller by a random sparse map S (size, n_params) that keeps inner products nearly as they are.

Every parameter goes to `nonzeros` random places, one in each of as many equal parts of the sketch, with random signs /
sqrt(nonzeros) (sparse Johnson-Lindenstrauss; with one place: the count sketch). S is never stored: its columns are made
again from counter-based streams in fixed pieces, so that they depend on (size, nonzeros, seed) alone.

Bound for nonzeros = 1 (Nelson and Nguyen, "OSNAP: faster numerical linear algebra algorithms via sparser subspace
embeddings", FOCS 2013: size >= (d^2 + d) / (failure (2 eps - eps^2)^2) puts every singular value of S U within
1 +- eps). For orthonormal columns U (n_params, d), E |U^T S^T S U - 1|_F^2 <= (d^2 + d) / size, and by Markov's
inequality, except with probability `failure`,

    (1 - e) |x|^2 <= |S x|^2 <= (1 + e) |x|^2  for all x in the span of U,  e^2 = (d^2 + d) / (failure size).

Captures: let d count the basis's columns and the displacement D. What is left of |D|^2 outside the basis and |D|^2
itself are both smallest or whole squared lengths in that span, so each moves by a factor within 1 +- e, and the share
left outside by one within (1 - e) / (1 + e) .. (1 + e) / (1 - e). The bound is for nonzeros = 1 alone, and for a basis
that is chosen by its steps (`prefix`, `span`), not by the sketch itself (`top`). It holds for one basis and one
displacement: for n of them divide `failure` by n.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.streams import Streams

# Parameters whose places are drawn from one stream. Part of the definition of a sketch: another size is another sketch.
PIECE = 2**18
# Places and signs are kept between rows up to this many bytes in all, and made again for every row beyond.
MAX_BYTES_KEPT = 64 * 2**20


@dataclass(frozen=True)
class Sketch:
    """The map S (size, n_params).

    Attributes:
        n_params: entries of a row. size: entries of a sketched row.
        nonzeros: places that every parameter goes to, a divisor of `size`; the stated bound is for 1.
        seed: which draw of the map; recordings are comparable only under one.
    """

    n_params: int
    size: int
    nonzeros: int = 1
    seed: int = 0
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.nonzeros <= self.size < 2**30 or self.size % self.nonzeros or self.n_params < 1:
            raise InputError(
                f"a sketch cannot map {self.n_params} parameters to size {self.size} with {self.nonzeros} places each; "
                "give at least 1 parameter, 1 <= nonzeros <= size < 2**30, and a size that nonzeros divides."
            )

    def parameters(self) -> dict[str, int]:
        """Return the numbers that define this map."""
        return {"n_params": self.n_params, "size": self.size, "nonzeros": self.nonzeros, "seed": self.seed}

    def apply(self, row: Float[Tensor, " n_entries"]) -> Float64[Tensor, " size"]:
        """Return S x, (size,) float64, for one row x (n_params,) of any precision."""
        if row.shape != (self.n_params,):
            raise InputError(
                f"a row has shape {tuple(row.shape)}, but the sketch takes rows of {self.n_params} parameters."
            )
        part = self.size // self.nonzeros
        total = np.zeros((self.nonzeros, part))
        for start, codes in self._pieces():
            values = row[start : start + codes.shape[1]].detach().cpu().double().numpy()
            for own, code in zip(total, codes, strict=True):
                signed = np.where(code & 1, -values, values)
                own += np.bincount(code >> 1, weights=signed, minlength=part)
        return torch.from_numpy(total.ravel() / np.sqrt(self.nonzeros))

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first parameter, codes (nonzeros, at most PIECE) int32); a code is 2 * place + (1 for minus)."""
        keep = 4 * self.n_params * self.nonzeros <= MAX_BYTES_KEPT
        for start in range(0, self.n_params, PIECE):
            codes = self._kept.get(start)
            if codes is None:
                codes = self._draw(start // PIECE, min(PIECE, self.n_params - start))
                if keep:
                    self._kept[start] = codes
            yield start, codes

    def _draw(self, piece: int, n: int) -> np.ndarray:
        streams = Streams(self.seed).child("sketch", self.size, self.nonzeros)
        n_codes = 2 * (self.size // self.nonzeros)
        # Whole pieces are drawn and then cut: drawing only n would change the map with n_params.
        drawn = streams.generator(piece).integers(0, n_codes, (self.nonzeros, PIECE), dtype=np.int32)
        return drawn[:, :n]


def distortion(size: int, dimension: int, failure: float = 0.05) -> float:
    """Return e = sqrt((d^2 + d) / (failure size)): |S x|^2 / |x|^2 is within 1 +- e in a d-dimensional span.

    For nonzeros = 1 alone.

    Args:
        dimension: d; the rank of the basis plus 1 for a capture.
        failure: probability that the draw of S breaks the bound.
    """
    if size < 1 or dimension < 1 or not 0 < failure < 1:
        raise InputError(
            f"size is {size}, dimension {dimension} and failure {failure}; the first two must be at least 1, failure "
            "must lie between 0 and 1."
        )
    return float(np.sqrt((dimension**2 + dimension) / (failure * size)))


def capture_error(capture: float, distortion: float) -> float:
    """Bound the distance of the exact captured fraction from a sketched one, at squared distortion 1 +- `distortion`.

    The share outside, 1 - capture, moves by a factor of at most (1 + e) / (1 - e); a capture is within [0, 1] whatever
    the sketch.
    """
    if not 0 <= capture <= 1 or not distortion >= 0:
        raise InputError(
            f"capture is {capture} and distortion {distortion}; give 0 <= capture <= 1 and distortion >= 0."
        )
    largest = max(capture, 1 - capture)
    if distortion >= 1:
        return largest
    return min(largest, (1 - capture) * 2 * distortion / (1 - distortion))
