"""Capture of the recovery displacement (protocol, section 2).

Quantity: capture(U, D) = |U^T D|^2 / |D|^2, D = theta_recovered - theta_broken, for bases of equal rank on the same
recovery. Unit: fraction. Three definitions: `whole` (D), `rest` (D less the updates the basis was built from, or less
u_1 .. u_k for a basis built from none), `rest_gap` (less u_1 .. u_(k+10) as well). Captures by updates stand
beside those of a blind run (`blind`), at T and at T_loss.
Null: `null_other_task` for static planes, `null_preconditioned_shuffled` for the plane in the optimizer's metric,
`null_noise_prefix` for the prefix and all others; the random subspace passes anything and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lineament.bases import Basis, overlap
from lineament.measurements.capture_bases import (
    BASES,
    MEAN_BATCHES,
    METRIC_BATCHES,
    MOST_RESIDUAL,
    NOT_CONVERGED,
    Workbench,
    further_task_planes,
    make_bases,
    why_left_out,
)
from lineament.measurements.capture_ranks import compared_ranks, usable_ranks, why_unusable
from lineament.measurements.captures import Candidate
from lineament.measurements.families import STATIC, best_static
from lineament.measurements.inside import functional_figures
from lineament.measurements.measurement import Measurement, make_record
from lineament.measurements.recovery_captures import (
    WINDOW_DEFINITION,
    CandidatesAt,
    CaptureSite,
    site_captures,
    step_counts,
    window_captures,
)
from lineament.measurements.sensitivity import DEFINITION as GRID_DEFINITION
from lineament.measurements.sensitivity import N_CELLS, grid_figures
from lineament.problems.factor_pairs import factor_pairs
from lineament.records import Label, Quantity, Record
from lineament.settings.settings import Settings
from lineament.study.passes import HESSIAN_PASSES, damage_passes, recovery_passes
from lineament.study.study import Study
from lineament.vectors.effective import update_gram
from lineament.vectors.hessian import require_products
from lineament.vectors.trajectory_gram import Coefficients, TrajectoryGram

NAME = "basis_capture"
# basis -> the basis whose capture is its null.
NULL_OF = {**dict.fromkeys(STATIC, "null_other_task"), "control_preconditioned": "null_preconditioned_shuffled"}
NULL_OF_OTHERS = "null_noise_prefix"
DEFINITIONS = {
    "capture": "|U^T d|^2 / |d|^2; definition whole: d = D; rest: D less the updates that U was built from (for a "
    "basis built from none, less u_1..u_k); rest_gap: less u_1..u_(k+10) too (protocol 2)",
    "prefix_share_of_steps": "k / T, the share of steps in the prefix; no null: a blind run with momentum holds more",
    "krylov_prefix_overlap": "|U^T V|_F^2 / k of K_k(P^-1 H, P^-1 g) with span(u_1..u_k); null: with the noise prefix; "
    "ceiling: the overlap of two prefixes on other data with each other",
    "hessian_top_residual": "|H v - value v| / |value| of each direction that Lanczos gives for static_hessian_top; "
    f"directions above {MOST_RESIDUAL:g} are left out of the basis",
    "null_task_gradient": "largest gradient entry of another task at theta_broken: 0, so that it has no plane and is "
    "left out of the mean that null_other_task is",
    "start_basis_share": "share of the static_start basis in the factors A and in B: squared norm of its columns there "
    "over k; taken after 10 steps, since a fresh adapter has no gradient for A (protocol 0); null: that factor's share "
    "of the parameters",
    "window_capture": WINDOW_DEFINITION,
    "recovery_steps": "T: the fixed number of steps after which the recovery is judged (protocol 0)",
    "steps_to_recovery": "first evaluation from which accuracy stays at 95 % of the trained model's",
    "loss_step": "T_loss: step at which 95 % of the loss gap between damaged and trained model is closed",
    "evaluation": "loss and accuracy of every task at theta_start, theta_star, theta_broken and theta_recovered",
    "projected": "held-out loss and accuracy at theta_broken + U U^T D (protocol 2)",
    "trained_inside": "held-out loss and accuracy after training only the k coordinates inside U: same optimizer, "
    "best of three step sizes on validation",
    "grid_capture": GRID_DEFINITION,
    "grid_recovery_steps": "T of each cell of the grid",
    "reference": "held-out loss and accuracy of the target at theta_broken, theta_recovered and theta_star",
}


def measure(study: Study) -> Record:
    """Measure captures by every basis, control and null at every rank, and what the subspaces can recover."""
    figures = _recovery_figures(study)
    if not_recovered := study.curve.why_not_recovered:
        figures.append(Quantity("recovery_steps", None, "steps", reason=not_recovered))
        return make_record(study, NAME, figures, DEFINITIONS, _curves(study))
    figures += step_counts(study.curve)
    bench = Workbench(study)
    bases = make_bases(study, bench=bench) if usable_ranks(study) else {}
    ranks, draws = compared_ranks(study, bases), study.settings.measurement.random_draws
    figures += _shares_of_steps(study, ranks)
    missing = {name: _why_missing(bench, name) for name in BASES if bases and name not in bases}
    site = CaptureSite(study.recovery, study.gram, study.streams, draws, _fixed_bases(bench, bases), missing)
    figures += site_captures(site, ranks)
    if study.settings.measurement.headline_rank <= study.recovered_at:
        figures += window_captures(site, study.settings.measurement.headline_rank)
    figures += _effective_captures(study, ranks)
    figures += _start_basis_shares(study, bases)
    figures += _krylov_overlaps(study, bases)
    figures += _hessian_residuals(bench)
    figures += [
        Quantity(
            "null_task_gradient", 0.0, "nats per unit", labels={"task": task}, reason="left out of null_other_task"
        )
        for task in sorted(bench.tasks_without_gradient)
    ]
    best = best_static(figures, study.settings.measurement.headline_rank)
    figures += functional_figures(study, bases, best.basis if best else None)
    if study.settings.measurement.grid:
        figures += grid_figures(study)
    return make_record(study, NAME, _with_nulls(figures), DEFINITIONS, _curves(study))


def _recovery_figures(study: Study) -> list[Quantity]:
    figures = []
    for point, tasks in study.effects.items():
        for task, found in tasks.items():
            for statistic, unit in (("loss", "nats per target token"), ("accuracy", "fraction")):
                labels: dict[str, Label] = {"point": point, "task": task, "statistic": statistic}
                figures.append(Quantity("evaluation", found[statistic], unit, labels=labels))
    return figures


def _curves(study: Study) -> dict[str, np.ndarray]:
    curve = study.curve
    return {
        "evaluated_steps": np.asarray(curve.steps),
        "recovery_loss": np.asarray(curve.loss),
        "recovery_accuracy": np.asarray(curve.accuracy),
        "train_loss": np.asarray(curve.train_loss),
    }


def _why_missing(bench: Workbench, name: str) -> str:
    """Say why a basis that the study allows was not made."""
    if name == "null_other_task" and bench.tasks_without_gradient:
        return "no other task has a gradient at theta_broken"
    return why_left_out(bench.study, name) or NOT_CONVERGED


def _fixed_bases(bench: Workbench, bases: Mapping[str, Basis]) -> dict[str, CandidatesAt]:
    """Return the bases that are made of something else than the recovery's own updates.

    `null_other_task` is one plane per other task, whose captures are averaged.
    """
    study = bench.study
    found = {name: [study.trajectory.coefficients(bases[name])] if name in bases else [] for name in BASES}
    if "null_other_task" in bases:
        found["null_other_task"] += [study.trajectory.coefficients(plane) for plane in further_task_planes(bench)]
    return {name: _fixed(coefficients) for name, coefficients in found.items()}


def _fixed(found: Sequence[Coefficients]) -> CandidatesAt:
    def at(rank: int) -> list[Candidate]:
        return [Candidate(coefficients.leading(rank), None) for coefficients in found if coefficients.rank >= rank]

    return at


def effective_gram(study: Study) -> TrajectoryGram:
    """Return the Gram matrix of the recovery's dW updates."""
    return update_gram(factor_pairs(study.problem.parameters), study.trajectory.positions())


