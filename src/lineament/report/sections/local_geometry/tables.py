"""Tables of local geometry: two tasks beside two batches of one, predicted probes, steps beside steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lineament.records import Record
from lineament.report.estimates import (
    Estimate,
    estimate,
    estimate_geometric,
    estimate_values,
    label_texts,
    null_of,
    select,
)
from lineament.report.sections.local_geometry.pairs import KINDS, RANDOM, median_of, near
from lineament.report.series import Table

STEERING_NULLS = {
    "other_task": "another task's shift",
    "random_step": "a random step's shift",
    "halves": "noise: halves",
}
SHUFFLED = "two tasks, shuffled labels"


def pairs_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate what two tasks show beside what two batches of one task, random steps and shuffled labels show."""
    if not select(sources, "median_kappa"):
        return None
    kinds = [*KINDS, "random"]
    rows = []
    for name, make in _rows(sources).items():
        found = [make(kind) for kind in kinds]
        rows.append((name, *(cell.text if cell.mean is not None else "" for cell in found)))
    shuffled = median_of(sources, "kappa_shuffled", estimate_geometric)
    words = [words for words, _ in KINDS.values()] + [RANDOM[0]]
    note = (
        "kappa is the order defect per unit of step size; with unit-norm gradients the louder task does not decide; in "
        "the optimizer's metric steps are P^-1 g. Medians and shares over pairs of one operating point, mean (of kappa "
        "geometric) and 95 % interval over seeds."
    )
    if shuffled.mean is not None:
        note += f" kappa of gradients of shuffled labels: {shuffled.text}."
    return Table("Two tasks beside two batches of one task", ("quantity", *words), rows, note)


def _rows(sources: Sequence[Record]) -> dict[str, Callable[[str], Estimate]]:
    """Return what a row is about -> kind of pair -> its estimate."""
    at = near(sources, "median_order_ratio", "eta_kappa", 0.01)

    def ratio(kind: str) -> Estimate:
        return estimate(select(sources, "median_order_ratio", pair=kind, **at), fraction=False)

    def plain(name: str) -> Callable[[str], Estimate]:
        return lambda kind: estimate(select(sources, name, pair=kind), fraction=name.startswith("share"))

    def spread(name: str) -> Callable[[str], Estimate]:
        return lambda kind: plain(name)(kind).clipped(0.0, math.inf)

    def middle(name: str) -> Callable[[str], Estimate]:
        return lambda kind: median_of(sources, name, estimate_geometric, pair=kind)

    return {
        "kappa (per step-size unit)": middle("kappa"),
        "kappa, unit-norm gradients": middle("kappa_unit_norm"),
        "kappa, optimizer's metric": middle("kappa_metric"),
        "order defect / predicted": ratio,
        "onset times kappa": plain("median_onset_kappa"),
        "onset inside both windows (share)": plain("share_inside_window"),
        "spread of the onset (decades)": spread("onset_decades"),
        "losses add (share)": plain("share_additive"),
        "spread of the radius (decades)": spread("pair_radius_decades"),
    }


def probes_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate how well first order predicts what steps on every task do to every task's held-out loss."""
    if not select(sources, "probe_slope"):
        return None
    rows = []
    for name, words in (("probe_slope", "slope"), ("probe_r2", "R2")):
        found = select(sources, name)
        ceilings = [q.ceiling for q in found if q.ceiling is not None]
        ceiling = estimate_values(ceilings, fraction=False)
        cells = (estimate(found, fraction=name == "probe_r2"), null_of(found), ceiling)
        rows.append((words, *(cell.text if cell.mean is not None else "none" for cell in cells)))
    note = (
        "Measured on predicted change of every task's held-out loss by steps along every task's gradient, inside its "
        "window. Null: another task's gradient as the probe's. Ceiling: one half of the held-out examples predicted "
        "from the other. Mean and 95 % interval over seeds."
    )
    columns = ("fit", "measured", "null: probes permuted", "ceiling: halves")
    return Table("What a step for one task does to the others", columns, rows, note)


def steering_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate, task by task, the effect of a step's mean shift over the step's own, with its nulls."""
    tasks = label_texts(sources, "steering_share", "task")
    if not tasks:
        return None
    nulls = [null for null in STEERING_NULLS if select(sources, "steering_share_null", null=null)]
    rows = [_steering_row(sources, task, nulls) for task in tasks]
    shares = [_text(estimate(select(sources, "median_steering_share_null", null=n), fraction=False)) for n in nulls]
    own, mean = (
        _text(estimate(select(sources, name), fraction=False))
        for name in ("median_steering_share", "median_mean_vector_share")
    )
    rows.append(("median over tasks", "", own, *shares, mean))
    note = (
        "Share: change of the mean logit difference by adding the weight step's mean activation shift at one layer, "
        "over the change by the weight step itself; 1 is the same effect. Mean-vector share: the part of the step's "
        "activation shifts that is one vector for all prompts. Mean and 95 % interval over seeds."
    )
    columns = ("task", "layer", "share of the step's effect", *(STEERING_NULLS[n] for n in nulls), "mean-vector share")
    return Table("Does a step's mean shift steer as the step does?", columns, rows, note)


def _steering_row(sources: Sequence[Record], task: str, nulls: Sequence[str]) -> tuple[str, ...]:
    own = select(sources, "steering_share", task=task)
    layers = ", ".join(map(str, sorted({int(q.labels["layer"]) for q in own if "layer" in q.labels})))
    beside = [estimate(select(sources, "steering_share_null", task=task, null=n), fraction=False) for n in nulls]
    mean = estimate(select(sources, "mean_vector_share", task=task), fraction=False)
    return (task, layers, _text(estimate(own, fraction=False)), *map(_text, beside), _text(mean))


def _text(found: Estimate) -> str:
    """Return the estimate, or the reason why there is none."""
    return found.text if found.mean is not None else (found.reason or "not measured")
