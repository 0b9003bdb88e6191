"""A vector's effect layer by layer at one KL, beside random directions of the same KL, and the layer to take.

The layer is chosen on one half of the rows. What it is worth is measured on the other half, which had no say: the
largest of many noisy effects is too large on the rows that chose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from lineament.activations.capture import Place, group_sums, problem_reader
from lineament.errors import InputError
from lineament.problems.problem import Batch, Problem
from lineament.steering.effects import Calibration, NeutralText, calibrate_near
from lineament.steering.judging import Effect, Judge, halves_of
from lineament.steering.vector import SteeringVector
from lineament.streams import Streams

# Steering is tried until what is added is so many times as long as the activations themselves; it begins at a quarter.
MAX_SHARE, FIRST_SHARE = 32.0, 0.25
# Called with what begins now: a layer or a draw.
Begins = Callable[[str], None]


@dataclass(frozen=True)
class AtKl:
    """What one direction does at the KL budget.

    Attributes:
        calibration: its coefficient, which is None where the budget is out of reach.
        effect: on the rows that were given; None without a coefficient.
    """

    calibration: Calibration
    effect: Effect | None

    @property
    def value(self) -> float:
        """Return the effect, NaN where there is none."""
        return math.nan if self.effect is None else self.effect.value


@dataclass(frozen=True)
class Sweep:
    """Effects by layer.

    Attributes:
        chosen_on: layer -> effect on the half of the rows that chooses.
        random: layer -> effect of one random direction of the same KL there, on the same half.
        best: the layer with the largest effect on that half; None where no layer reaches the budget.
        reported: the effect at `best` on the other half.
        null: effects of random directions of the same KL at `best`, on the other half.
        n_chosen_on, n_reported: rows of both halves.
    """

    chosen_on: Mapping[int, AtKl]
    random: Mapping[int, float]
    best: int | None
    reported: AtKl | None
    null: tuple[float, ...]
    n_chosen_on: int
    n_reported: int


def activation_sizes(problem: Problem, rows: Batch, vector: SteeringVector) -> dict[int, float]:
    """Map a vector's layers to the root-mean-square norm of the activations there, at the rows' last positions."""
    reader = problem_reader(problem, Place(vector.layers, vector.tags.site))
    sizes = group_sums(reader, rows, torch.zeros(len(rows), dtype=torch.long), 1).rms_norms
    return dict(zip(vector.layers, sizes.tolist(), strict=True))


def coefficient_at_kl(
    problem: Problem, vector: SteeringVector, neutral: NeutralText, kl: float, rows: Batch
) -> Calibration:
    """Find the coefficient at which all of a vector's layers together cost a KL on neutral text.

    Args:
        kl: nats per token.
        rows: token rows at whose last tokens the size of activations is read, which is where the search begins.

    Raises:
        InputError: the vector is zero at all of its layers.
    """
    sizes = torch.tensor(list(activation_sizes(problem, rows, vector).values()), dtype=torch.float64)
    norms = torch.stack([vector.directions[layer].norm() for layer in vector.layers])
    if not norms.max() > 0:
        raise InputError("the vector is zero at all of its layers, so there is nothing to add.")
    doses = (sizes / norms)[norms > 0]
    start = FIRST_SHARE * float(doses.min()) / len(doses) ** 0.5
    return calibrate_near(problem, vector, neutral, kl, MAX_SHARE * float(doses.max()), start)


class AtBudget:
    """Measures directions at one layer at one KL.

    Args:
        vector: with that layer alone.
        size: norm of the activations there.
    """

    def __init__(self, judge: Judge, neutral: NeutralText, vector: SteeringVector, kl: float, size: float) -> None:
        (layer,) = vector.layers
        norm = float(vector.directions[layer].norm())
        if not norm > 0:
            raise InputError(f"the vector is zero at layer {layer}, so there is nothing to add; choose another layer.")
        self.judge, self.neutral, self.vector, self.kl, self.layer = judge, neutral, vector, kl, layer
        self.unit_dose = size / norm

    @property
    def largest(self) -> float:
        """The largest coefficient that is tried."""
        return MAX_SHARE * self.unit_dose

    def calibrated(self, vector: SteeringVector | None = None, start: float | None = None) -> Calibration:
        """Find the coefficient of the vector, or of another direction of its length."""
        start = FIRST_SHARE * self.unit_dose if start is None else start
        return calibrate_near(self.judge.problem, vector or self.vector, self.neutral, self.kl, self.largest, start)

    def measured(self, base: torch.Tensor) -> AtKl:
        """Return the vector's effect at the budget; `base` are the scores without it."""
        found = self.calibrated()
        if found.coefficient is None:
            return AtKl(found, None)
        return AtKl(found, self.judge.effect(base, self.judge.scores(self.vector, found.coefficient)))

    def random_effects(
        self, base: torch.Tensor, n: int, streams: Streams, near: float, begins: Begins
    ) -> tuple[float, ...]:
        """Return the effects of n random directions of the vector's length at the same KL; NaN for one out of reach.

        Args:
            near: coefficient at which the search for the first one's begins.
        """
        effects = []
        for number in range(n):
            begins(f"random direction {number + 1} of {n} at layer {self.layer}")
            generator = streams.generator("random direction", self.layer, number)
            drawn = torch.from_numpy(generator.standard_normal(self.vector.width)).float()
            drawn *= self.vector.directions[self.layer].norm() / drawn.norm()
            direction = replace(self.vector, directions={self.layer: drawn})
            found = self.calibrated(direction, near)
            if found.coefficient is None:
                effects.append(math.nan)
                continue
            near = found.coefficient
            effects.append(self.judge.effect(base, self.judge.scores(direction, found.coefficient)).value)
        return tuple(effects)