def _effective_captures(study: Study, ranks: Sequence[int]) -> list[Quantity]:
    """Return the gauge-invariant captures: bases of updates, in dW space."""
    if study.problem.parameters.space.kind != "lora_factors":
        return []
    draws = study.settings.measurement.random_draws
    site = CaptureSite(study.recovery, effective_gram(study), study.streams, draws, space_of="lora_effective")
    return site_captures(site, ranks)


def _start_basis_shares(study: Study, bases: Mapping[str, Basis]) -> list[Quantity]:
    """Measure how much of the start basis lies in A and in B; only an adapter has them."""
    if study.problem.parameters.space.kind != "lora_factors" or "static_start" not in bases:
        return []
    start = bases["static_start"]
    columns = start.leading(min(start.rank, study.settings.measurement.headline_rank)).columns
    pairs, n_params = factor_pairs(study.problem.parameters), study.problem.parameters.n_params
    figures = []
    for factor, parts in (("A", [pair.a for pair in pairs]), ("B", [pair.b for pair in pairs])):
        inside = sum(float(columns[part].square().sum()) for part in parts)
        size = sum(part.stop - part.start for part in parts)
        labels: dict[str, Label] = {"factor": factor, "rank": columns.shape[1]}
        figures.append(
            Quantity("start_basis_share", inside / columns.shape[1], "fraction", null=size / n_params, labels=labels)
        )
    return figures


