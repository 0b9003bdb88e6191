"""Gaussian random search around the damaged point: measured gain of the best of N against its prediction (protocol 4).

Quantity: E[max of N gains], gain_i = L(theta) - L(theta + sigma z_i), on one batch, by the unbiased order-statistic
estimator over one pool per space and sigma; divided by the linear and by both second-order predictions. Unit: nats per
target token; ratios: none. Sigmas are those at which curvature should cost given shares of the linear gain. Null: the
ratio to the prediction from the gradient norm of shuffled labels; for the rank correlation of subspaces, the gains
that other tasks' gradients predict. The result is where the ratio leaves 10 %, against the curvature that predicts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from lineament import theory
from lineament.bases import Basis, from_vectors
from lineament.errors import unknown_name
from lineament.measurements.capture_bases import BASES, make_bases
from lineament.measurements.capture_ranks import usable_ranks, why_unusable
from lineament.measurements.measurement import Measurement, make_record
from lineament.measurements.search_density import density_figures
from lineament.measurements.search_dimension import dimension_figures
from lineament.measurements.search_pools import Pool, Searcher
from lineament.measurements.search_theorem import ratio_error, theorem_figure, theorem_sigma
from lineament.population.best_of_n import mean_at_best
from lineament.population.region import FreshProduct, Region, SearchSpace, fresh_products, measured_space
from lineament.problems.kinds import kind_named
from lineament.problems.problem import Batch, balanced_parts, corrupted
from lineament.records import Label, Quantity, Record, is_told
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.settings.words import value_words
from lineament.study.passes import FORWARD_PASSES, HESSIAN_PASSES, damage_passes
from lineament.study.points import DAMAGED, TRAINED
from lineament.study.study import Study
from lineament.vectors.gradients import mean_gradient
from lineament.vectors.hessian import HessianOperator, require_products

NAME = "random_search"
TOLERANCE = 0.1
NO_FRESH_GAIN = "the gain that fresh data should have is within 3 standard errors of zero"
# A prediction that has cancelled to less than this share of the linear one predicts nothing to divide by.
LEAST_SHARE = 0.05
HEADLINE_COST = 0.01
POINT_COST = 0.1
DEFINITIONS = {
    "gain": "E[max of N gains] over draws sigma z, unbiased order-statistic estimator; with the first-order gains as "
    "control variate where sigma |H|_F / sqrt(2) < |g| / 2 (protocol 4)",
    "ratio_linear": "gain / (sigma |g| m_N); null: the same over the prediction from shuffled labels",
    "ratio_second_order": "gain / (sigma |g| m_N - sigma^2/2 (tr H + (q_N - 1) ghat'H ghat))",
    "theorem_ratio": "gain / second order in the whole space at the sigma where curvature should cost 25 %, from the "
    "draws' gains alone; null: the same over the prediction from shuffled labels",
    "ratio_flat": "gain / (-sigma^2 tr(H)/2 + m_N sqrt(sigma^2 |g|^2 + sigma^4 |H|_F^2 / 2))",
    "one_draw_deviation": "(mean gain + sigma^2 tr(H)/2) over its standard error, tr H's included: N = 1",
    "failed_members": "draws without a finite loss; they never win",
    "gradient_norm": "|U^T g| on the scored batch",
    "trace": "tr of U^T H U: exact inside a basis, Hutchinson probes in the whole space",
    "along_gradient": "ghat' H ghat inside the space",
    "frobenius_norm": "|U^T H U|_F",
    "best_sigma": "|g| m_N / (tr H + (q_N - 1) ghat'H ghat); undefined where curvature helps",
    "departure_sigma": "sigma at which gain / linear first leaves 1 +- 0.1, interpolated in log sigma; null: the sigma "
    "at which curvature should cost 10 %",
    "transferred_gain": "gain on fresh data of the best of N chosen on the batch; null: on the choosing batch itself",
    "transfer_ratio_to_prediction": "transferred gain / (sigma m_N <g, g_b> / |g_b|), g the fresh data's gradient; "
    "left out where <g, g_b> is within 3 standard errors of zero",
    "point_trace": "tr H in the whole space at theta_broken, half-way through the recovery, and at theta_star",
    "point_ratio": "gain / prediction at that point, at the sigma where curvature should change it by 10 %",
    "density": "|U^T g|^2 / k; null: the mean over all other tasks' gradients",
    "enrichment": "density over |g|^2 / n_params",
    "equal_norm_gain": "gain of the best of N at one root-mean-square length for all subspaces; null: its prediction "
    "r m_N |U^T g| / sqrt(k)",
    "own_sigma_gain": "gain of the best of N, from the draws' gains alone, at the subspace's own best sigma or, where "
    "curvature helps, at the best of a few probed ones; null: its second-order prediction there",
    "density_rank_correlation": "Spearman correlation over subspaces of predicted with measured gain at each one's own "
    "sigma; null: predicted from another task's gradient, mean over all other tasks",
    "dimension_ratio": "gain / second order for the study made again with another adapter rank or width, from the "
    "draws' gains alone",
    "dimension_slope": "slope of log(gain / second order) on log n_params, one intercept per cost; null: -1/2, what "
    "steps of equal length would give",
}


def measure(study: Study) -> Record:
    """Gains against N and sigma in every space, where predictions fail, transfer, signs of tr H, density, dimension."""
    if reason := study.curve.why_not_recovered:
        return make_record(study, NAME, [Quantity("gain", None, "nats per target token", reason=reason)], DEFINITIONS)
    if not usable_ranks(study):
        reason = why_unusable(study, study.settings.measurement.headline_rank)
        return make_record(study, NAME, [Quantity("gain", None, "nats per target token", reason=reason)], DEFINITIONS)
    s = study.settings.search
    bases = search_bases(study, {*s.spaces, *s.informed})
    searched, informed = ([n for n in names if n == "full" or n in bases] for names in (s.spaces, s.informed))
    chosen, fresh = batches(study)
    figures: list[Quantity] = []
    with study.problem.parameters.temporarily(study.points[DAMAGED]):
        searcher = Searcher(study.problem, chosen, study.streams.child("search"))
        operator = HessianOperator(study.problem, chosen)
        every = dict.fromkeys(("full", *searched))
        spaces = {name: _measured(study, operator, name, bases.get(name)) for name in every}
        shuffled = _shuffled_norms(study, chosen, spaces)
        products = fresh_products(study.problem, fresh, [spaces[name] for name in searched])
        for number, name in enumerate(searched):
            space = spaces[name]
            study.progress(f"random search in {name}", number, len(searched))
            pools = _pools(study, searcher, space)
            figures += _space_figures(study, space, pools, shuffled[name])
            figures += _transfer(study, searcher, space, pools, fresh, products[number])
        figures.append(_theorem(study, searcher, spaces["full"], shuffled["full"]))
        figures += density_figures(study, searcher, operator, spaces, {n: bases[n] for n in informed})
        operator.release()
    figures += _point_figures(study, chosen, spaces["full"]) + dimension_figures(study)
    return make_record(study, NAME, figures, DEFINITIONS)


def search_bases(study: Study, names: set[str]) -> dict[str, Basis]:
    """Make bases by name at the headline rank, or the largest below it that exists; `prefix` is recorded."""
    rank = max(k for k in usable_ranks(study) if k <= study.settings.measurement.headline_rank)
    found = make_bases(study, names)
    if "prefix" in names:
        found["prefix"] = from_vectors(study.trajectory.updates(1, rank), "prefix")
    return {name: basis.leading(min(rank, basis.rank)) for name, basis in found.items()}


def batches(study: Study) -> tuple[Batch, Batch]:
    """Draw two disjoint batches of the target's training examples: the one that chooses, and fresh data."""
    both = study.gradient_batch(study.target, 2 * study.settings.search.examples, 1, "search")
    first, second = balanced_parts(both, 2)
    return first, second


