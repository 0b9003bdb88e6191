"""Capture of the recovery displacement (protocol, section 2).

Quantity: capture(U, D) = |U^T D|^2 / |D|^2, D = theta_recovered - theta_broken, for bases of equal rank on the same
recovery. Unit: fraction. Three definitions: `whole` (D), `rest` (D less the updates the basis was built from, or less
u_1 .. u_k for a basis built from none), `rest_gap` (less u_1 .. u_(k+10) as well). k / T is printed beside the prefix:
independent updates would give it. Null: `null_noise_prefix` for the prefix, `null_other_task` for static planes; the
random subspace passes anything and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lineament.bases import Basis, overlap
from lineament.measurements.capture_bases import make_bases, usable_ranks
from lineament.measurements.captures import Candidate, definitions, mean_capture, own_candidates
from lineament.measurements.families import STATIC
from lineament.measurements.inside import functional_figures
from lineament.measurements.measurement import make_record
from lineament.measurements.sensitivity import DEFINITION as GRID_DEFINITION
from lineament.measurements.sensitivity import grid_figures
from lineament.problems.adapters import factor_pairs
from lineament.records import Figure, Label, Record
from lineament.study import Study
from lineament.vectors.effective import update_gram
from lineament.vectors.trajectories import TrajectoryGram

NAME = "basis_capture"
DEFINITIONS = {
    "capture": "|U^T d|^2 / |d|^2; definition whole: d = D; rest: D less the updates that U was built from (for a "
    "basis built from none, less u_1..u_k); rest_gap: less u_1..u_(k+10) too (protocol 2)",
    "prefix_share_of_steps": "k / T: what a prefix would capture if updates were independent and equally long",
    "krylov_prefix_overlap": "|U^T V|_F^2 / k of K_k(P^-1 H, P^-1 g) with span(u_1..u_k); null: with the noise prefix",
    "recovery_steps": "T: first step with evaluation accuracy at 95 % of theta_star's, held for 10 steps",
    "evaluation": "loss and accuracy of every task at theta_start, theta_star, theta_broken and theta_recovered",
    "projected": "held-out loss and accuracy at theta_broken + U U^T D (protocol 2)",
    "trained_inside": "held-out loss and accuracy after training only the k coordinates inside U: same optimizer, "
    "best of three step sizes on validation",
    "grid_capture": GRID_DEFINITION,
    "grid_recovery_steps": "T of each cell of the grid",
    "reference": "held-out loss and accuracy of the target at theta_broken, theta_recovered and theta_star",
}


def measure(study: Study) -> Record:
    """Captures by every basis, control and null at every rank, and what the subspaces can recover."""
    figures = _recovery_figures(study)
    if study.curve.recovered_at is None:
        reason = f"not recovered within {study.settings.recovery.steps} steps"
        figures.append(Figure("recovery_steps", None, "steps", reason=reason))
        return make_record(study, NAME, figures, DEFINITIONS, _curves(study))
    figures.append(Figure("recovery_steps", float(study.recovered_at), "steps"))
    bases = make_bases(study)
    candidates = _candidates(study, bases)
    figures += _shares_of_steps(study)
    figures += _captures(study, study.gram, candidates)
    figures += _effective_captures(study)
    figures += _krylov_overlaps(study, bases)
    best = best_static(figures, study.settings.measurement.headline_rank)
    figures += functional_figures(study, bases, best)
    if study.settings.measurement.grid:
        figures += grid_figures(study)
    return make_record(study, NAME, _with_nulls(figures), DEFINITIONS, _curves(study))


def best_static(figures: list[Figure], rank: int) -> str:
    """Name of the static basis with the largest whole capture at `rank`, or at its own largest rank below it."""
    best: dict[str, tuple[int, float]] = {}
    for f in figures:
        if f.matches("capture", definition="whole", at="T", space_of="parameters") and f.value is not None:
            name, own_rank = str(f.labels["basis"]), int(f.labels["rank"])
            if name in STATIC and own_rank <= rank and own_rank >= best.get(name, (0, 0.0))[0]:
                best[name] = (own_rank, f.value)
    return max(best, key=lambda name: best[name][1])


def _recovery_figures(study: Study) -> list[Figure]:
    figures = []
    for point, tasks in study.effects.items():
        for task, found in tasks.items():
            for statistic, unit in (("loss", "nats per target token"), ("accuracy", "fraction")):
                labels: dict[str, Label] = {"point": point, "task": task, "statistic": statistic}
                figures.append(Figure("evaluation", found[statistic], unit, labels=labels))
    return figures


def _curves(study: Study) -> dict[str, np.ndarray]:
    curve = study.curve
    return {
        "recovery_loss": np.asarray(curve.loss),
        "recovery_accuracy": np.asarray(curve.accuracy),
        "train_loss": np.asarray(curve.train_loss),
    }


def _candidates(study: Study, bases: Mapping[str, Basis]) -> dict[str, Callable[[int], list[Candidate]]]:
    """Name -> function of the rank; several candidates of one name are draws to be averaged."""
    found = own_candidates(study.gram, study)
    for name, basis in bases.items():
        found[name] = _fixed(study.trajectory.coefficients(basis))
    return found


def _fixed(coefficients: np.ndarray) -> Callable[[int], list[Candidate]]:
    return lambda rank: [Candidate(coefficients[:rank], None)] if len(coefficients) >= rank else []


def _captures(
    study: Study,
    gram: TrajectoryGram,
    candidates: Mapping[str, Callable[[int], list[Candidate]]],
    space_of: str = "parameters",
) -> list[Figure]:
    figures = []
    for rank in usable_ranks(study):
        for name, make in candidates.items():
            drawn = make(rank)
            for labels, weights_of in definitions(study, gram, rank):
                which = {"basis": name, "rank": rank, "space_of": space_of, **labels}
                figures.append(mean_capture(gram, drawn, weights_of, which))
    return figures


def effective_gram(study: Study) -> TrajectoryGram:
    """Gram matrix of the recovery's dW updates."""
    return update_gram(factor_pairs(study.problem.space), study.trajectory.positions())


