"""Which subspace is worth searching: predicted against measured gain of informed subspaces (protocol, section 4).

Every subspace is searched at its own best sigma, where curvature should take half of the linear gain, so that a dense
subspace pays for its density in curvature; where curvature helps there is none, and a few draws probe how far to go.
Beside it, all subspaces at one root-mean-square length r, where the prediction is r m_N |U^T g| / sqrt(k): there
curvature costs next to nothing, so the gains follow the prediction by construction and decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from scipy import stats
from torch import Tensor

from lineament import theory
from lineament.bases import Basis, random_basis
from lineament.measurements.search_pools import Pool, Searcher
from lineament.population.region import Region, SearchSpace, measured_space
from lineament.records import Label, Quantity
from lineament.study.study import Study
from lineament.vectors.curvature import curvature_along
from lineament.vectors.gradients import mean_gradient
from lineament.vectors.hessian import HessianOperator

# All subspaces stay where curvature should cost at most this share of the linear gain at the common length.
EQUAL_NORM_COST = 0.01
MIN_SUBSPACES = 6
REFERENCE = "random"
# Without a best sigma: probed from the sigma at which curvature should add this share, in factors of 2.
PROBED_FROM_COST, PROBED_SIGMAS = 0.25, 6
UNIT = "nats per target token"


@dataclass(frozen=True)
class _Gain:
    """The gain of one subspace at its own step: measured, predicted, and predicted from every other task's gradient."""

    measured: float
    predicted: float
    others: tuple[float, ...]


def density_figures(
    study: Study,
    searcher: Searcher,
    operator: HessianOperator,
    known: Mapping[str, SearchSpace],
    bases: Mapping[str, Basis],
) -> list[Quantity]:
    """Measure density, enrichment and gains of informed subspaces and a random one, and rank correlations.

    Args:
        known: spaces whose geometry was measured already, `full` among them.
        bases: the informed subspaces.
    """
    if not bases:
        reason = "none of the informed subspaces exists in this study"
        return [Quantity("density_rank_correlation", None, "rank correlation", reason=reason)]
    rank = max(basis.rank for basis in bases.values())
    drawn = random_basis(study.problem.parameters.space, rank, study.streams.generator("random search basis"))

    def geometry(name: str, basis: Basis) -> SearchSpace:
        return measured_space(operator, Region(name, study.problem.parameters, basis), searcher.streams, 1.0, 0)

    spaces = [known.get(name) or geometry(name, basis) for name, basis in bases.items()]
    spaces.append(geometry(REFERENCE, drawn))  # another one than the `random` that may be known
    others = _other_gradients(study)
    length = _common_length(spaces, study.settings.search.headline_count)
    figures: list[Quantity] = []
    gains: list[_Gain | None] = []
    for number, space in enumerate(spaces):
        study.progress(f"signal density of {space.name}", number, len(spaces))
        projected = [space.region.inside(gradient) for gradient in others]
        figures += _density(space, known["full"], projected)
        if length is not None:
            figures.append(_equal_norm(study, searcher, space, length))
        gain, figure = _own_sigma(study, searcher, space, projected)
        figures.append(figure)
        gains.append(gain)
    return [*figures, _correlation(gains[:-1], "informed"), _correlation(gains, "with random")]


def _common_length(spaces: list[SearchSpace], n: int) -> float | None:
    """Return r, the longest root-mean-square step at which curvature is cheap in every subspace."""
    lengths = [
        math.sqrt(space.dimension) * sigma
        for space in spaces
        if (sigma := theory.sigma_of_curvature_cost(EQUAL_NORM_COST, space.at, n)) is not None
    ]
    return min(lengths, default=None)


def _equal_norm(study: Study, searcher: Searcher, space: SearchSpace, length: float) -> Quantity:
    s = study.settings.search
    found = searcher.pool(space, length / math.sqrt(space.dimension), s.density_draws).best(s.headline_count)
    expected = theory.linear_gain_at_length(length, space.at.gradient_norm, space.dimension, s.headline_count)
    labels: dict[str, Label] = {"subspace": space.name, "n": s.headline_count, "length": length}
    return Quantity("equal_norm_gain", found.value, UNIT, stderr=found.stderr, null=expected, labels=labels)


