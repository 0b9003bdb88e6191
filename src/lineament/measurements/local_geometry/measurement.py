"""Local geometry of task updates at the operating point (protocol, section 7; arXiv 2607.16821).

One record per seed, of all tasks: windows of single steps, pairs of steps and their order, with two batches of one task
as the control of every pair; rotation of gradient planes, shifts of activations and weight steps as steering vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

from lineament.measurements import basis_drift
from lineament.measurements.local_geometry.activations import (
    ACTIVATION_DEFINITIONS,
    activation_additivity,
    activation_cost,
)
from lineament.measurements.local_geometry.correspondence import (
    CORRESPONDENCE_DEFINITIONS,
    correspondence_cost,
    steering_correspondence,
)
from lineament.measurements.local_geometry.geometry import Geometry, at_operating_point, make_geometry
from lineament.measurements.local_geometry.pairs import (
    ADDITIVITY_SIZES,
    ETA_KAPPA,
    PAIR_DEFINITIONS,
    RADIUS_SIZES,
    pair_figures,
)
from lineament.measurements.local_geometry.products import make_products
from lineament.measurements.local_geometry.rotation import ROTATION_DEFINITIONS, plane_rotation, rotation_cost
from lineament.measurements.local_geometry.summaries import SUMMARY_DEFINITIONS, summaries
from lineament.measurements.local_geometry.windows import (
    PROBE_SIZES,
    WINDOW_DEFINITIONS,
    probe_fit,
    probes,
    windows,
)
from lineament.measurements.measurement import Measurement, make_record
from lineament.problems.problem import Problem
from lineament.records import Quantity, Record
from lineament.settings.agreements import Agreement
from lineament.settings.settings import Settings
from lineament.study.passes import FORWARD_PASSES, HESSIAN_PASSES
from lineament.study.study import OperatingStudy
from lineament.vectors.hessian import require_products
from lineament.vectors.local_geometry import SIZES

NAME = "local_geometry"
DEFINITIONS = {
    **WINDOW_DEFINITIONS,
    **PAIR_DEFINITIONS,
    **SUMMARY_DEFINITIONS,
    **ROTATION_DEFINITIONS,
    **ACTIVATION_DEFINITIONS,
    **CORRESPONDENCE_DEFINITIONS,
}


def measure(study: OperatingStudy) -> Record:
    """Measure the local geometry of all tasks at the operating point."""
    with at_operating_point(study):
        geometry = make_geometry(study)
        figures = list(_steps_and_pairs(geometry))
    with at_operating_point(study, float64=False):  # no small differences of losses from here on
        figures += [*plane_rotation(geometry), *activation_additivity(geometry), *steering_correspondence(geometry)]
    return make_record(study, NAME, figures, DEFINITIONS)


def _steps_and_pairs(geometry: Geometry) -> Iterator[Quantity]:
    for task, reason in geometry.left_out.items():
        yield Quantity("gradient_agreement", None, "cosine", labels={"task": task}, reason=f"left out: {reason}")
    single = list(windows(geometry))
    probed = list(probes(geometry, single))
    pairs = list(pair_figures(geometry, make_products(geometry)))
    yield from single
    yield from probed
    yield from probe_fit(probed)
    yield from pairs
    yield from summaries([*single, *pairs])


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of one operating point."""
    g, m = settings.geometry, n_tasks
    n_pairs = m * (m - 1) // 2 + m
    single = m * (5 * g.examples + 2 * g.held_out_examples + 3 * HESSIAN_PASSES * g.examples)
    single += m * settings.measurement.task_vector_steps * settings.recovery.batch
    tried = m * 3 * len(SIZES) * g.examples + m * m * (PROBE_SIZES + 1) * g.held_out_examples
    products = HESSIAN_PASSES * g.examples * m * (2 * m + 6)
    walks = n_pairs * g.examples * (2 * len(ETA_KAPPA) + len(RADIUS_SIZES))
    additivity = 2 * g.examples * (len(ADDITIVITY_SIZES) + 1) * (n_pairs + m * m)
    probes_of_pairs = n_pairs * 2 * g.held_out_examples * len(RADIUS_SIZES)
    passes = single + products + walks + FORWARD_PASSES * (tried + additivity + probes_of_pairs)
    parts = (rotation_cost, activation_cost, correspondence_cost)
    return {"local geometry": passes} | {k: v for part in parts for k, v in part(settings, n_tasks).items()}


def check(settings: Settings, n_tasks: int) -> Iterator[Agreement]:
    """Yield what the keys of planes of gradients demand of each other."""
    return basis_drift.check(settings, n_tasks)


def require_fit(problem: Problem) -> None:
    """Raise `InputError` for a model without second derivatives."""
    require_products(problem)


MEASUREMENT = Measurement(
    NAME,
    measure,
    cost,
    check,
    needs_recovery=False,
    of_all_tasks=True,
    settings_group="geometry",
    require_fit=require_fit,
)