def _effective_captures(study: Study) -> list[Figure]:
    """The gauge-invariant figures: bases of updates, in dW space."""
    if study.problem.space.space.kind != "lora_factors":
        return []
    gram = effective_gram(study)
    return _captures(study, gram, own_candidates(gram, study), "lora_effective")


def _shares_of_steps(study: Study) -> list[Figure]:
    end = study.recovered_at
    ranks = usable_ranks(study)
    return [Figure("prefix_share_of_steps", k / end, "fraction", labels={"rank": k}) for k in ranks]


def _krylov_overlaps(study: Study, bases: Mapping[str, Basis]) -> list[Figure]:
    figures = []
    coefficients = {name: study.trajectory.coefficients(bases[name]) for name in ("krylov", "krylov_preconditioned")}
    for rank in usable_ranks(study):
        prefix = study.gram.prefix(rank)
        for name, c in coefficients.items():
            if bases[name].rank < rank or bases["null_noise_prefix"].rank < rank:
                continue
            value = float(np.square(c[:rank] @ prefix).sum() / rank)
            null = overlap(bases[name].leading(rank), bases["null_noise_prefix"].leading(rank))
            labels: dict[str, Label] = {"basis": name, "rank": rank}
            figures.append(Figure("krylov_prefix_overlap", value, "fraction", null=null, labels=labels))
    return figures


def _with_nulls(figures: list[Figure]) -> list[Figure]:
    """Beside each capture, its null: another task's plane for static bases, the noise prefix for others."""

    def key(figure: Figure) -> tuple[object, ...]:
        return tuple(figure.labels.get(k) for k in ("rank", "definition", "at", "space_of"))

    captures = [f for f in figures if f.quantity == "capture"]
    nulls = {
        name: {key(f): f.value for f in captures if f.labels["basis"] == name}
        for name in ("null_noise_prefix", "null_other_task")
    }

    def with_null(figure: Figure) -> Figure:
        if figure.quantity != "capture":
            return figure
        name = "null_other_task" if figure.labels["basis"] in STATIC else "null_noise_prefix"
        null = nulls[name].get(key(figure))
        return Figure("capture", figure.value, figure.unit, figure.stderr, null, figure.labels, figure.reason)

    return [with_null(figure) for figure in figures]
