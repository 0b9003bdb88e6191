"""Does the number of parameters matter? The study made again, wider or with another adapter rank (protocol, section 4).

Every variant is trained to its own operating point and damaged; its best-of-N gain is divided by the second-order
prediction from its own |g|, ghat'H ghat and tr H, at the sigmas where curvature should cost 1, 10 and 50 %. Gains come
from the draws alone: with their first-order part as control variate, the ratio at 1 % would be 1 by construction.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lineament import theory
from lineament.errors import InputError, NonFiniteError
from lineament.measurements.search_pools import Searcher
from lineament.measurements.search_theorem import ratio_error
from lineament.population.region import Region, measured_space
from lineament.problems.kinds import kind_named
from lineament.problems.problem import Problem
from lineament.records import Label, Quantity
from lineament.settings.settings import Settings
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.points import DAMAGED
from lineament.study.study import Study, damaged_point
from lineament.vectors.hessian import HessianOperator

COSTS = (0.01, 0.1, 0.5)
# (n_params, cost, gain over second order)
Point = tuple[int, float, float]


def dimension_figures(study: Study) -> list[Quantity]:
    """Measure ratios of every variant and cost, and the slope of their logarithm on log n_params."""
    figures: list[Quantity] = []
    points: list[Point] = []
    plans = list(_variants(study.settings))
    for number, (name, settings) in enumerate(plans):
        study.progress(f"random search, {name}", number, len(plans))
        labels: dict[str, Label] = {"variant": name}
        try:
            found = _variant(study, settings)
        except (InputError, NonFiniteError) as error:
            figures.append(Quantity("dimension_ratio", None, "ratio", labels=labels, reason=str(error)))
            continue
        for n_params, cost, ratio, stderr in found:
            which: dict[str, Label] = {**labels, "n_params": n_params, "cost": cost}
            figures.append(Quantity("dimension_ratio", ratio, "ratio", stderr=stderr, labels=which))
            points.append((n_params, cost, ratio))
    return [*figures, *_slopes(points)]


def pooled_slope(points: list[Point]) -> float | None:
    """Fit the slope of log ratio on log n_params with one intercept per cost; None without two sizes.

    Args:
        points: a ratio that is not above 0 has no logarithm and is left out.
    """
    usable = [(np.log(n), cost, np.log(ratio)) for n, cost, ratio in points if ratio > 0]
    centred = []
    for cost in {c for _, c, _ in usable}:
        rows = np.array([(x, y) for x, c, y in usable if c == cost])
        centred.append(rows - rows.mean(axis=0))
    if not centred:
        return None
    x, y = np.concatenate(centred).T
    return float(x @ y / (x @ x)) if x @ x > 0 else None


def _slopes(points: list[Point]) -> list[Quantity]:
    figures = []
    for name, chosen in (("all", points), *((str(c), [p for p in points if p[1] == c]) for c in COSTS)):
        slope = pooled_slope(chosen)
        reason = None if slope is not None else "fewer than two sizes of parameter space"
        labels: dict[str, Label] = {"costs": name}
        figures.append(Quantity("dimension_slope", slope, "per log parameter", null=-0.5, labels=labels, reason=reason))
    return figures


def _variants(settings: Settings) -> Iterator[tuple[str, Settings | None]]:
    """Yield the study itself (None), then other adapter ranks and widths; a given adapter has no other rank."""
    yield "this study", None
    if settings.recovery.space == "lora" and not settings.model.adapter:
        for rank in settings.search.lora_ranks:
            alpha = settings.lora.alpha * rank // settings.lora.rank or 1  # alpha / rank stays as it is
            if rank != settings.lora.rank:
                yield f"rank {rank}", replace(settings, lora=replace(settings.lora, rank=rank, alpha=alpha))
    if kind_named(settings.problem).has_widths:
        for width in settings.search.widths:
            if width != settings.model.width:
                yield f"width {width}", replace(settings, model=replace(settings.model, width=width))


def _variant(study: Study, settings: Settings | None) -> list[tuple[int, float, float, float]]:
    if settings is None:
        return _measured(study, study.problem, study.points[DAMAGED])
    problem = study.problem.remade(settings)
    with tempfile.TemporaryDirectory(prefix="lineament-dimension-") as folder:
        case = Case(problem, settings, study.target, study.seed, StudyFiles.inside(Path(folder)))
        damaged = damaged_point(case)[DAMAGED]
    return _measured(study, problem, damaged)


def _measured(study: Study, problem: Problem, damaged: Tensor) -> list[tuple[int, float, float, float]]:
    s, n = study.settings.search, study.settings.search.headline_count
    streams = study.streams.child("dimension", str(problem.parameters.n_params))
    batch = problem.sample(study.target, s.examples, streams.generator("batch"))
    found = []
    with problem.parameters.temporarily(damaged):
        operator = HessianOperator(problem, batch)
        space = measured_space(operator, Region("full", problem.parameters), streams, s.curvature_error, s.most_probes)
        operator.release()
        if reason := space.why_unknown_curvature(n):
            raise InputError(f"{reason}, so no step is one at which it costs a given share.")
        searcher = Searcher(problem, batch, streams)
        for cost in COSTS:
            sigma = theory.sigma_of_curvature_cost(cost, space.at, n)
            predicted = theory.second_order_gain(sigma, space.at, n) if sigma else 0.0
            if sigma is None or predicted <= 0:
                continue
            gain = searcher.pool(space, sigma, s.draws).plain(n)
            error = ratio_error(gain, predicted, sigma, space.trace_stderr)
            found.append((problem.parameters.n_params, cost, gain.value / predicted, error))
    return found
