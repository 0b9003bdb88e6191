"""Do the first updates of a run suffice? Its training again, on the coefficients of their span alone.

Beside it stand as many random directions, and as many updates of the same optimizer on gradients that know nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lineament.advice.inside import FACTORS, MOST_LONGER, Inside, Plane, Tell, best_inside
from lineament.advice.run import CheckedRun
from lineament.bases import Basis, from_vectors, random_basis
from lineament.parameters import Vectors
from lineament.records import Label, Quantity

DEFINITIONS = {
    "span_returned": "share of the run's fall in held-out loss that comes back, (L_start - L) / (L_start - L_end), "
    "when only the coefficients of the span of the updates of its first `steps` are trained: from its start, with its "
    "optimizer (without weight decay) and batches, at the step size that is best on validation; null: the same in as "
    "many random directions; blind: in the span of as many updates of the same optimizer on Gaussian gradients; error: "
    "bootstrap over held-out examples",
    "span_above": "that share less the share of random (`over` random) or of blind directions; error: bootstrap over "
    "held-out examples",
}
N_BASES = 3
# Largest basis that is made: columns of float64, of which some copies are held.
MAX_BYTES = 4 * 2**30


def span_figures(run: CheckedRun, share: float, steps: int, tell: Tell) -> list[Quantity]:
    """Test "the first `steps` updates span `share` of the run".

    Args:
        steps: optimizer steps. tell: told of each step of training.
    """
    rows = first_rows(run, steps)
    labels: dict[str, Label] = {"share": share, "basis": "prefix", "space_of": "parameters", "steps": steps}
    if reason := _why_not(run, len(rows)):
        return [Quantity("span_returned", None, "fraction", labels={**labels, "rank": len(rows)}, reason=reason)]
    prefix = from_vectors(Vectors(rows, run.space.space), "prefix")
    labels["rank"] = prefix.rank
    if ("span", len(rows)) not in run.made:  # of a straight run, several shares are reached by one update
        bases = {
            "prefix": prefix,
            "random": random_basis(run.space.space, prefix.rank, run.streams.generator("random", steps)),
            "blind": blind_basis(run, len(rows)),
        }
        run.made["span", len(rows)] = {name: best_inside(run, Plane(basis), tell) for name, basis in bases.items()}
    found: dict[str, Inside] = run.made["span", len(rows)]
    shares = {name: run.drop.share(one.losses) for name, one in found.items()}
    own = shares["prefix"]
    returned = Quantity(
        "span_returned",
        own.value,
        "fraction",
        stderr=own.stderr,
        null=shares["random"].value,
        blind=shares["blind"].value,
        labels=labels,
        reason=own.reason,
    )
    return [returned, *(_above(run, found, name, labels) for name in ("random", "blind"))]


def span_steps(run: CheckedRun) -> int:
    """Return the steps of training that one test takes at most."""
    return N_BASES * (len(FACTORS[run.rule.name]) + MOST_LONGER) * run.n_steps


def first_rows(run: CheckedRun, steps: int) -> Tensor:
    """Return the recorded updates of the first `steps` that moved the weights, (n_rows, n_params)."""
    n_rows = max(1, sum(end <= steps for end in run.trajectory.steps))
    rows = run.trajectory.updates(1, n_rows).rows
    return rows[rows.any(dim=1)]


def blind_basis(run: CheckedRun, n_rows: int) -> Basis:
    """Return the span of the first updates of the run's optimizer on gradients that know nothing.

    Gradients are Gaussian, with each tensor's own root mean square where it matters.
    """
    generator = torch.Generator().manual_seed(run.streams.integer("blind"))
    theta = nn.Parameter(run.start.clone())
    optimizer, scale = run.rule.optimizer([theta]), _gradient_scale(run, n_rows)
    rows, before = list[Tensor](), run.start.clone()
    ends = [end for end, moved in zip(run.trajectory.steps, run.moved, strict=True) if moved][:n_rows]
    for step in range(ends[-1]):
        optimizer.param_groups[0]["lr"] = run.rule.at(step)
        theta.grad = scale * torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        optimizer.step()
        if step + 1 in ends:
            rows.append(theta.detach() - before)
            before = theta.detach().clone()
    return from_vectors(Vectors(torch.stack(rows), run.space.space), "blind")


def _gradient_scale(run: CheckedRun, n_rows: int) -> Tensor:
    """Return each coordinate's root mean square of a gradient: its tensor's, recorded or told from SGD's updates.

    Adam's updates do not depend on it.
    """
    recorded = run.trajectory.gradients
    if recorded is None and run.rule.name == "adamw":
        return torch.ones(run.space.n_params, dtype=torch.float64)
    rows = (recorded or run.trajectory).updates(1, n_rows).rows.double()
    scale = torch.empty(run.space.n_params, dtype=torch.float64)
    for part in run.space.slices:
        scale[part] = rows[:, part].square().mean().sqrt()
    return scale


def _above(run: CheckedRun, found: dict[str, Inside], over: str, labels: dict[str, Label]) -> Quantity:
    more = run.drop.rise(found[over].losses, found["prefix"].losses)
    return Quantity(
        "span_above", more.value, "fraction", stderr=more.stderr, labels={**labels, "over": over}, reason=more.reason
    )


def _why_not(run: CheckedRun, n_rows: int) -> str | None:
    """Say why a span is not trained in; None if it is."""
    needed = 8 * n_rows * run.space.n_params
    if not run.drop.told:
        return run.drop.share(np.zeros_like(run.drop.start)).reason
    if needed > MAX_BYTES:
        return f"{n_rows} directions of {run.space.n_params:,} parameters would take {needed / 2**30:.0f} GiB"
    return None
