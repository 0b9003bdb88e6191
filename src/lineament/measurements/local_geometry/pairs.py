"""Two updates: whether their effects add up, how far both together are predictable, and whether their order matters.

Every pair of tasks, and, as the control, two batches of each task ("within"): what two batches of one task show is no
difference between tasks. Steps are plain gradient steps on fixed batches. The order defect is predicted before any
step, from one Hessian-vector product each: see `vectors.local_geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from lineament.errors import NonFiniteError
from lineament.measurements.local_geometry.geometry import Geometry, TaskGeometry
from lineament.measurements.local_geometry.products import Products
from lineament.measurements.local_geometry.windows import LENGTHS, TOO_SMALL, descent
from lineament.measurements.steering_nulls import matched_noise
from lineament.problems.factor_pairs import factor_pairs, why_no_pairs
from lineament.problems.problem import Batch
from lineament.records import Label, Quantity
from lineament.vectors.effective import update_gram
from lineament.vectors.local_geometry import (
    SIZES,
    TOLERANCE,
    OrderDefect,
    defect_of,
    defect_of_steps,
    displaced,
    gradient_of,
    last_within,
    relative_errors,
    rounding_of,
    value_at,
)

# Step sizes at which order is tried, as eta kappa: the predicted defect itself.
ETA_KAPPA = (1e-3, 1e-2, 3.162e-2, 0.1, 0.3162)
# Where the prediction of the order defect is judged.
JUDGED_ETA_KAPPA = 1e-2
ADDITIVITY_SIZES = (1e-3, 1e-2, 1e-1)
# The size at which additivity is judged; random steps are compared there alone.
JUDGED_SIZE = 1e-2
# Radii of pairs lie above 1e-3 as a rule: two sizes below are enough to see that the smallest steps are predicted.
RADIUS_SIZES = (SIZES[0], SIZES[2], *SIZES[4:])
# A defect of which rounding could make more than this share is not judged.
MOST_ROUNDING = 0.02
TOO_ROUGH = "rounding of the weights could make 2 % of it"
PAIR_DEFINITIONS = {
    "kappa": "|H_B g_A - H_A g_B| / |g_A + g_B| at the operating point; pair within: two batches of one task",
    "kappa_unit_norm": "the same with both gradients at length 1, so that the louder task does not decide",
    "kappa_metric": "the same for steps P^-1 g in the metric of AdamW, P = sqrt(mean squared gradient) + eps",
    "kappa_shuffled": "kappa of both tasks with labels shuffled between examples",
    "additivity_defect": "|dL(a+b) - dL(a) - dL(b)| / (|dL(a)| + |dL(b)|), L the mean loss of both batches, a and b "
    "steps of length eps down their gradients; pair random: random steps with the same norm in every tensor",
    "additivity_predicted": "eps^2 |a'Hb| over the same denominator, H the mean of both Hessians",
    "pair_radius": "largest eps up to which the held-out loss of both tasks after F_A then F_B is predicted to first "
    "order within 10 %, eps = eta |g_A + g_B| / |theta_star - theta_start|",
    "order_defect": "c = |F_B F_A theta - F_A F_B theta| / (eta |g_A + g_B|); its standard error is rounding",
    "order_defect_predicted": "eta kappa",
    "order_defect_in_weights": "the same of dW = scale B A: how far its two ends are apart, over how far it moved",
    "order_ratio": "order defect over its prediction",
    "onset": "step size at which the order defect reaches 0.1, interpolated on logarithmic axes",
    "onset_eps": "the same as a length, eta |g_A + g_B| / |theta_star - theta_start|",
    "onset_kappa": "onset times kappa; 0.1 if the prediction holds up to there",
}


@dataclass(frozen=True)
class Pair:
    """Two updates A and B.

    Attributes:
        kind: `between` two tasks, or `within` one, on two batches of it.
        names: of the two tasks.
        held_out_slope: gradient of the probe's loss, (n_params,).
        crossed: H_B g_A and H_A g_B, each (n_params,).
    """

    kind: str
    names: tuple[str, str]
    batches: tuple[Batch, Batch]
    gradients: tuple[Tensor, Tensor]
    probes: tuple[Batch, ...]
    held_out_slope: Tensor
    crossed: tuple[Tensor, Tensor]

    @property
    def labels(self) -> dict[str, Label]:
        """Labels of its figures."""
        return {"first": self.names[0], "second": self.names[1], "pair": self.kind}

    @property
    def batch_names(self) -> tuple[str, str]:
        """Names of the two batches, and of the steps on them."""
        first, second = self.names
        return first, second if self.kind == "between" else f"{second}, second batch"

    @property
    def total(self) -> float:
        """|g_A + g_B|."""
        return float((self.gradients[0] + self.gradients[1]).norm())

    @property
    def commutator(self) -> float:
        """|H_B g_A - H_A g_B|."""
        return float((self.crossed[0] - self.crossed[1]).norm())

    @property
    def kappa(self) -> float:
        """Order defect per unit of step size, to first order."""
        return self.commutator / self.total


@dataclass(frozen=True)
class MovedLosses:
    """Losses of fixed batches after moves that several pairs share, each computed once."""

    geometry: Geometry
    _known: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False)

    def mean(self, pair: Pair, name: str, move: Tensor) -> float:
        """Return the mean of both batches' losses after a move (n_params,) of this name."""
        total = 0.0
        for batch_name, batch in zip(pair.batch_names, pair.batches, strict=True):
            key = batch_name, name
            if key not in self._known:
                self._known[key] = value_at(self.geometry.space, self.geometry.loss(batch), move)
            total += self._known[key] / 2
        return total


