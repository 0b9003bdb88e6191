"""Sizes of the analysis of a recording, fixed before any result."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lineament.errors import InputError
from lineament.settings.plain import digest
from lineament.vectors.recording.stated_optimizer import StatedOptimizer


@dataclass(frozen=True)
class AnalysisOptions:
    """What is asked of a recording.

    Attributes:
        ranks: ranks of the captures.
        shares: shares of the run's displacement that first steps are to span; 0.77 is the paper's figure.
        draws: draws of random update times.
        window: rows in a window, from which two planes are made, of every other row each.
        plane_rank: rank of those planes.
        times: times, as shares of the run, between which directions are compared.
        seed: of the draws.
        optimizer: the optimizer of the training, where a recording does not know it or is wrong about it.
    """

    ranks: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    shares: tuple[float, ...] = (0.5, 0.77, 0.9)
    draws: int = 20
    window: int = 20
    plane_rank: int = 5
    times: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    seed: int = 0
    optimizer: StatedOptimizer | None = None

    def __post_init__(self) -> None:
        if self.optimizer is not None:
            self.optimizer.check_optimizer()
        if self.window < 2 or self.window % 2:
            raise InputError(f"a window of {self.window} rows; it must be even and at least 2.")
        if not 1 <= self.plane_rank <= self.window // 2:
            raise InputError(
                f"planes of rank {self.plane_rank} from {self.window // 2} rows each; give a rank from 1 to "
                f"{self.window // 2}, or a longer window."
            )

    def hash(self) -> str:
        """Identity of the options."""
        return digest(asdict(self))
