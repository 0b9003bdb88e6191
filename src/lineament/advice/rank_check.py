"""Does the rank that the updates used suffice? dW cut down to it by exact SVD, on held-out data beside the whole.

The model stands at the run's start and every adapted layer gets what is left of dW_end - dW_start added to its output,
so that a difference of two adapters needs no adapter of twice their rank. Null: as many other singular directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lineament.advice.run import CheckedRun
from lineament.records import Label, Quantity
from lineament.vectors.effective import Difference, effective_difference

DEFINITION = (
    "rise of the held-out loss over the run's fall, (L_r - L_end) / (L_start - L_end), when dW_end - dW_start of every "
    "adapted weight keeps its `rank` largest singular directions (exact SVD of the factors); null: as many of its "
    "other directions, drawn at random; error: bootstrap over held-out examples"
)
Factors = Mapping[str, tuple[Tensor, Tensor]]


def rank_figure(run: CheckedRun, statistic: str, rank: int) -> Quantity:
    """Return what cutting dW to a rank costs.

    Args:
        statistic: of the line of advice that names this rank.
        rank: at least 1, the same for every adapted weight.
    """
    labels: dict[str, Label] = {"statistic": statistic, "rank": rank}
    differences = {pair.module: effective_difference(pair, run.start, run.end) for pair in run.trajectory.pairs()}
    generator = run.streams.generator("other directions", rank)
    others = {module: _others(difference, rank, generator) for module, difference in differences.items()}
    kept = _losses(run, {module: _largest(difference, rank) for module, difference in differences.items()})
    beside = _losses(run, {module: differences[module].of(chosen) for module, chosen in others.items()})
    found, null = run.drop.rise(kept, run.drop.end), run.drop.rise(beside, run.drop.end)
    return Quantity(
        "rank_cost", found.value, "fraction", stderr=found.stderr, null=null.value, labels=labels, reason=found.reason
    )


def _largest(difference: Difference, rank: int) -> tuple[Tensor, Tensor]:
    return difference.of(range(min(rank, len(difference.values))))


def _others(difference: Difference, rank: int, generator: np.random.Generator) -> Sequence[int]:
    """Draw as many of the directions that a truncation leaves out, or all where there are fewer."""
    n_values = len(difference.values)
    left_out = np.arange(min(rank, n_values), n_values)
    return [int(i) for i in generator.permutation(left_out)[:rank]]


def _losses(run: CheckedRun, factors: Factors) -> np.ndarray:
    with run.space.temporarily(run.start), _added(run.training.model, factors):
        return run.held_out()


@contextmanager
def _added(model: nn.Module, factors: Factors) -> Iterator[None]:
    """Add left @ right to the weight of every named layer, by what it adds to the layer's output."""

    def adding(left: Tensor, right: Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            exact = torch.promote_types(output.dtype, torch.float32)
            a, b = (factor.to(output.device, exact) for factor in (right, left))
            return output + (inputs[0].to(exact) @ a.T @ b.T).to(output.dtype)

        return hook

    with ExitStack() as stack:
        for name, (left, right) in factors.items():
            handle = model.get_submodule(name).register_forward_hook(adding(left, right))
            stack.callback(handle.remove)
        with torch.no_grad():
            yield