def _theorem(study: Study, searcher: Searcher, space: SearchSpace, shuffled_norm: float) -> Quantity:
    s, sigma = study.settings.search, theorem_sigma(space, study.settings.search.headline_count)
    study.progress("random search, theorem", 0, 1)
    pool = None if sigma is None else searcher.pool(space, sigma, s.theorem_draws)
    return theorem_figure(space, pool, shuffled_norm, s.headline_count)


def _measured(study: Study, operator: HessianOperator, name: str, basis: Basis | None) -> SearchSpace:
    s, region = study.settings.search, Region(name, study.problem.parameters, basis)
    return measured_space(operator, region, study.streams.child("search"), s.curvature_error, s.most_probes)


def _whole_space(study: Study, batch: Batch) -> SearchSpace:
    """Measure the whole space at the present weights."""
    operator = HessianOperator(study.problem, batch)
    space = _measured(study, operator, "full", None)
    operator.release()
    return space


def _shuffled_norms(study: Study, batch: Batch, spaces: dict[str, SearchSpace]) -> dict[str, float]:
    noise = corrupted(batch, "shuffled", study.streams.generator("search shuffled"))
    gradient = mean_gradient(study.problem, noise)
    return {name: float(space.region.inside(gradient).norm()) for name, space in spaces.items()}


def _pools(study: Study, searcher: Searcher, space: SearchSpace) -> dict[float, Pool]:
    """Return cost -> pool at the sigma of that cost, for the costs that exist."""
    s = study.settings.search
    sigmas = {cost: theory.sigma_of_curvature_cost(cost, space.at, s.headline_count) for cost in s.costs}
    return {cost: searcher.pool(space, sigma, s.draws) for cost, sigma in sigmas.items() if sigma is not None}