def pair_figures(geometry: Geometry, products: Products) -> Iterator[Quantity]:
    """Yield the figures of every pair, stage by stage of its first task."""
    losses = MovedLosses(geometry)
    for number, task in enumerate(geometry.tasks):
        geometry.study.progress("pairs of steps", number, len(geometry.tasks))
        yield from geometry.stage(f"pairs {task.name}", partial(_figures_of, losses, products, task))
    yield from products.kappas()


def _figures_of(losses: MovedLosses, products: Products, task: TaskGeometry) -> Iterator[Quantity]:
    geometry = losses.geometry
    for pair in _pairs_of(geometry, products, task):
        yield Quantity("kappa", pair.kappa, "per step-size unit", labels=pair.labels)
        yield from _additivity(losses, pair)
        yield from _radius(geometry, pair)
        yield from _order(geometry, pair)


def _pairs_of(geometry: Geometry, products: Products, task: TaskGeometry) -> Iterator[Pair]:
    """Yield the task with two of its batches, then with every task after it."""
    own = products.of(task.name)
    yield Pair(
        "within",
        (task.name, task.name),
        (task.batch, task.second_batch),
        (task.gradient, task.second_gradient),
        (task.held_out,),
        task.held_out_halves.mean(dim=0),
        (own["of_second"], own["second"]),
    )
    for first, second in combinations(geometry.tasks, 2):
        if first is task:
            yield Pair(
                "between",
                (first.name, second.name),
                (first.batch, second.batch),
                (first.gradient, second.gradient),
                (first.held_out, second.held_out),
                (first.held_out_halves.mean(dim=0) + second.held_out_halves.mean(dim=0)) / 2,
                (products.product(second.name, first.name), products.product(first.name, second.name)),
            )


def _additivity(losses: MovedLosses, pair: Pair) -> Iterator[Quantity]:
    geometry = losses.geometry
    steps = [descent(geometry, gradient) for gradient in pair.gradients]
    cross = sum(float(one @ other) for one, other in zip(steps, _curved(pair, geometry.unit), strict=True)) / 2
    for size in ADDITIVITY_SIZES:
        yield from _additivity_of(losses, pair, pair.kind, [size * step for step in steps], size, size**2 * cross)
    if pair.kind == "between":
        generators = [geometry.streams.generator("like", name) for name in pair.batch_names]
        parts = geometry.space.slices
        noise = [JUDGED_SIZE * matched_noise(*of) for of in zip(steps, (parts, parts), generators, strict=True)]
        yield from _additivity_of(losses, pair, "random", noise, JUDGED_SIZE, None)


def _additivity_of(
    losses: MovedLosses, pair: Pair, kind: str, moves: Sequence[Tensor], size: float, cross: float | None
) -> Iterator[Quantity]:
    """Yield the additivity defect of two moves.

    Args:
        cross: a'Hb, from which it is predicted.
    """
    names = [f"{'random' if kind == 'random' else 'step'} {name} {size}" for name in pair.batch_names]
    start = losses.mean(pair, "start", torch.zeros_like(moves[0]))
    first, second = (losses.mean(pair, name, move) - start for name, move in zip(names, moves, strict=True))
    together = losses.mean(pair, " and ".join(names), moves[0] + moves[1]) - start
    total, labels = abs(first) + abs(second), {**pair.labels, "pair": kind, "eps": size}
    usable = rounding_of(start, losses.geometry.space.tensors[0].dtype) < TOLERANCE / 4 * total
    reason = None if usable else TOO_SMALL
    value = defect_of(together, first, second) if usable else None
    yield Quantity("additivity_defect", value, "fraction", labels=labels, reason=reason)
    if cross is not None:
        predicted = abs(cross) / total if usable else None
        yield Quantity("additivity_predicted", predicted, "fraction", labels=labels, reason=reason)


def _curved(pair: Pair, unit: float) -> tuple[Tensor, Tensor]:
    """Return H_B b's partner products at task-vector length: those that a'H_B b and a'H_A b are made of.

    a'(H_A + H_B) b = b.(H_B a) + a.(H_A b), and the crossed products hold H_B g_A and H_A g_B.
    """
    first, second = (unit / float(gradient.norm()) for gradient in pair.gradients)
    return -second * pair.crossed[1], -first * pair.crossed[0]


