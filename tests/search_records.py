"""Hand-made records of the random search: gains that follow a known law, so that pictures of them can be judged."""

from __future__ import annotations

from collections.abc import Iterator

from lineament import theory
from lineament.records import Label, Quantity, Record

COSTS = (0.01, 0.1, 0.5)
COUNTS = (1, 2, 8, 64)
N = 64
SIZES = {"rank 2": 1000, "this study": 4000}
SUBSPACES = {"static_broken": 4.0, "static_star": 2.0, "prefix": 3.0, "random": 0.1}
# Per seed: |g|, and the factor on every gain, so that intervals are neither empty nor wide.
SEEDS = ((2.0, 1.0), (3.0, 1.02), (2.5, 0.98))


def search_records(*, helps: bool = False, factor: float = 1.0) -> list[Record]:
    """Three seeds whose gains are the second-order prediction times `factor`, give or take 2 %."""
    return [_record(seed, norm, factor * wobble, helps) for seed, (norm, wobble) in enumerate(SEEDS)]


def unrecovered(seed: int = 0) -> Record:
    """What the measurement writes for a seed that did not recover."""
    gone = Quantity("gain", None, "nats per target token", reason="not recovered within 60 steps")
    return record(seed, [gone])


def record(seed: int, figures: list[Quantity]) -> Record:
    """A record of the measurement with these figures."""
    return Record(
        measurement="random_search",
        target="sort",
        seed=seed,
        problem="synthetic",
        model="tiny",
        space="lora_factors",
        n_params=4000,
        config_hash="abc",
        quantities=tuple(figures),
        definitions={figure.name: "made up" for figure in figures},
    )


def curvature(norm: float, helps: bool) -> theory.Curvature:
    """Local geometry of the whole space for a gradient norm."""
    return theory.Curvature(norm, -30.0 if helps else 30.0, -1.0 if helps else 1.0, 5.0)


def _record(seed: int, norm: float, factor: float, helps: bool) -> Record:
    at = curvature(norm, helps)
    figures = [
        *_space("full", at, factor),
        *_space("prefix", curvature(norm / 2, False), factor),
        theorem(factor),
        *_points(factor),
        *_density(norm, factor),
        *_sizes(factor),
    ]
    return record(seed, figures)


def _space(name: str, at: theory.Curvature, factor: float) -> Iterator[Quantity]:
    yield Quantity("gradient_norm", at.gradient_norm, "nats per unit", labels={"space": name})
    yield Quantity("trace", at.trace, "nats per unit squared", labels={"space": name})
    yield Quantity("along_gradient", at.along_gradient, "nats per unit squared", labels={"space": name})
    yield Quantity("frobenius_norm", at.frobenius_norm, "nats per unit squared", labels={"space": name})
    best = theory.best_sigma(at, N)
    why = None if best else "no best sigma: curvature helps"
    yield Quantity("best_sigma", best, "per parameter", labels={"space": name, "n": N}, reason=why)
    for cost in COSTS:
        sigma = theory.sigma_of_curvature_cost(cost, at, N)
        assert sigma is not None
        labels: dict[str, Label] = {"space": name, "cost": cost, "sigma": sigma}
        yield Quantity("failed_members", 0.0, "members", labels=labels)
        yield Quantity("one_draw_deviation", 0.5 if cost < 0.1 else 4.0, "standard errors", labels=labels)
        for n in COUNTS:
            gain = factor * theory.second_order_gain(sigma, at, n)
            which: dict[str, Label] = {**labels, "n": n}
            yield Quantity("gain", gain, "nats per target token", labels=which)
            if n > 1:
                linear = gain / theory.linear_gain(sigma, at.gradient_norm, n)
                yield Quantity("ratio_linear", linear, "ratio", null=3 * linear, labels=which)
                yield Quantity("ratio_second_order", factor, "ratio", labels=which)
                yield Quantity("ratio_flat", factor, "ratio", labels=which)
    expected = theory.sigma_of_curvature_cost(0.1, at, N)
    ends: dict[str, Label] = {"space": name, "n": N}
    if name == "full":
        yield Quantity("departure_sigma", expected, "per parameter", null=expected, labels=ends)
    else:
        reason = "within 10 % at every measured sigma"
        yield Quantity("departure_sigma", None, "per parameter", null=expected, labels=ends, reason=reason)
    yield Quantity("transferred_gain", 0.8 * factor, "nats per target token", null=1.0, labels=ends)
    yield Quantity("transfer_ratio_to_prediction", factor, "ratio", labels=ends)


def theorem(ratio: float | None, reason: str | None = None) -> Quantity:
    """The gain over its prediction where the theorem is judged."""
    labels: dict[str, Label] = {"space": "full", "cost": 0.25, "n": N, "sigma": 0.1, "draws": 8192}
    return Quantity("theorem_ratio", ratio, "ratio", stderr=0.02, null=2.0, labels=labels, reason=reason)


def _points(factor: float) -> Iterator[Quantity]:
    for point, trace in {"broken": -30.0, "half recovered": 20.0 * (1.0 - factor), "star": 5.0}.items():
        yield Quantity("point_trace", trace, "nats per unit squared", labels={"point": point})
        for prediction in ("linear", "second_order", "flat"):
            labels: dict[str, Label] = {"point": point, "prediction": prediction, "sigma": 0.1}
            yield Quantity("point_ratio", factor, "ratio", labels=labels)


def _density(norm: float, factor: float) -> Iterator[Quantity]:
    unit = "nats per target token"
    for name, share in SUBSPACES.items():
        which: dict[str, Label] = {"subspace": name, "n": N}
        predicted = norm * share
        yield Quantity("equal_norm_gain", factor * predicted, unit, null=predicted, labels={**which, "length": 0.01})
        yield Quantity("density", share**2, "squared nats", null=0.01, labels={"subspace": name, "rank": 5})
        yield Quantity("enrichment", share**2, "ratio", null=1.0, labels={"subspace": name, "rank": 5})
        step = {"sigma": 0.1, "step": "probed" if name == "static_star" else "best"}
        yield Quantity("own_sigma_gain", factor * share, unit, null=share, labels={**which, **step})
    for subspaces in ("informed", "with random"):
        yield correlation(0.9, 0.3, subspaces)


def correlation(value: float, null: float | None, subspaces: str = "informed") -> Quantity:
    """The rank correlation of predicted with measured gains over subspaces."""
    labels: dict[str, Label] = {"subspaces": subspaces, "other_tasks": 0 if null is None else 2}
    return Quantity("density_rank_correlation", value, "rank correlation", null=null, labels=labels)


def _sizes(factor: float) -> Iterator[Quantity]:
    for variant, n_params in SIZES.items():
        for cost in COSTS:
            labels: dict[str, Label] = {"variant": variant, "n_params": n_params, "cost": cost}
            yield Quantity("dimension_ratio", factor, "ratio", labels=labels)
    yield Quantity("dimension_ratio", None, "ratio", labels={"variant": "width 128"}, reason="loss was not finite")
    for costs in ("all", *map(str, COSTS)):
        yield Quantity("dimension_slope", 0.01, "per log parameter", null=-0.5, labels={"costs": costs})
