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
from torch import Tensor, nn

from lineament.bases import Basis, from_vectors, project
from lineament.measurements.capture_ranks import usable_ranks, why_unusable
from lineament.parameters import Vectors
from lineament.population.losses import losses_at
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
    """Train with all step sizes in one pass each step; evaluate the one with the lowest validation loss on held-out."""
    problem, target = study.problem, study.target
    coordinates = _train_coordinates(study, basis)
    columns, damaged = basis.columns.to(torch.float32), study.points[DAMAGED].float()
    losses = []
    with problem.parameters.restored():
        for own in coordinates:
            problem.parameters.write(damaged + columns @ own)
            loss = problem.evaluate(problem.fixed(target, "validation")).loss
            losses.append(loss if math.isfinite(loss) else math.inf)  # a diverged one never wins
        problem.parameters.write(damaged + columns @ coordinates[int(np.argmin(losses))])
        return problem.evaluate(problem.fixed(target, "held_out"))


def _train_coordinates(study: Study, basis: Basis) -> list[Tensor]:
    """Return the trained coordinates in the basis, (rank,) for each step size; a diverged one stays where it was."""
    problem, m = study.problem, study.settings.measurement
    columns = basis.columns.to(torch.float32).to(problem.device)
    damaged = study.points[DAMAGED].float().to(problem.device)
    coordinates = [nn.Parameter(torch.zeros(basis.rank, device=problem.device)) for _ in _factors(study)]
    optimizers = [
        make_optimizer([own], replace(study.settings.recovery, lr=lr, weight_decay=0.0))
        for own, lr in zip(coordinates, _step_sizes(study, basis), strict=True)
    ]
    batches = task_batches(problem, study.target, m.inside_batch, study.streams.child("inside"))
    for step in range(m.inside_steps):
        losses = losses_at(problem, batches(step), damaged + torch.stack(list(coordinates)) @ columns.T)
        gradients = torch.autograd.grad(losses.sum(), coordinates)
        for own, gradient, loss, optimizer in zip(coordinates, gradients, losses.tolist(), optimizers, strict=True):
            if math.isfinite(loss):
                own.grad = gradient
                optimizer.step()
    return [own.detach().cpu() for own in coordinates]


def _factors(study: Study) -> tuple[float, ...]:
    return ADAM_FACTORS if study.settings.recovery.optimizer == "adamw" else SGD_FACTORS


def _step_sizes(study: Study, basis: Basis) -> list[float]:
    """Return the three step sizes that are tried; Adam's are longer the fewer coordinates there are."""
    adam = study.settings.recovery.optimizer == "adamw"
    longer = math.sqrt(basis.space.n_params / basis.rank) if adam else 1.0
    return [study.settings.recovery.lr * factor * longer for factor in _factors(study)]


def _figures(quantity: str, found: Evaluation, labels: Mapping[str, Label]) -> list[Quantity]:
    values = {"loss": found.loss, "accuracy": found.accuracy}
    return [
        Quantity(quantity, values[statistic], unit, labels={**labels, "statistic": statistic})
        for statistic, unit in UNITS.items()
    ]
