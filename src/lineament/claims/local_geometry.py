"""Claims about what holds around an operating point, from the records of `local_geometry`.

They are about all tasks together: medians and shares over the tasks or pairs of one operating point, one per seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from lineament.claims.evidence import Evidence, mean_or_none, paired_by_seed, why_missing
from lineament.claims.intervals import Interval, interval_body, over_seeds
from lineament.claims.local_geometry_details import (
    BETWEEN,
    NAME,
    OWN_GRADIENT,
    WITHIN,
    geometric,
    intervals_by,
    label_near,
    left_out,
    means_by,
    medians,
    n_censored,
    null_window,
    over_shuffled_labels,
    share,
    smallest_step,
    values_at,
    windows_by_direction,
    windows_by_task,
)
from lineament.claims.rule import ClaimRule, Measured, Requirement
from lineament.claims.verdict import Bounds
from lineament.records import Label

# The paper's figures (arXiv 2607.16821) were measured on LoRA factors and stand beside no other space.
PAPER_SPACE = "lora_factors"
SMALL_DEFECT = 0.01
SMALL_SCALE, FULL_SCALE = 0.1, 1.0
IN_WEIGHTS: Mapping[str, Label] = {"sum": "weights", "of": "activation"}
STEERING_NULLS = {"other_task": "another task's mean shift", "random_step": "a random step's mean shift"}


def _judged(
    e: Evidence, name: str, labels: Mapping[str, Label], interval_of: Callable[[Iterable[float]], Interval], **more: Any
) -> Measured | None:
    """Return what the records say of a quantity that each seed has once; None if they do not hold it."""
    figures = [q for record in e.of(NAME).values() for q in record.select(name, **labels)]
    if not figures:
        return None
    values = e.per_seed(NAME, name, **labels)
    undecided = why_missing(figures) if len(values) < len(figures) else None
    return Measured(interval_of(values.values()), undecided=undecided, **more)


def _measure_window(e: Evidence) -> Measured | None:
    ratios = medians(e, "window_ratio", **OWN_GRADIENT)
    details = {
        "by_direction": windows_by_direction(e),
        "by_task": windows_by_task(e),
        "over_predicted": interval_body(geometric(ratios.values())),
        "windows_that_reach_the_largest_step": n_censored(e),
        "left_out": left_out(e),
    }
    of_windows = partial(geometric, lowest=smallest_step(e))
    return _judged(e, "median_window", OWN_GRADIENT, of_windows, null=null_window(e), details=details)


ONE_DIRECTION_WINDOW = ClaimRule(
    id="one_direction_window",
    title="Along one direction, the loss follows its gradient for a hundredth of a task vector and more",
    holds="Up to 0.01 task-vector lengths and more, the loss along a task's own gradient changes as the gradient says, "
    "within 10 %.",
    fails="Below 0.01 task-vector lengths already, the loss along a task's own gradient changes otherwise than the "
    "gradient says.",
    definition="largest step along a task's own gradient up to which the loss change is first-order predicted within "
    "10 %; median over tasks, geometric mean over seeds",
    requirements=(Requirement("window", Bounds(above=0.01)),),
    measure=_measure_window,
    measurement=NAME,
    unit="task-vector lengths",
    paper=0.01,
    paper_space=PAPER_SPACE,
)


def _determination(e: Evidence) -> Interval:
    return share(e.per_seed(NAME, "probe_r2").values())


def _measure_probes(e: Evidence) -> Measured | None:
    details = {
        "r2": interval_body(_determination(e)),
        "r2_null": mean_or_none(e.nulls(NAME, "probe_r2")),
        "r2_ceiling": mean_or_none(e.ceilings(NAME, "probe_r2")),
    }
    null, ceiling = mean_or_none(e.nulls(NAME, "probe_slope")), mean_or_none(e.ceilings(NAME, "probe_slope"))
    return _judged(e, "probe_slope", {}, over_seeds, null=null, ceiling=ceiling, details=details)


PROBE_PREDICTABLE = ClaimRule(
    id="probe_predictable",
    title="A step for one task changes the others' losses as their gradients say",
    holds="Changes of all tasks' losses on held-out examples are what first order predicts.",
    fails="Changes of the tasks' losses on held-out examples are not what first order predicts.",
    definition="slope of the measured on the predicted change of every probe's loss by a step along every task's "
    "direction, inside the window",
    requirements=(
        Requirement("slope", Bounds(above=0.9, below=1.1)),
        Requirement("R2", Bounds(above=0.9), _determination),
    ),
    measure=_measure_probes,
    measurement=NAME,
    unit="ratio",
)


def _measure_additivity(e: Evidence) -> Measured | None:
    null = mean_or_none(e.per_seed(NAME, "share_additive", pair="random").values())
    within = share(e.per_seed(NAME, "share_additive", **WITHIN).values())
    at = label_near(e, "additivity_defect", "eps", 0.01)
    defects = {pair: geometric(medians(e, "additivity_defect", pair=pair, **at).values()) for pair in
               ("between", "within", "random")}  # fmt: skip
    details = {
        "within_a_task": interval_body(within),
        "median_defect": {pair: interval_body(found) for pair, found in defects.items() if found.n_seeds},
    }
    return _judged(e, "share_additive", BETWEEN, share, null=null, details=details)


LOSSES_ADD = ClaimRule(
    id="losses_add",
    title="Two tasks' steps change the loss by the sum of what each changes",
    holds="For more than half of the pairs, steps of 0.01 task-vector lengths add up within 10 %.",
    fails="For half of the pairs or more, steps of 0.01 task-vector lengths do not add up within 10 %.",
    definition="share of pairs of tasks whose additivity defect is below 0.1 at 0.01 task-vector lengths",
    requirements=(Requirement("share of pairs", Bounds(above=0.5)),),
    measure=_measure_additivity,
    measurement=NAME,
)


def _measure_radii(e: Evidence) -> Measured | None:
    radii = {str(pair["pair"]): medians(e, "pair_radius", **pair) for pair in (BETWEEN, WITHIN)}
    details = {"median_radius": {pair: interval_body(geometric(of.values())) for pair, of in radii.items()}}
    null = mean_or_none(e.per_seed(NAME, "pair_radius_decades", **WITHIN).values())
    return _judged(e, "pair_radius_decades", BETWEEN, over_seeds, null=null, details=details)


NO_UNIVERSAL_PAIR_RADIUS = ClaimRule(
    id="no_universal_pair_radius",
    title="No one step size is safe for all pairs of tasks",
    holds="The step up to which two tasks' steps are first-order predictable differs between pairs by more than a "
    "factor of ten.",
    fails="The step up to which two tasks' steps are first-order predictable differs between pairs by a factor of ten "
    "at most.",
    definition="log10 of the 90th over the 10th percentile, over pairs of tasks, of the largest step at which the "
    "probe loss after both is first-order predicted within 10 %",
    requirements=(Requirement("spread of the radius", Bounds(above=1.0)),),
    measure=_measure_radii,
    measurement=NAME,
    unit="decades",
    paper=3.0,
    paper_space=PAPER_SPACE,
)


def _onset_kappa(e: Evidence) -> Interval:
    return over_seeds(e.per_seed(NAME, "median_onset_kappa", **BETWEEN).values())


def _measure_order(e: Evidence) -> Measured | None:
    name = "median_order_ratio"
    at = label_near(e, name, "eta_kappa", SMALL_DEFECT)
    details = {
        "ratio_by_eta_kappa": means_by(e, name, "eta_kappa", **BETWEEN),
        "ratio_within_a_task": means_by(e, name, "eta_kappa", **WITHIN),
        "onset_times_kappa": means_by(e, "median_onset_kappa", "pair"),
        "onset_error": means_by(e, "median_onset_error", "pair"),
        "onset_decades": means_by(e, "onset_decades", "pair"),
        "left_out": left_out(e),
    }
    null = over_shuffled_labels(e, label_near(e, "order_ratio", "eta_kappa", SMALL_DEFECT))
    return _judged(e, name, {**BETWEEN, **at}, over_seeds, null=null, details=details)


ORDER_DEFECT_PREDICTED = ClaimRule(
    id="order_defect_predicted",
    title="Gradients and curvature at one point predict what the order of two steps changes",
    holds="The order defect is eta kappa within 5 %, and reaches 0.1 where kappa says, within 20 %.",
    fails="The order defect is not eta kappa within 5 %, or does not reach 0.1 where kappa says.",
    definition="order defect over eta kappa at eta kappa = 0.01, median over pairs of tasks",
    requirements=(
        Requirement("measured over predicted order defect", Bounds(above=0.95, below=1.05)),
        Requirement("onset times kappa", Bounds(above=0.08, below=0.12), _onset_kappa),
    ),
    measure=_measure_order,
    measurement=NAME,
    unit="ratio",
    paper=1.002,
    paper_space=PAPER_SPACE,
)


def _lead_over_within(e: Evidence) -> Interval:
    between, within = (e.per_seed(NAME, "share_inside_window", **pair) for pair in (BETWEEN, WITHIN))
    return paired_by_seed(between, within)


def _measure_onsets(e: Evidence) -> Measured | None:
    kappas = {str(pair["pair"]): e.per_seed(NAME, "median_kappa", **pair) for pair in (BETWEEN, WITHIN)}
    within, between = kappas["within"], kappas["between"]
    over = [within[seed] / between[seed] for seed in between if between[seed] and seed in within]
    details = {
        "minus_within_a_task": interval_body(_lead_over_within(e)),
        "median_kappa": {pair: interval_body(geometric(of.values())) for pair, of in kappas.items()},
        "kappa_within_over_between": interval_body(geometric(over)),
    }
    null = mean_or_none(e.per_seed(NAME, "share_inside_window", **WITHIN).values())
    return _judged(e, "share_inside_window", BETWEEN, share, null=null, details=details)


ORDER_MATTERS_INSIDE_WINDOW = ClaimRule(
    id="order_matters_inside_window",
    title="The order of two tasks matters where each alone is still predictable",
    holds="For more than a third of the pairs of tasks, and more than for two batches of one task, order matters "
    "inside both windows.",
    fails="For a third of the pairs of tasks at most, or no more than for two batches of one task, order matters "
    "inside both windows.",
    definition="share of pairs of tasks whose order defect reaches 0.1 at a step inside the windows of both",
    requirements=(
        Requirement("share of pairs", Bounds(above=1 / 3)),
        Requirement("share minus that of batches of one task", Bounds(above=0.0), _lead_over_within),
    ),
    measure=_measure_onsets,
    measurement=NAME,
    paper=1 / 3,
    paper_space=PAPER_SPACE,
)


def _measure_rotation(e: Evidence) -> Measured | None:
    details = {
        "half_life_by_task": means_by(e, "plane_half_life", "task"),
        "distance_by_task": means_by(e, "plane_half_life_distance", "task"),
        "at_the_largest_lag": _at_largest_lag(e),
    }
    return _judged(e, "median_plane_half_life", {}, geometric, details=details)


def _at_largest_lag(e: Evidence) -> dict[str, Any]:
    """Return overlap and retention at the largest lag, mean over tasks and seeds, with their nulls."""
    lags = values_at(e, "plane_overlap", "lag")
    if not lags:
        return {}
    at: dict[str, Label] = {"lag": lags[-1]}
    means = {name: mean_or_none(medians(e, name, **at).values()) for name in ("plane_overlap", "plane_retention")}
    nulls = {f"{name}_null": mean_or_none(e.nulls(NAME, name, **at)) for name in means}
    return {**at, **means, **nulls, "plane_retention_ceiling": mean_or_none(e.ceilings(NAME, "plane_retention", **at))}


GRADIENT_PLANE_ROTATES = ClaimRule(
    id="gradient_plane_rotates",
    title="The plane of a task's gradients turns within fifty steps",
    holds="Along further training on a task, half of its plane of gradients is lost within 50 steps.",
    fails="Along further training on a task, half of its plane of gradients lasts for 50 steps or longer.",
    definition="lag at which the rescaled overlap of a task's planes of gradients falls to half, along further "
    "training on it from theta_star; median over tasks, geometric mean over seeds",
    requirements=(Requirement("half-life", Bounds(below=50.0)),),
    measure=_measure_rotation,
    measurement=NAME,
    unit="steps",
)


def _defect_at(scale: float) -> Callable[[Evidence], Interval]:
    name = "median_activation_defect"
    return lambda e: geometric(e.per_seed(NAME, name, **IN_WEIGHTS, **label_near(e, name, "scale", scale)).values())


def _measure_activations(e: Evidence) -> Measured | None:
    name = "median_activation_defect"
    at = label_near(e, name, "scale", SMALL_SCALE)
    kinds = [("weights", "activation"), ("weights", "logit"), ("factors", "activation"), ("factors", "logit")]
    by_kind = {f"{of}, sum in {total}": intervals_by(e, name, "scale", sum=total, of=of) for total, of in kinds}
    halves = medians(e, "activation_defect_halves", **IN_WEIGHTS, **label_near(e, name, "scale", SMALL_SCALE))
    details = {
        "by_scale": {kind: found for kind, found in by_kind.items() if found},
        "null_at_full_scale": mean_or_none(
            e.nulls(NAME, name, **IN_WEIGHTS, **label_near(e, name, "scale", FULL_SCALE))
        ),
        "noise_floor": mean_or_none(halves.values()),
    }
    null = mean_or_none(e.nulls(NAME, name, **IN_WEIGHTS, **at))
    return _judged(e, name, {**IN_WEIGHTS, **at}, geometric, null=null, details=details)


ACTIVATIONS_ADD = ClaimRule(
    id="activations_add",
    title="Activation shifts of two task vectors add up at a tenth of their length, and no longer at full length",
    holds="At a tenth of the task vectors the shifts add up within 10 %, at their full length they do not.",
    fails="At a tenth of the task vectors the shifts do not add up within 10 %, or at full length they still do.",
    definition="additivity defect of mean activation shifts at two thirds of the depth, sum taken in dW, at a tenth of "
    "the task vectors; median over pairs of tasks, geometric mean over seeds",
    requirements=(
        Requirement("defect at a tenth", Bounds(below=0.1)),
        Requirement("defect at full length", Bounds(above=0.1), _defect_at(FULL_SCALE)),
    ),
    measure=_measure_activations,
    measurement=NAME,
)


def _lead_over_null(null: str) -> Callable[[Evidence], Interval]:
    def lead(e: Evidence) -> Interval:
        own = e.per_seed(NAME, "median_steering_share")
        return paired_by_seed(own, e.per_seed(NAME, "median_steering_share_null", null=null))

    return lead


def _measure_correspondence(e: Evidence) -> Measured | None:
    nulls = means_by(e, "median_steering_share_null", "null")
    deciding = [nulls[kind] for kind in STEERING_NULLS if nulls.get(kind) is not None]
    details = {
        "nulls": nulls,
        "by_task": means_by(e, "steering_share", "task"),
        "mean_vector_share": interval_body(over_seeds(e.per_seed(NAME, "median_mean_vector_share").values())),
        "left_out": left_out(e),
    }
    null = max((value for value in deciding if value is not None), default=None)
    return _judged(e, "median_steering_share", {}, over_seeds, null=null, details=details)


def _steering_requirements() -> Iterator[Requirement]:
    yield Requirement("share of the step's effect", Bounds(above=0.5))
    for null, words in STEERING_NULLS.items():
        yield Requirement(f"that share minus {words}", Bounds(above=0.0), _lead_over_null(null))


WEIGHTS_MEET_STEERING = ClaimRule(
    id="weights_meet_steering",
    title="A weight step's effect is that of its mean activation shift",
    holds="Adding a step's mean shift at the best layer has at least half of the step's own effect, and more than "
    "another task's or a random step's shift.",
    fails="Adding a step's mean shift has less than half of the step's own effect, or no more than another task's or a "
    "random step's shift.",
    definition="change of the logit difference by adding the mean shift at the best layer / by the weight step itself; "
    "median over tasks",
    requirements=tuple(_steering_requirements()),
    measure=_measure_correspondence,
    measurement=NAME,
    unit="ratio",
)