def _space_figures(
    study: Study, space: SearchSpace, pools: Mapping[float, Pool], shuffled_norm: float
) -> Iterator[Quantity]:
    s = study.settings.search
    yield from _geometry(space, s.headline_count)
    ratios: list[tuple[float, float]] = []
    for cost, pool in pools.items():
        labels: dict[str, Label] = {"space": space.name, "cost": cost, "sigma": pool.sigma}
        yield Quantity("failed_members", float(pool.n_failed), "members", labels=labels)
        yield _one_draw(pool, labels)
        for n in s.counts:
            if len(pool.gains) >= 2 * n:
                yield from _ratios(pool, n, labels, shuffled_norm)
        if len(pool.gains) >= 2 * s.headline_count:
            linear = theory.linear_gain(pool.sigma, space.at.gradient_norm, s.headline_count)
            ratios.append((pool.sigma, pool.best(s.headline_count).value / linear))
    yield _departure(space, ratios, s.headline_count)


def _geometry(space: SearchSpace, n: int) -> list[Quantity]:
    labels: dict[str, Label] = {"space": space.name, "dimension": space.dimension}
    best, reason = space.best_sigma(n), space.why_no_best_sigma(n)
    return [
        Quantity("gradient_norm", space.at.gradient_norm, "nats per unit", labels=labels),
        Quantity("trace", space.at.trace, "nats per unit squared", stderr=space.trace_stderr, labels=labels),
        Quantity("along_gradient", space.at.along_gradient, "nats per unit squared", labels=labels),
        Quantity("frobenius_norm", space.at.frobenius_norm, "nats per unit squared", labels=labels),
        Quantity("best_sigma", best, "per parameter", labels={**labels, "n": n}, reason=reason),
    ]


def _one_draw(pool: Pool, labels: dict[str, Label]) -> Quantity:
    mean, trace = pool.best(1), pool.sigma**2 / 2
    error = float(np.hypot(mean.stderr, trace * pool.space.trace_stderr))
    deviation = (mean.value + trace * pool.space.at.trace) / error if error > 0 else None
    return Quantity("one_draw_deviation", deviation, "standard errors", labels=labels)


def _ratios(pool: Pool, n: int, labels: dict[str, Label], shuffled_norm: float) -> Iterator[Quantity]:
    measured, at, which = pool.best(n), pool.space.at, {**labels, "n": n}
    yield Quantity("gain", measured.value, "nats per target token", stderr=measured.stderr, labels=which)
    if n == 1:
        return  # the linear prediction is zero; `one_draw_deviation` judges the mean
    predictions = {
        "ratio_linear": theory.linear_gain(pool.sigma, at.gradient_norm, n),
        "ratio_second_order": theory.second_order_gain(pool.sigma, at, n),
        "ratio_flat": theory.gain_many_flat_directions(pool.sigma, at, n),
    }
    for quantity, predicted in predictions.items():
        if predicted > LEAST_SHARE * predictions["ratio_linear"]:
            null = None
            if quantity == "ratio_linear" and shuffled_norm > 0:
                null = measured.value / theory.linear_gain(pool.sigma, shuffled_norm, n)
            trace_stderr = 0.0 if quantity == "ratio_linear" else pool.space.trace_stderr
            error = ratio_error(measured, predicted, pool.sigma, trace_stderr)
            yield Quantity(quantity, measured.value / predicted, "ratio", stderr=error, null=null, labels=which)
        else:
            yield Quantity(quantity, None, "ratio", labels=which, reason="curvature leaves nothing of the prediction")


def _departure(space: SearchSpace, ratios: Sequence[tuple[float, float]], n: int) -> Quantity:
    """Find the sigma from which on gain / linear is over 10 % off, beside where curvature should cost 10 %."""
    labels: dict[str, Label] = {"space": space.name, "n": n}
    expected = theory.sigma_of_curvature_cost(TOLERANCE, space.at, n)
    found, reason = None, "within 10 % at every measured sigma"
    if ratios and abs(ratios[0][1] - 1) > TOLERANCE:
        reason = f"already more than 10 % off at the smallest measured sigma, {ratios[0][0]:.3g}"
    for (low, before), (high, after) in pairwise(ratios):
        inside, outside = abs(before - 1), abs(after - 1)
        if inside <= TOLERANCE < outside:
            share = (TOLERANCE - inside) / (outside - inside)
            found, reason = float(np.exp(np.log(low) + share * np.log(high / low))), None  # type: ignore[assignment]
            break
    return Quantity("departure_sigma", found, "per parameter", null=expected, labels=labels, reason=reason)


