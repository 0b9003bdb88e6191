"""How much of a run's fall in held-out loss something else gives, with the error that the held-out examples leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from lineament.measurements.recording.staleness import Estimated
from lineament.records import Quantity, is_told
from lineament.streams import Streams

DRAWS = 2000
NO_DROP = "the run's held-out loss did not fall by more than 3 standard errors, so that there is nothing to bring back"
Losses = Float64[np.ndarray, " n_examples"]


@dataclass(frozen=True)
class LossDrop:
    """The held-out losses of a run, example by example, at its start and its end.

    Attributes:
        start, end: (n_examples,), nats per target token.
        seed: of the bootstrap over examples, which is the same for all figures, so that they stay paired.
    """

    start: Losses
    end: Losses
    seed: int = 0

    @cached_property
    def _resampled(self) -> Float64[np.ndarray, "draws n_examples"]:
        """How often each example is in each resample, over their number."""
        n = len(self.start)
        generator = Streams(self.seed).child("advice").generator("bootstrap")
        return generator.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n

    @property
    def fall(self) -> float:
        """Mean fall of the loss, in nats per target token."""
        return float((self.start - self.end).mean())

    @property
    def told(self) -> bool:
        """Whether the loss fell by more than 3 standard errors."""
        fall = self.start - self.end
        return is_told(float(fall.mean()), float((self._resampled @ fall).std(ddof=1)))

    def share(self, losses: Losses) -> Estimated:
        """Return the share of the fall that other weights have, (start - theirs) / (start - end)."""
        return self._over_fall(self.start - losses)

    def rise(self, losses: Losses, beside: Losses) -> Estimated:
        """Return how much higher some losses are than others, as a share of the fall."""
        return self._over_fall(losses - beside)

    def quantities(self) -> list[Quantity]:
        """Return the mean losses that everything is measured on."""
        unit, fall = "nats per target token", self.start - self.end
        points = {"start": self.start, "end": self.end}
        known = [Quantity("run_loss", float(losses.mean()), unit, labels={"point": p}) for p, losses in points.items()]
        error = float((self._resampled @ fall).std(ddof=1))
        return [*known, Quantity("run_drop", float(fall.mean()), unit, stderr=error)]

    def _over_fall(self, part: Losses) -> Estimated:
        if not self.told:
            return Estimated(None, reason=NO_DROP)
        fall = self.start - self.end
        drawn = (self._resampled @ part) / (self._resampled @ fall)
        return Estimated(float(part.mean() / fall.mean()), float(drawn.std(ddof=1)))


def paired_error(differences: Sequence[float]) -> float | None:
    """Return the standard error of the mean of paired differences; None for fewer than two."""
    if len(differences) < 2:
        return None
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))
