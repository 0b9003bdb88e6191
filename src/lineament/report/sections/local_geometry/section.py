"""Local geometry of task updates: how far one step is predictable, whether two add up, and whether order matters."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Record
from lineament.report.estimates import estimate_geometric
from lineament.report.sections.local_geometry.activations import activation_picture
from lineament.report.sections.local_geometry.first import first_picture
from lineament.report.sections.local_geometry.matrix import matrix_picture
from lineament.report.sections.local_geometry.order import order_picture
from lineament.report.sections.local_geometry.rotation import rotation_picture
from lineament.report.sections.local_geometry.tables import pairs_table, probes_table, steering_table
from lineament.report.sections.local_geometry.windows import window_picture
from lineament.report.sections.section import Opening, Section, each

NULLS = {
    "window": "with the slope of shuffled labels",
    "kappa": "kappa of two batches of one task, and of shuffled labels (kappa_shuffled)",
    "order_defect": "its noise floor: rounding of the weights",
    "share_inside_window": "the same share for two batches of one task",
    "share_additive": "the same share for random steps with the same norm in every tensor",
    "plane_overlap": "the other tasks' planes",
    "plane_retention": "the other tasks' planes",
    "steering_share": "steering_share_null, one value per kind",
}
OPENING = Opening(
    "Task",
    "local geometry of",
    "A trained model was neither damaged nor recovered here. This page shows how far single steps in its weights are "
    "predicted by gradients, whether two steps add up, and whether their order matters.",
)


def first_sentence(sources: Sequence[Record]) -> str | None:
    """Say so where order matters as much between two batches of one task as between two tasks."""
    kappas = {kind: [r.value("median_kappa", pair=kind) for r in sources] for kind in ("between", "within")}
    both = [(b, w) for b, w in zip(kappas["between"], kappas["within"], strict=True) if b and w]
    if not both:
        return None
    between, within = (estimate_geometric(list(values)) for values in zip(*both, strict=True))
    if between.mean is None or within.mean is None or within.mean < between.mean:
        return None
    return (
        "Order matters as much between two batches of one task as between two tasks: the median kappa is "
        f"{within.text} within a task and {between.text} between tasks, so nothing here shows that it is the tasks' "
        "difference that makes order matter."
    )


SECTION = Section(
    "local_geometry",
    "Local geometry of task updates",
    "how far one step is predictable, whether two add up, and whether their order matters",
    pictures=each(window_picture, first_picture, matrix_picture, order_picture, rotation_picture, activation_picture),
    tables=each(pairs_table, probes_table, steering_table),
    nulls=NULLS,
    opening=OPENING,
    warning=first_sentence,
)