def _radius(geometry: Geometry, pair: Pair) -> Iterator[Quantity]:
    """Yield the radius; sizes beyond the first that is not predicted need no look."""
    space, (first, second) = geometry.space, pair.gradients
    losses = [geometry.loss(batch) for batch in pair.probes]

    def probe(move: Tensor) -> float:
        return sum(value_at(space, loss, move) for loss in losses) / len(losses)

    start = probe(torch.zeros_like(first))
    rounding = rounding_of(start, space.tensors[0].dtype)
    per_eta = -float(pair.held_out_slope @ (first + second))
    sizes: list[float] = []
    errors: list[float] = []
    for size in RADIUS_SIZES:
        eta = size * geometry.unit / pair.total
        if math.isnan(relative_errors((0.0,), (eta * per_eta,), rounding)[0]):
            continue
        with space.temporarily(displaced(space, -eta * first)):
            later = gradient_of(space, geometry.loss(pair.batches[1]))
        change = probe(-eta * (first + later)) - start
        sizes.append(size)
        errors.append(relative_errors((change,), (eta * per_eta,), rounding)[0])
        if not errors[-1] <= TOLERANCE:
            break
    radius, censored = last_within(sizes, [math.inf if math.isnan(e) else e for e in errors], TOLERANCE)
    reason = f"within the tolerance up to {radius:g}, the largest length that was tried" if censored else None
    if not sizes:
        reason = "rounding of the loss hides every change up to the largest length"
    yield Quantity("pair_radius", radius, LENGTHS, labels=pair.labels, reason=reason)


def _order(geometry: Geometry, pair: Pair) -> Iterator[Quantity]:
    space, kappa = geometry.space, pair.kappa
    if not kappa > 0:
        yield Quantity("onset", None, "step size", labels=pair.labels, reason="kappa is 0: the steps commute")
        return
    losses = geometry.loss(pair.batches[0]), geometry.loss(pair.batches[1])
    precision, length = torch.finfo(space.tensors[0].dtype).eps, float(space.read(torch.float64).norm())
    defects: list[float] = []
    for share in ETA_KAPPA:
        eta, labels = share / kappa, {**pair.labels, "eta_kappa": share}
        floor = precision * length / (eta * pair.total)
        value, reason = None, None if floor < MOST_ROUNDING * share else TOO_ROUGH
        try:
            defect = defect_of_steps(space, losses, pair.gradients, eta)
            value = None if reason else defect.relative
            if value is not None and share == JUDGED_ETA_KAPPA:
                yield from _in_weights(geometry, pair, defect, share)
        except NonFiniteError:
            reason = "a gradient is not finite after a step of this size"
        defects.append(math.nan if value is None else value)
        yield Quantity("order_defect", value, "fraction", stderr=floor, labels=labels, reason=reason)
        yield Quantity("order_defect_predicted", share, "fraction", labels=labels)
        ratio = None if value is None else value / share
        yield Quantity("order_ratio", ratio, "ratio", labels=labels, reason=reason)
    yield from _onset(geometry, pair, defects)


def _in_weights(geometry: Geometry, pair: Pair, defect: OrderDefect, share: float) -> Iterator[Quantity]:
    """Yield the order defect of dW = scale B A, over how far dW moves; two factors that differ may be one dW."""
    space = geometry.space
    if space.space.kind != "lora_factors" or why_no_pairs(space.module, space.names):
        return
    theta = space.read(torch.float64).cpu()
    gram = update_gram(factor_pairs(space), torch.stack([theta, *(theta + defect.moves)]))
    moved, apart = (math.sqrt(max(gram.squared_norm(gram.displacement(step, step)), 0.0)) for step in (1, 2))
    value = apart / moved if moved > 0 else None
    labels = {**pair.labels, "eta_kappa": share}
    yield Quantity("order_defect_in_weights", value, "fraction", labels=labels)


def _onset(geometry: Geometry, pair: Pair, defects: list[float]) -> Iterator[Quantity]:
    etas = [share / pair.kappa for share in ETA_KAPPA]
    eta, censored = last_within(etas, defects, TOLERANCE)
    reason = None
    if censored or not eta > 0:
        where = f"above {etas[-1]:.3g}, the largest step size" if censored else "below the smallest step size"
        reason, eta = f"the order defect reaches 0.1 {where} that was tried", math.nan
    labels, value = pair.labels, None if math.isnan(eta) else eta
    yield Quantity("onset", value, "step size", labels=labels, reason=reason)
    as_length = None if value is None else value * pair.total / geometry.unit
    yield Quantity("onset_eps", as_length, LENGTHS, labels=labels, reason=reason)
    product = None if value is None else value * pair.kappa
    yield Quantity("onset_kappa", product, "fraction", labels=labels, reason=reason)
