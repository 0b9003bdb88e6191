"""The blind run of a recording: the same optimizer, step sizes and rows, fed gradients that know nothing.

No model is needed: the optimizer's settings and the recorded start give it (`lineament.vectors.blind`). Root mean
squares of gradients and of the first weights come from the recording, where weight decay, SGD's step or Adam's eps make
them matter; one number for all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from lineament.measurements.recording.options import AnalysisOptions
from lineament.problems.factor_pairs import FactorPair
from lineament.records import Quantity
from lineament.streams import Streams
from lineament.vectors.effective import blind_effective_gram, pair_spectrum
from lineament.vectors.recording.optimizer import RecordedOptimizer, blind_rows
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.spectrum import spectrum_statistics
from lineament.vectors.trajectory_gram import TrajectoryGram

DEFINITION = (
    "optimizer steps of the blind run (protocol 2, null_blind) whose figures stand beside those of the recording as "
    "`blind`: the same optimizer and step sizes, fed independent Gaussian gradients"
)
NO_STEP_SIZE = "its step size is 0 at rows that moved the weights"
# Draws of a blind displacement of each adapted weight; a rank is a mean over many modules besides.
DRAWS = 3


@dataclass(frozen=True)
class BlindRun:
    """What the recorded optimizer does without any signal.

    Attributes:
        updates: Gram matrix at all recorded rows, per coordinate; None where the optimizer is not known.
        optimizer: in words. reason: why there is none.
        n_steps: optimizer steps that it makes.
    """

    updates: TrajectoryGram | None
    optimizer: str
    n_steps: int
    reason: str | None

    @classmethod
    def of(cls, trajectory: Trajectory, gram: TrajectoryGram, options: AnalysisOptions) -> BlindRun:
        """Make the blind run of a recording.

        Args:
            gram: of its updates, in the recorded space.
        """
        known, n_steps = optimizer_of(trajectory, options), trajectory.steps[-1]
        if not known.known:
            return cls(None, "unknown", n_steps, known.reason)
        updates = _scaled_rows(trajectory, gram, known, options.seed)
        if np.any((np.diag(gram.gram) > 0) & ~(np.diag(updates.gram) > 0)):
            return cls(None, known.words, n_steps, f"{known.words}: {NO_STEP_SIZE}")
        return cls(updates, known.words, n_steps, None)

    def quantity(self) -> Quantity:
        """Return what the record says about it."""
        value = None if self.updates is None else float(self.n_steps)
        return Quantity("blind_run", value, "steps", labels={"optimizer": self.optimizer}, reason=self.reason)

    def effective(self, trajectory: Trajectory, pairs: Sequence[FactorPair]) -> TrajectoryGram | None:
        """Return the expected Gram matrix of its dW updates at all recorded rows."""
        if self.updates is None:
            return None
        return blind_effective_gram(pairs, trajectory.start(), self.updates)

    def module_ranks(
        self, trajectory: Trajectory, pairs: Sequence[FactorPair], options: AnalysisOptions
    ) -> dict[str, dict[str, float]]:
        """Return module -> effective ranks of the dW that a blind run ends with, mean over a few draws.

        A coordinate's displacement is a sum of many updates that know nothing: a Gaussian of the run's own variance.
        """
        if self.updates is None:
            return {}
        whole = self.updates.displacement(1, self.updates.n_steps)
        size, start = sqrt(self.updates.squared_norm(whole)), trajectory.start().double().numpy()
        streams, ranks = Streams(options.seed).child("recording"), {}
        for pair in pairs:
            generator = streams.generator("blind rank", pair.module)
            first = (start[pair.a].reshape(pair.a_shape), start[pair.b].reshape(pair.b_shape))
            drawn = []
            for _ in range(DRAWS):
                last = [factor + size * generator.standard_normal(factor.shape) for factor in first]
                values = pair_spectrum(pair.scale, first, (last[0], last[1]))
                drawn.append(spectrum_statistics(np.square(values)))
            ranks[pair.module] = {name: float(np.mean([draw[name] for draw in drawn])) for name in drawn[0]}
        return ranks


def optimizer_of(trajectory: Trajectory, options: AnalysisOptions) -> RecordedOptimizer:
    """Return the optimizer that the options state, else the one that the recording knows of."""
    if options.optimizer is None or options.optimizer.optimizer is None:
        return trajectory.optimizer
    n_params, n_steps = trajectory.space.n_params, trajectory.steps[-1]
    return RecordedOptimizer.stated(options.optimizer, n_params, trajectory.first_step, n_steps)


def _scaled_rows(trajectory: Trajectory, gram: TrajectoryGram, known: RecordedOptimizer, seed: int) -> TrajectoryGram:
    """Return the blind rows, at the scale of the recorded gradients and first weights where these matter."""
    rules = [group.rule for group in known.groups]
    start_rms = _rms(trajectory.start().double().numpy()) if any(rule.weight_decay for rule in rules) else 0.0
    gradients = trajectory.gradients
    n_entries = trajectory.n_steps * trajectory.space.n_params
    if gradients is not None:
        gradient_rms = sqrt(float(np.trace(gradients.gram().gram)) / n_entries)
    elif rules[0].name == "sgd":
        # SGD's updates are as long as its gradients make them; those of Adam are not
        unit = blind_rows(known, trajectory.steps, trajectory.first_step, seed=seed)
        gradient_rms = sqrt(float(np.trace(gram.gram)) / trajectory.space.n_params / float(np.trace(unit.gram)))
    else:
        gradient_rms = 1.0
    return blind_rows(
        known,
        trajectory.steps,
        trajectory.first_step,
        gradient_rms=gradient_rms or 1.0,
        start_rms=start_rms,
        seed=seed,
    )


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))
