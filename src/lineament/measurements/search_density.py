"""Which subspace is worth searching: signal density against measured gain (protocol, section 4).

Draws are compared at one root-mean-square length r for all subspaces, where the prediction is r m_N |U^T g| / sqrt(k),
and at each subspace's own best sigma, where a dense subspace pays for its density in curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from lineament import theory
from lineament.bases import Basis, random_basis
from lineament.measurements.search_pools import Searcher
from lineament.population.region import Region, SearchSpace, measured_space
from lineament.records import Label, Quantity
from lineament.study.study import Study
from lineament.vectors.gradients import mean_gradient
from lineament.vectors.hessian import HessianOperator

# All subspaces stay where curvature should cost at most this share of the linear gain at the common length.
EQUAL_NORM_COST = 0.01
MIN_SUBSPACES = 6
REFERENCE = "random"


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
    other = _other_gradient(study)
    n = study.settings.search.headline_count
    length = _common_length(spaces, n)
    if length is None:
        reason = "no subspace has curvature, so no length is the longest at which it is cheap"
        return [Quantity("density_rank_correlation", None, "rank correlation", reason=reason)]
    figures: list[Quantity] = []
    predicted, measured, null = [], [], []
    for number, space in enumerate(spaces):
        study.progress(f"signal density of {space.name}", number, len(spaces))
        gain = _equal_norm(study, searcher, space, length, figures)
        figures += _density(space, known["full"], other(space))
        figures += _own_sigma(study, searcher, space)
        predicted.append(theory.linear_gain_at_length(length, space.at.gradient_norm, space.dimension, n))
        null.append(other(space) / math.sqrt(space.dimension))
        measured.append(gain)
    return figures + _correlations(predicted, measured, null)


def _common_length(spaces: list[SearchSpace], n: int) -> float | None:
    """Return r, the longest root-mean-square step at which curvature is cheap in every subspace."""
    lengths = [
        math.sqrt(space.dimension) * sigma
        for space in spaces
        if (sigma := theory.sigma_of_curvature_cost(EQUAL_NORM_COST, space.at, n)) is not None
    ]
    return min(lengths, default=None)


def _equal_norm(study: Study, searcher: Searcher, space: SearchSpace, length: float, figures: list[Quantity]) -> float:
    s = study.settings.search
    pool = searcher.pool(space, length / math.sqrt(space.dimension), s.density_draws)
    found = pool.best(s.headline_count)
    expected = theory.linear_gain_at_length(length, space.at.gradient_norm, space.dimension, s.headline_count)
    labels: dict[str, Label] = {"subspace": space.name, "n": s.headline_count, "length": length}
    figures.append(
        Quantity(
            "equal_norm_gain", found.value, "nats per target token", stderr=found.stderr, null=expected, labels=labels
        )
    )
    return found.value


def _density(space: SearchSpace, full: SearchSpace, other_norm: float) -> list[Quantity]:
    norm, rank = space.at.gradient_norm, space.dimension
    density = theory.signal_density(norm, rank)
    enrichment = theory.enrichment(norm, rank, full.at.gradient_norm, full.dimension)
    null = theory.signal_density(other_norm, rank)
    labels: dict[str, Label] = {"subspace": space.name, "rank": rank}
    return [
        Quantity("density", density, "squared nats per unit squared", null=null, labels=labels),
        Quantity("enrichment", enrichment, "ratio", null=1.0, labels=labels),
    ]


def _own_sigma(study: Study, searcher: Searcher, space: SearchSpace) -> list[Quantity]:
    s = study.settings.search
    sigma = theory.best_sigma(space.at, s.headline_count)
    labels: dict[str, Label] = {"subspace": space.name, "n": s.headline_count}
    if sigma is None:
        why = "no best sigma: curvature helps"
        return [Quantity("own_sigma_gain", None, "nats per target token", labels=labels, reason=why)]
    found = searcher.pool(space, sigma, s.density_draws).best(s.headline_count)
    expected = theory.second_order_gain(sigma, space.at, s.headline_count)
    which: dict[str, Label] = {**labels, "sigma": sigma}
    return [
        Quantity(
            "own_sigma_gain", found.value, "nats per target token", stderr=found.stderr, null=expected, labels=which
        )
    ]


def _correlations(predicted: list[float], measured: list[float], null: list[float]) -> list[Quantity]:
    """Correlate over informed subspaces alone, and with the random one, which any prediction ranks last."""
    figures = []
    for which, stop in (("informed", len(predicted) - 1), ("with random", len(predicted))):
        labels: dict[str, Label] = {"subspaces": which}
        if stop < MIN_SUBSPACES:
            reason = f"{stop} subspaces; at least {MIN_SUBSPACES} are needed"
            figures.append(Quantity("density_rank_correlation", None, "rank correlation", labels=labels, reason=reason))
            continue
        value = float(stats.spearmanr(predicted[:stop], measured[:stop]).statistic)
        chance = float(stats.spearmanr(null[:stop], measured[:stop]).statistic)
        figures.append(Quantity("density_rank_correlation", value, "rank correlation", null=chance, labels=labels))
    return figures


def _other_gradient(study: Study) -> Callable[[SearchSpace], float]:
    """Return the norm of another task's gradient inside a subspace, at the same point."""
    others = [task for task in study.problem.tasks if task != study.target]
    task = others[0] if others else study.target
    batch = study.gradient_batch(task, study.settings.search.examples, 1, "search other task")
    gradient = mean_gradient(study.problem, batch)

    def norm(space: SearchSpace) -> float:
        return float(np.linalg.norm(space.region.inside(gradient).numpy()))

    return norm