def _shares_of_steps(study: Study, ranks: Sequence[int]) -> list[Quantity]:
    def share(rank: int) -> Quantity:
        labels: dict[str, Label] = {"rank": rank}
        if rank > study.recovered_at:
            reason = why_unusable(study, rank)
            return Quantity("prefix_share_of_steps", None, "fraction", labels=labels, reason=reason)
        return Quantity("prefix_share_of_steps", rank / study.recovered_at, "fraction", labels=labels)

    return [share(rank) for rank in ranks]


def _krylov_overlaps(study: Study, bases: Mapping[str, Basis]) -> list[Quantity]:
    figures = []
    for rank in study.settings.measurement.ranks:
        for name in ("krylov", "krylov_preconditioned"):
            figures.append(_krylov_overlap(study, bases, name, rank))
    return figures


def _krylov_overlap(study: Study, bases: Mapping[str, Basis], name: str, rank: int) -> Quantity:
    """Return the overlap of a Krylov space with the prefix, beside that with the noise prefix and the ceiling.

    The ceiling is what two prefixes on different data share: more cannot be asked of a space that knows no order.
    """

    def quantity(value: float | None, reason: str | None = None, **beside: float) -> Quantity:
        labels: dict[str, Label] = {"basis": name, "rank": rank}
        return Quantity("krylov_prefix_overlap", value, "fraction", labels=labels, reason=reason, **beside)

    if rank > study.recovered_at:
        return quantity(None, why_unusable(study, rank))
    compared = [bases[n] for n in (name, "null_noise_prefix", "control_other_data", "control_other_data_2")]
    if min(basis.rank for basis in compared) < rank:
        return quantity(None, "the basis has fewer directions than this rank")
    space, noise, *others = (basis.leading(rank) for basis in compared)
    value = study.gram.overlap(study.trajectory.coefficients(space), study.gram.prefix(rank))
    return quantity(value, null=overlap(space, noise), ceiling=overlap(*others))


def _hessian_residuals(bench: Workbench) -> list[Quantity]:
    return [
        Quantity("hessian_top_residual", size, "fraction", labels={"direction": number})
        for number, size in enumerate(bench.hessian_residuals, start=1)
    ]


def _with_nulls(figures: list[Quantity]) -> list[Quantity]:
    """Put beside each capture its null, which is made as its basis is; the noise prefix where none is named."""

    def key(figure: Quantity) -> tuple[object, ...]:
        return tuple(figure.labels.get(k) for k in ("rank", "definition", "at", "space_of"))

    captures = [f for f in figures if f.name == "capture"]
    nulls = {
        name: {key(f): f.value for f in captures if f.labels["basis"] == name}
        for name in {NULL_OF_OTHERS, *NULL_OF.values()}
    }

    def with_null(figure: Quantity) -> Quantity:
        if figure.name != "capture":
            return figure
        null_of_basis = NULL_OF.get(str(figure.labels["basis"]), NULL_OF_OTHERS)
        return replace(figure, null=nulls[null_of_basis].get(key(figure)))

    return [with_null(figure) for figure in figures]


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the example passes of one target, with those of the grid of damage kinds and step sizes if it is made."""
    m, batch = settings.measurement, settings.recovery.batch
    curvature = m.curvature_batch * HESSIAN_PASSES * (m.lanczos_steps + 2 * max(m.ranks))
    others = max(m.ranks) * (4 + 1 + MEAN_BATCHES) * batch + n_tasks * m.task_vector_steps * batch
    inside = (len(BASES) * len(m.ranks) if m.inside_all else 5) * 3 * m.inside_steps * m.inside_batch
    bases = m.gradients * m.minibatch * (3 + n_tasks) + curvature + others + 2 * METRIC_BATCHES * batch
    passes = {"bases and captures": bases, "training inside": float(inside)}
    if m.grid:
        passes["step size by damage grid"] = N_CELLS * (damage_passes(settings) + recovery_passes(settings))
    return passes


MEASUREMENT = Measurement(NAME, measure, cost, require_fit=require_products)