def _transfer(
    study: Study,
    searcher: Searcher,
    space: SearchSpace,
    pools: Mapping[float, Pool],
    fresh: Batch,
    product: FreshProduct,
) -> Iterator[Quantity]:
    s, n = study.settings.search, study.settings.search.headline_count
    sigma = theory.sigma_of_curvature_cost(HEADLINE_COST, space.at, n)
    if sigma is None or s.draws < 2 * n:
        return
    pool = pools.get(HEADLINE_COST) or searcher.pool(space, sigma, s.draws)
    later = searcher.gains(fresh, searcher.members(space, sigma, s.draws), sigma)[pool.scored]
    finite = np.isfinite(later)
    measured = mean_at_best(pool.gains[finite], later[finite], n)
    own = mean_at_best(pool.gains[finite], pool.gains[finite], n).value
    predicted = theory.transferred_gain(sigma, product.value, space.at.gradient_norm, n)
    predicted_error = abs(theory.transferred_gain(sigma, product.stderr, space.at.gradient_norm, n))
    labels: dict[str, Label] = {"space": space.name, "n": n, "sigma": sigma, "predicted": predicted}
    yield Quantity(
        "transferred_gain", measured.value, "nats per target token", stderr=measured.stderr, null=own, labels=labels
    )
    which: dict[str, Label] = {"space": space.name, "n": n}
    if not is_told(abs(predicted), predicted_error):
        yield Quantity("transfer_ratio_to_prediction", None, "ratio", labels=which, reason=NO_FRESH_GAIN)
        return
    ratio = measured.value / predicted
    error = float(np.hypot(measured.stderr, ratio * predicted_error)) / abs(predicted)
    yield Quantity("transfer_ratio_to_prediction", ratio, "ratio", stderr=error, labels=which)


def _point_figures(study: Study, batch: Batch, damaged: SearchSpace) -> list[Quantity]:
    """Measure the sign of tr H and the predictions' success while the model recovers; `damaged` is measured already."""
    s, n, figures = study.settings.search, study.settings.search.headline_count, []
    thetas = {
        DAMAGED: study.points[DAMAGED],
        "half recovered": study.trajectory.position(max(1, study.recovered_at // 2)),
        TRAINED: study.points[TRAINED],
    }
    for number, (point, theta) in enumerate(thetas.items()):
        study.progress(f"random search, {point}", number, len(thetas))
        with study.problem.parameters.temporarily(theta):
            searcher = Searcher(study.problem, batch, study.streams.child("search", point))
            space = damaged if point == DAMAGED else _whole_space(study, batch)
            labels: dict[str, Label] = {"point": point}
            unit = "nats per unit squared"
            figures.append(Quantity("point_trace", space.at.trace, unit, stderr=space.trace_stderr, labels=labels))
            sigma = theory.sigma_of_curvature_cost(POINT_COST, space.at, n)
            if sigma is None:
                continue
            pool = searcher.pool(space, sigma, s.density_draws)
            for f in _ratios(pool, n, {"sigma": sigma}, 0.0):
                if f.name != "gain":
                    which = {**labels, "sigma": sigma, "prediction": f.name.removeprefix("ratio_")}
                    figures.append(replace(f, name="point_ratio", labels=which))
    return figures


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count draws in every space and sigma, probes of the curvature, and the study made again at other sizes."""
    search = settings.search
    sizes = search.lora_ranks if settings.recovery.space == "lora" else ()
    variants = len(sizes) + (len(search.widths) if kind_named(settings.problem).has_widths else 0)
    again = settings.operating.steps * settings.operating.batch + damage_passes(settings)
    draws = search.draws * (len(search.costs) + 1) * len(search.spaces) + search.theorem_draws
    draws += search.density_draws * 2 * len(search.informed) + search.draws * 3 * (variants + 1)
    probes = search.most_probes * (3 + variants) * HESSIAN_PASSES
    return {"random search": search.examples * (draws * FORWARD_PASSES + probes) + variants * again}


def check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what the keys of `search` demand of each other, unknown spaces first."""
    search, n = settings.search, settings.search.headline_count
    subspaces = ("prefix", *BASES)
    for key, names, known in (
        ("spaces", search.spaces, ("full", *subspaces)),
        ("informed", search.informed, subspaces),
    ):
        for name in names:
            yield name in known, str(unknown_name("space", name, known, f"search.{key}"))
    yield (
        n in search.counts,
        f"search.headline_count is {n}; it must be among search.counts, {value_words(search.counts)}.",
    )
    for key, draws in (
        ("search.draws", search.draws),
        ("search.theorem_draws", search.theorem_draws),
        ("search.density_draws", search.density_draws),
    ):
        yield (
            draws >= 2 * n,
            f"{key} is {draws}; it must be at least 2 * search.headline_count = {2 * n}, or the best of {n} has no "
            "standard error.",
        )


MEASUREMENT = Measurement(NAME, measure, cost, check, settings_group="search", require_fit=require_products)
