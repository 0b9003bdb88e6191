"""What a subspace can recover (protocol, section 2, functional figures).

Capture of one trajectory does not say what a subspace allows: here the loss and accuracy at theta_broken + U U^T D, and
after training only the k coordinates inside U with the recovery's optimizer, best of three step sizes on validation,
reported on held-out. Reference: the target at theta_broken, theta_recovered and theta_star.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lineament.bases import Basis, from_vectors, project
from lineament.measurements.capture_bases import usable_ranks, why_unusable
from lineament.parameters import Vectors
from lineament.problems.problem import Evaluation
from lineament.records import Label, Quantity
from lineament.study.points import DAMAGED, RECOVERED, TRAINED
from lineament.study.study import Study
from lineament.study.training import make_optimizer, task_batches

# Adam moves each coordinate by about lr per step: these factors times lr sqrt(n_params / k) give steps as long as the
# recovery's own, a third and three times that. Gradient descent is not rescaled by the number of coordinates.
ADAM_FACTORS = (1 / 3, 1.0, 3.0)
SGD_FACTORS = (1.0, 3.0, 10.0)
UNITS = {"loss": "nats per target token", "accuracy": "fraction"}
HEADLINE = ("prefix", "control_random_times", "control_preconditioned", "random")


def functional_figures(study: Study, bases: Mapping[str, Basis], best_static: str | None) -> list[Quantity]:
    """Measure what the chosen bases can recover, with references; say why the headline rank is missing.

    Args:
        best_static: which of `bases` stands for the static ones: at the headline rank, or at its own full rank if that
            is lower; its figures are labelled with the rank that they are compared at (`for_rank`).
    """
    figures = _references(study) + _unusable(study, best_static)
    todo = list(_chosen(study, bases, best_static))
    for number, (basis, role) in enumerate(todo):
        study.progress(f"training inside {basis.label}", number, len(todo))
        labels: dict[str, Label] = {"basis": basis.label, "rank": basis.rank, **role}
        figures += _figures("projected", _projected(study, basis), labels)
        figures += _figures("trained_inside", _trained_inside(study, basis), labels)
    return figures


def _chosen(
    study: Study, bases: Mapping[str, Basis], best_static: str | None
) -> Iterator[tuple[Basis, dict[str, Label]]]:
    """Yield bases at the ranks at which they are looked into, with the labels of the best static one."""
    m, ranks = study.settings.measurement, usable_ranks(study)
    if not ranks:
        return
    headline = min(m.headline_rank, max(ranks))
    every = [*bases, "prefix", "control_random_times"]
    few = [*HEADLINE, *([best_static] if best_static else [])]
    for rank in ranks if m.inside_all else [headline]:
        role: dict[str, Label] = {"role": "best_static", "for_rank": rank}
        for name in every if m.inside_all else few:
            if name not in bases:
                yield _of_updates(study, name, rank), {}
            elif bases[name].rank >= rank:
                yield bases[name].leading(rank), role if name == best_static else {}
            elif name == best_static and rank == headline:
                yield bases[name], role


def _unusable(study: Study, best_static: str | None) -> list[Quantity]:
    """Give reasons at a headline rank above T, where there is nothing to look into."""
    rank = study.settings.measurement.headline_rank
    if rank <= study.recovered_at:
        return []
    reason, figures = why_unusable(study, rank), []
    for name in (*HEADLINE, *([best_static] if best_static else [])):
        role: dict[str, Label] = {"role": "best_static", "for_rank": rank} if name == best_static else {}
        for quantity in ("projected", "trained_inside"):
            for statistic, unit in UNITS.items():
                labels: dict[str, Label] = {"basis": name, "rank": rank, **role, "statistic": statistic}
                figures.append(Quantity(quantity, None, unit, labels=labels, reason=reason))
    return figures


def _of_updates(study: Study, name: str, rank: int) -> Basis:
    """Return the prefix, or the first draw of random times, as an explicit basis."""
    if name == "prefix":
        return from_vectors(study.trajectory.updates(1, rank), name)
    times = study.streams.generator("random times", rank).permutation(study.recovered_at)[:rank]
    weights = np.zeros((study.trajectory.n_steps, rank))
    weights[times, np.arange(rank)] = 1
    return from_vectors(study.trajectory.combine(weights), name)


def _references(study: Study) -> list[Quantity]:
    held_out, figures = study.problem.fixed(study.target, "held_out"), []
    for point in (DAMAGED, RECOVERED, TRAINED):
        with study.problem.parameters.temporarily(study.points[point]):
            figures += _figures("reference", study.problem.evaluate(held_out), {"point": point})
    return figures


def _projected(study: Study, basis: Basis) -> Evaluation:
    damaged = study.points[DAMAGED].double()
    displacement = Vectors((study.points[RECOVERED].double() - damaged)[None], basis.space)
    with study.problem.parameters.temporarily(damaged + project(basis, displacement).rows[0]):
        return study.problem.evaluate(study.problem.fixed(study.target, "held_out"))


def _trained_inside(study: Study, basis: Basis) -> Evaluation:
    """Evaluate the step size with the lowest validation loss on held-out data; a diverged one never wins."""
    factors = ADAM_FACTORS if study.settings.recovery.optimizer == "adamw" else SGD_FACTORS
    tried = [_train_coordinates(study, basis, factor) for factor in factors]
    return min(tried, key=lambda pair: pair[0])[1]


def _train_coordinates(study: Study, basis: Basis, factor: float) -> tuple[float, Evaluation]:
    problem, m, recovery = study.problem, study.settings.measurement, study.settings.recovery
    adam = recovery.optimizer == "adamw"
    lr = recovery.lr * factor * (math.sqrt(basis.space.n_params / basis.rank) if adam else 1.0)
    columns = basis.columns.to(torch.float32)
    damaged = study.points[DAMAGED].float()
    coordinates = nn.Parameter(torch.zeros(basis.rank))
    optimizer = make_optimizer([coordinates], replace(recovery, lr=lr, weight_decay=0.0))
    batches = task_batches(problem, study.target, m.inside_batch, study.streams.child("inside"))
    with problem.parameters.restored():
        for step in range(m.inside_steps):
            problem.parameters.write(damaged + columns @ coordinates.detach())
            loss = problem.loss(batches(step))
            if not math.isfinite(float(loss.detach())):
                break
            coordinates.grad = (problem.parameters.gradient(loss).cpu() @ columns).to(coordinates)
            optimizer.step()
        problem.parameters.write(damaged + columns @ coordinates.detach())
        validation = problem.evaluate(problem.fixed(study.target, "validation")).loss
        held_out = problem.evaluate(problem.fixed(study.target, "held_out"))
    return (validation if math.isfinite(validation) else math.inf), held_out


def _figures(quantity: str, found: Evaluation, labels: Mapping[str, Label]) -> list[Quantity]:
    values = {"loss": found.loss, "accuracy": found.accuracy}
    return [
        Quantity(quantity, values[statistic], unit, labels={**labels, "statistic": statistic})
        for statistic, unit in UNITS.items()
    ]
