"""Records on which the claims about local geometry hold, fail and stay open, and those of a truth and a falsehood."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from geometry_records import Value, summaries, summary_records

from lineament.records import Quantity, Record

YES, NO, OPEN = "supported", "not_supported", "inconclusive"
SPREAD = (-0.01, 0.0, 0.01)


def near(level: float) -> list[Value]:
    """Values of three seeds; their interval is about 2.5 % of the level wide on either side."""
    return [level * (1 + shift) for shift in SPREAD]


TABLE: dict[str, dict[str, tuple[list[Record], str]]] = {
    "one_direction_window": {
        "wide": (summary_records(window=near(0.1)), YES),
        "just wide enough": (summary_records(window=near(0.0105)), YES),
        "a hundredth of that": (summary_records(window=near(1e-4)), NO),
        "none at all": (summary_records(window=[0.0, 0.0, 0.0]), NO),
        "over decades": (summary_records(window=[0.003, 0.03, 0.3]), OPEN),
        "a seed without one": (summary_records(window=[0.1, 0.1, None]), OPEN),
    },
    "probe_predictable": {
        "both": (summary_records(slope=near(1.0), r2=near(0.97)), YES),
        "steeper": (summary_records(slope=near(1.2), r2=near(0.97)), NO),
        "scattered": (summary_records(slope=near(1.0), r2=near(0.5)), NO),
        "a slope near its bound": (summary_records(slope=near(1.1), r2=near(0.97)), OPEN),
        "R2 near its bound": (summary_records(slope=near(1.0), r2=near(0.91)), OPEN),
    },
    "losses_add": {
        "most pairs": (summary_records(additive=near(0.8), additive_random=near(0.9)), YES),
        "all pairs of every seed": (summary_records(additive=[1.0, 1.0, 1.0]), YES),
        "few pairs": (summary_records(additive=near(0.2)), NO),
        "no pair of any seed": (summary_records(additive=[0.0, 0.0, 0.0]), NO),
        "half": (summary_records(additive=[0.4, 0.5, 0.6]), OPEN),
    },
    "no_universal_pair_radius": {
        "three decades": (summary_records(decades=near(3.0), decades_within=near(0.5)), YES),
        "a factor of two": (summary_records(decades=near(0.3)), NO),
        "about one": (summary_records(decades=near(1.0)), OPEN),
    },
    "order_defect_predicted": {
        "both": (summary_records(order_ratio=near(1.0), onset_kappa=near(0.1)), YES),
        "larger than predicted": (summary_records(order_ratio=near(1.2), onset_kappa=near(0.1)), NO),
        "an onset that comes early": (summary_records(order_ratio=near(1.0), onset_kappa=near(0.06)), NO),
        "near its bound": (summary_records(order_ratio=near(1.05), onset_kappa=near(0.1)), OPEN),
        "no onset in one seed": (summary_records(order_ratio=near(1.0), onset_kappa=[0.1, 0.1, None]), OPEN),
    },
    "order_matters_inside_window": {
        "more than within": (summary_records(inside=near(0.6), inside_within=near(0.2)), YES),
        "as rarely as within": (summary_records(inside=near(0.1), inside_within=near(0.1)), NO),
        "less than within": (summary_records(inside=near(0.6), inside_within=near(0.9)), NO),
        "as within": (summary_records(inside=near(0.6), inside_within=near(0.6)[::-1]), OPEN),
        "pairing decides": (summary_records(inside=[0.4, 0.55, 0.7], inside_within=[0.3, 0.451, 0.602]), OPEN),
    },
    "gradient_plane_rotates": {
        "ten steps": (summary_records(half_life=near(10.0)), YES),
        "longer than measured": (summary_records(half_life=[100.0, 100.0, 100.0]), NO),
        "about fifty": (summary_records(half_life=near(50.0)), OPEN),
    },
    "activations_add": {
        "at first only": (summary_records(defect=near(0.02), defect_full=near(0.5)), YES),
        "at first not": (summary_records(defect=near(0.3), defect_full=near(0.9)), NO),
        "always": (summary_records(defect=near(1e-3), defect_full=near(0.03)), NO),
        "exactly": (summary_records(defect=[0.0, 0.0, 0.0], defect_full=[0.0, 0.0, 0.0]), NO),
        "about a tenth": (summary_records(defect=near(0.1), defect_full=near(0.9)), OPEN),
    },
    "weights_meet_steering": {
        "more than both nulls": (
            summary_records(steering=near(0.8), steering_other=near(0.2), steering_random=near(0.1)),
            YES,
        ),
        "as another task's": (
            summary_records(steering=near(0.8), steering_other=near(0.9), steering_random=near(0.1)),
            NO,
        ),
        "as a random step's": (
            summary_records(steering=near(0.8), steering_other=near(0.1), steering_random=near(0.9)),
            NO,
        ),
        "little": (summary_records(steering=near(0.2), steering_other=near(0.1), steering_random=near(0.1)), NO),
        "about half": (
            summary_records(steering=near(0.5), steering_other=near(0.1), steering_random=near(0.1)),
            OPEN,
        ),
        "a null that was not measured": (summary_records(steering=near(0.8), steering_other=near(0.2)), OPEN),
    },
}


Make = Callable[[int], list[Quantity]]


def alike(**levels: float) -> Make:
    """Summaries of a seed, each at most a hundredth beside its level."""
    return lambda seed: summaries({name: level * (1 + 0.005 * (seed - 2)) for name, level in levels.items()})


STEERED = {"steering": 0.8, "steering_other": 0.2, "steering_random": 0.1}
# claim -> measurement, records of a truth, records of a falsehood
CASES: Mapping[str, tuple[str, Make, Make]] = {
    "one_direction_window": ("local_geometry", alike(window=0.05), alike(window=1e-4)),
    "probe_predictable": ("local_geometry", alike(slope=1.0, r2=0.95), alike(slope=1.0, r2=0.5)),
    "losses_add": ("local_geometry", alike(additive=0.8), alike(additive=0.2)),
    "no_universal_pair_radius": ("local_geometry", alike(decades=2.0), alike(decades=0.3)),
    "order_defect_predicted": (
        "local_geometry",
        alike(order_ratio=1.0, onset_kappa=0.1),
        alike(order_ratio=1.0, onset_kappa=0.3),
    ),
    "order_matters_inside_window": (
        "local_geometry",
        alike(inside=0.6, inside_within=0.2),
        alike(inside=0.6, inside_within=0.7),
    ),
    "gradient_plane_rotates": ("local_geometry", alike(half_life=20.0), alike(half_life=90.0)),
    "activations_add": ("local_geometry", alike(defect=0.03, defect_full=0.6), alike(defect=0.03, defect_full=0.05)),
    "weights_meet_steering": ("local_geometry", alike(**STEERED), alike(**{**STEERED, "steering_other": 0.85})),
}
