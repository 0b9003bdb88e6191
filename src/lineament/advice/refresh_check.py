"""When must a plane of gradients be made anew? The run's training, projected on planes of several ages.

A plane holds the top directions of fresh gradients at the weights where it is made. All trainings take equally many
steps from the run's start with the run's optimizer, whose moments are carried over into each new plane; each has the
step size that is best on validation with the run's own batches. They are repeated with other batches of the same data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lineament.advice.inside import (
    FACTORS,
    MOST_LONGER,
    Inside,
    Plane,
    Tell,
    best_of,
    gradient_at,
    step_factors,
    trained_inside,
)
from lineament.advice.loss_drop import paired_error
from lineament.advice.run import CheckedRun
from lineament.bases import Basis, from_vectors, random_basis, top_directions
from lineament.errors import NonFiniteError
from lineament.parameters import Vectors
from lineament.records import Label, Quantity

DEFINITIONS = {
    "refresh_loss": "held-out loss at the end of the run's training projected on a plane of `rank` top directions of "
    "fresh gradients, made anew after `every` steps (0: never), mean over `repeats` trainings on other batches; at "
    "the step size that is best on validation; error: over those trainings",
    "refresh_difference": "that loss with the advised refresh less that of another `arm` (fifth, five_fold: of the "
    "advised number of steps; galore: 200), paired; error: over the trainings",
}
GALORE_REFRESH_STEPS = 200
NEVER = "never"
# Standard errors are at least this share of the run's fall: equal trainings differ by rounding, and always alike.
ROUNDING = 1e-6
# Fresh gradients for each direction of a plane.
GRADIENTS_PER_DIRECTION = 2


def refresh_figures(run: CheckedRun, share: float, every: int, rank: int, tell: Tell) -> list[Quantity]:
    """Test "make a plane anew after `every` steps" beside shorter and longer times.

    Args:
        share: of a fresh plane's energy that the line of advice speaks of. rank: of the planes.
        tell: told of each step of training, and of each fresh gradient.
    """
    repeats = run.repeats
    labels: dict[str, Label] = {"share": share, "from": "all", "steps": every, "rank": rank, "repeats": repeats}
    if reason := _why_not(run, every):
        return [Quantity("refresh_loss", None, "nats per target token", labels=labels, reason=reason)]
    arms = refresh_arms(every, run.n_steps)
    found = {period: _repeated(run, period, rank, tell) for period in dict.fromkeys(arms.values())}
    losses = {period: [float(one.losses.mean()) for one in ended] for period, ended in found.items()}
    figures = []
    for arm, period in arms.items():
        where: dict[str, Label] = {**labels, "arm": arm, "every": period or 0}
        mean = sum(losses[period]) / repeats
        error = paired_error(losses[period])
        figures.append(Quantity("refresh_loss", mean, "nats per target token", stderr=error, labels=where))
        if arm != "advised":
            paired = [a - b for a, b in zip(losses[every], losses[period], strict=True)]
            difference, error = sum(paired) / repeats, max(paired_error(paired) or 0.0, ROUNDING * run.drop.fall)
            figures.append(
                Quantity("refresh_difference", difference, "nats per target token", stderr=error, labels=where)
            )
    return figures


def refresh_arms(every: int, n_steps: int) -> dict[str, int | None]:
    """Return the times that are compared: name -> steps, None for never; as long as the run is never too."""
    times = {"advised": every, "fifth": max(1, round(every / 5)), "five_fold": 5 * every}
    times["galore"] = GALORE_REFRESH_STEPS
    return {**{name: steps if steps < n_steps else None for name, steps in times.items()}, NEVER: None}


def refresh_steps(run: CheckedRun, every: int, rank: int) -> int:
    """Return the steps of training and fresh gradients that one test takes at most."""
    if _why_not(run, every):
        return 0
    times = set(refresh_arms(every, run.n_steps).values())
    trainings = len(FACTORS[run.rule.name]) + MOST_LONGER + run.repeats - 1
    fresh = GRADIENTS_PER_DIRECTION * rank
    return sum(trainings * (run.n_steps + fresh * (1 + (run.n_steps - 1) // (t or run.n_steps))) for t in times)


def _repeated(run: CheckedRun, every: int | None, rank: int, tell: Tell) -> list[Inside]:
    """Choose the step size on the run's own batches; return that training and its repetitions."""
    first = _planes(run, every, rank, tell, 0)
    best = best_of(lambda factor: trained_inside(run, first(), factor, tell), step_factors(run, rank))
    others = range(1, run.repeats)
    return [best, *(trained_inside(run, _planes(run, every, rank, tell, r)(), best.factor, tell, r) for r in others)]


def _planes(run: CheckedRun, every: int | None, rank: int, tell: Tell, repeat: int) -> Callable[[], Plane]:
    """Return what begins a training: a first plane, and how the next ones are made, always of the same gradients."""

    def begin() -> Plane:
        made = 0

        def fresh() -> Basis:
            nonlocal made
            basis = _fresh_plane(run, rank, tell, (repeat, made))
            made += 1
            return basis

        with run.space.temporarily(run.start):
            basis = fresh()
        return Plane(basis, every, fresh)

    return begin


def _fresh_plane(run: CheckedRun, rank: int, tell: Tell, which: tuple[int, int]) -> Basis:
    """Return the top directions of gradients on batches that nothing is trained on."""
    repeat, made = which
    n = GRADIENTS_PER_DIRECTION * rank
    first = run.n_steps * (run.repeats + 1) + n * (run.n_steps * repeat + made)
    rows = []
    for step in range(first, first + n):
        gradient = gradient_at(run, step)
        if gradient is None:
            raise NonFiniteError("a plane was to be made of a gradient that is not finite.")
        rows.append(gradient.detach().double().cpu())
        tell()
    space, gradients = run.space.space, torch.stack(rows)
    top = top_directions(Vectors(gradients, space), rank, "fresh gradients") if bool(gradients.any()) else None
    if top is not None and top.rank == rank:
        return top
    others = random_basis(space, rank, run.streams.generator("filling", repeat, made))
    if top is None:  # a training that has arrived; any plane will do
        return others
    return from_vectors(Vectors(torch.cat([top.columns.T, others.columns.T]), space), top.label).leading(rank)


def _why_not(run: CheckedRun, every: int) -> str | None:
    if every >= run.n_steps:
        return f"a refresh after {every} steps never comes in a training of {run.n_steps}"
    if not run.drop.told:
        return run.drop.share(run.drop.start).reason
    return None