def sweep_layers(
    judge: Judge,
    neutral: NeutralText,
    vector: SteeringVector,
    *,
    kl: float,
    n_random: int,
    streams: Streams,
    layers: Sequence[int] = (),
    begins: Begins = lambda what: None,
) -> Sweep:
    """Measure a vector at each of its layers alone, at one KL, and the best layer on rows that did not choose it.

    Args:
        judge: all rows; halves of them choose and report.
        kl: nats per token, on the neutral text.
        n_random: random directions at the best layer; at every other layer there is one, or none where this is 0.
        layers: of the vector; default all.
        begins: called with what begins, which happens `sweep_steps` times at most.

    Raises:
        InputError: fewer than two layers, one that the vector does not have or where it is zero, or too few rows.
    """
    layers = tuple(layers) or vector.layers
    if len(layers) < 2:
        raise InputError(
            f"the vector has layer {vector.layers[0]} only, and a sweep compares several. Make it at all layers "
            "(`lineament steer make --layers all`), or measure this layer alone."
            if len(vector.layers) < 2
            else "a sweep compares several layers; give two or more."
        )
    vector = vector.only(*layers)
    chooses, reports = (judge.subset(index) for index in halves_of(judge.positive, judge.groups))
    begins("scores without the vector")
    base, base_reports = chooses.scores(), reports.scores()
    sizes = activation_sizes(judge.problem, chooses.rows.last_target(), vector)
    chosen_on, random, near = dict[int, AtKl](), dict[int, float](), dict[int, float]()
    for layer in layers:
        begins(f"layer {layer}")
        one = vector.only(layer)
        at = AtBudget(chooses, neutral, one, kl, sizes[layer])
        chosen_on[layer] = at.measured(base)
        near[layer] = chosen_on[layer].calibration.coefficient or FIRST_SHARE * at.unit_dose
        if n_random:
            (random[layer],) = at.random_effects(base, 1, streams, near[layer], begins)
    reached = {layer: found.value for layer, found in chosen_on.items() if math.isfinite(found.value)}
    best = max(reached, key=lambda layer: reached[layer]) if reached else None
    reported, null = None, tuple[float, ...]()
    if best is not None:
        begins(f"layer {best} on the other half of the rows")
        one = vector.only(best)
        size = activation_sizes(judge.problem, reports.rows.last_target(), one)[best]
        at = AtBudget(reports, neutral, one, kl, size)
        found = chosen_on[best].calibration
        assert found.coefficient is not None
        reported = AtKl(found, reports.effect(base_reports, reports.scores(one, found.coefficient)))
        null = at.random_effects(base_reports, n_random, streams.child("report"), near[best], begins)
    return Sweep(chosen_on, random, best, reported, null, len(chooses.rows), len(reports.rows))


def sweep_steps(n_layers: int, n_random: int) -> int:
    """Return how often a sweep says that something begins."""
    return 2 + n_layers * (2 if n_random else 1) + n_random