def _density(space: SearchSpace, full: SearchSpace, others: list[Float64[Tensor, " rank"]]) -> list[Quantity]:
    norm, rank = space.at.gradient_norm, space.dimension
    density = theory.signal_density(norm, rank)
    enrichment = theory.enrichment(norm, rank, full.at.gradient_norm, full.dimension)
    of_others = [theory.signal_density(float(other.norm()), rank) for other in others]
    null = float(np.mean(of_others)) if of_others else None
    labels: dict[str, Label] = {"subspace": space.name, "rank": rank}
    return [
        Quantity("density", density, "squared nats per unit squared", null=null, labels=labels),
        Quantity("enrichment", enrichment, "ratio", null=1.0, labels=labels),
    ]


def _own_sigma(
    study: Study, searcher: Searcher, space: SearchSpace, others: list[Float64[Tensor, " rank"]]
) -> tuple[_Gain | None, Quantity]:
    """Measure the plain gain at the space's own step, beside what its own gradient and the others' predict."""
    s, n = study.settings.search, study.settings.search.headline_count
    labels: dict[str, Label] = {"subspace": space.name, "n": n}
    best = space.best_sigma(n)
    sigma = best or _probed_sigma(searcher, space, n)
    if sigma is None:
        return None, Quantity("own_sigma_gain", None, UNIT, labels=labels, reason="no probed step has a finite gain")
    pool = searcher.pool(space, sigma, s.density_draws)
    labels |= {"sigma": sigma, "step": "best" if best else "probed"}
    if len(pool.gains) < 2 * n:
        reason = f"{len(pool.gains)} draws have a finite loss; the best of {n} needs {2 * n}"
        return None, Quantity("own_sigma_gain", None, UNIT, labels=labels, reason=reason)
    found, expected = pool.plain(n), theory.second_order_gain(sigma, space.at, n)
    figure = Quantity("own_sigma_gain", found.value, UNIT, stderr=found.stderr, null=expected, labels=labels)
    from_others = tuple(gain_predicted_by(space, gradient, n, sigma) for gradient in others)
    return _Gain(found.value, expected, from_others), figure


def gain_predicted_by(space: SearchSpace, gradient: Float64[Tensor, " rank"], n: int, probed: float) -> float:
    """Return the gain that another gradient predicts with this space's curvature, at that prediction's best sigma.

    Where curvature would help it, at the probed sigma and at the length of the space's own gradient.
    """
    assert space.hessian is not None
    at = curvature_along(space.hessian, gradient)
    found = theory.gain_at_best_sigma(at, n)
    if found is None:
        found = theory.second_order_gain(probed, replace(at, gradient_norm=space.at.gradient_norm), n)
    return found


def _probed_sigma(searcher: Searcher, space: SearchSpace, n: int) -> float | None:
    """Return the sigma of the largest gain among a few, by draws that measure nothing else."""
    start = theory.sigma_of_curvature_cost(PROBED_FROM_COST, space.at, n)
    if start is None:
        return None
    probing = replace(searcher, streams=searcher.streams.child("probing"))
    pools: list[Pool] = [probing.pool(space, start * 2.0**step, 2 * n) for step in range(PROBED_SIGMAS)]
    usable = [pool for pool in pools if len(pool.gains) == 2 * n]
    return max(usable, key=lambda pool: pool.plain(n).value).sigma if usable else None


def _correlation(gains: list[_Gain | None], subspaces: str) -> Quantity:
    """Correlate predicted with measured gains; the random subspace alone is one that any prediction ranks last."""
    known = [gain for gain in gains if gain is not None]
    n_others = len(known[0].others) if known else 0
    labels: dict[str, Label] = {"subspaces": subspaces, "n_subspaces": len(known), "other_tasks": n_others}
    if len(known) < MIN_SUBSPACES:
        reason = f"{len(known)} subspaces; at least {MIN_SUBSPACES} are needed"
        return Quantity("density_rank_correlation", None, "rank correlation", labels=labels, reason=reason)
    measured = [gain.measured for gain in known]

    def with_measured(predicted: list[float]) -> float:
        return float(stats.spearmanr(predicted, measured).statistic)

    value = with_measured([gain.predicted for gain in known])
    of_others = [with_measured([gain.others[i] for gain in known]) for i in range(n_others)]
    null = float(np.mean(of_others)) if of_others else None
    return Quantity("density_rank_correlation", value, "rank correlation", null=null, labels=labels)


def _other_gradients(study: Study) -> list[Float64[Tensor, " n_params"]]:
    """Return the gradients of all other tasks at the same point; none in a problem of one task."""
    n = study.settings.search.examples
    tasks = [task for task in study.problem.tasks if task != study.target]
    batches = (study.gradient_batch(task, n, 1, "search other task") for task in tasks)
    gradients = (mean_gradient(study.problem, batch).double() for batch in batches)
    return [gradient for gradient in gradients if gradient.norm() > 0]
