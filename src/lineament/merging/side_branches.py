"""Adapters as side branches of one base, each with a scale: sums of dW are exact, and scales can be differentiated by.

With f(s, t) = L(theta + s A + t B), the derivatives by two numbers at 0 are what the composition of two adapters needs:
df/ds is g'A and d2f/dsdt is A'HB, in the space of the weights' changes dW. No matrix of the size of a weight is formed.
Every example has scales of its own, so one pass gives the derivatives of each example's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.errors import InputError
from lineament.problems.factor_names import PREFIX
from lineament.problems.problem import Batch, Problem, mean_losses
from lineament.problems.stored_adapters import Factors, StoredAdapter
from lineament.vectors.hessian import require_twice_differentiable


class Branch(NamedTuple):
    """What all adapters add to one module: a (rank, d_in), b (d_out, rank), and which adapter each rank is of."""

    a: Tensor
    b: Tensor
    owner: Tensor


@dataclass(frozen=True)
class ScaleDerivatives:
    """Derivatives of each example's loss by the scales of adapters.

    Attributes:
        slopes: g'A_k, (n_examples, n_adapters), nats per target token.
        curvatures: A_i'H A_k, (n_examples, n_rows, n_adapters), for the adapters i that were asked for.
    """

    slopes: Float64[Tensor, "n_examples n_adapters"]
    curvatures: Float64[Tensor, "n_examples n_rows n_adapters"]


class SideBranches:
    """Adapters that can be added to the linear layers of a model, which stays as it is.

    Args:
        model: the base, whose modules are named as the adapters name them.
        adapters: of this base; a module may have a branch of one of them or of several.

    Raises:
        InputError: no adapter, a model that has one already, or a module that the base lacks, that is not linear, or
            that has another shape.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[StoredAdapter]) -> None:
        if not adapters:
            raise InputError("no adapter was given; give at least one.")
        if hasattr(model, "peft_config"):
            raise InputError(
                "the model has an adapter attached already; give its base, as `model.unload()` returns it."
            )
        self.model, self.n_adapters = model, len(adapters)
        found: dict[str, list[tuple[int, Factors]]] = {}
        for number, adapter in enumerate(adapters):
            for name, factors in adapter.factors.items():
                found.setdefault(name.removeprefix(PREFIX), []).append((number, factors))
        modules = dict(model.named_modules())
        for name, parts in found.items():
            for _, factors in parts:
                require_module(name, modules.get(name), factors)
        self._branches = {name: (modules[name], _joined(modules[name], parts)) for name, parts in found.items()}

    @contextmanager
    def at(self, scales: Tensor) -> Iterator[None]:
        """Add the adapters inside the block, times their scales.

        Args:
            scales: (n_adapters,), or (n_examples, n_adapters) with a row for each example of the batches that follow.
        """
        handles = []
        try:
            for name, (module, branch) in self._branches.items():
                handles.append(module.register_forward_hook(_hook(name, branch, scales)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def losses_at(
    problem: Problem, branches: SideBranches, batch: Batch, scales: Float64[Tensor, "n_points n_adapters"]
) -> Iterator[Float64[Tensor, " n_examples"]]:
    """Yield each example's loss at every point, (n_examples,) float64 on the CPU, nats per target token."""
    for point in scales:
        parts = []
        with torch.no_grad(), branches.at(point.to(problem.device)):
            for part in batch.chunks(problem.chunk):
                moved = part.to(problem.device)
                parts.append(mean_losses(problem.logits(moved).double(), moved.targets).cpu())
        yield torch.cat(parts)


def scale_derivatives(
    problem: Problem, branches: SideBranches, batch: Batch, rows: Sequence[int], point: Sequence[float] = ()
) -> ScaleDerivatives:
    """Differentiate each example's loss twice by the scales of the adapters, exactly.

    Args:
        rows: the adapters i of which A_i'H A_k is wanted, for all k: one Hessian-vector product for each.
        point: scales where it is done, one for each adapter; default 0, the base itself.

    Raises:
        NotImplementedError: an operation of the model has no second derivative.
        InputError: an adapted module whose inputs are not one row for each example.
    """
    start = torch.tensor(list(point) or [0.0] * branches.n_adapters, dtype=torch.float64)
    slopes, curvatures = [], []
    for part in batch.chunks(max(1, problem.chunk // 2)):  # second derivatives hold twice as much
        scales = start.repeat(len(part), 1).to(problem.device).requires_grad_()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), branches.at(scales):
            loss = problem.example_losses(part).sum()
            (slope,) = torch.autograd.grad(loss, scales, create_graph=True)
            require_twice_differentiable(slope)
            second = [torch.autograd.grad(slope[:, row].sum(), scales, retain_graph=True)[0] for row in rows]
        slopes.append(slope.detach().cpu())
        curvatures.append(torch.stack(second, dim=1).detach().cpu())
    return ScaleDerivatives(torch.cat(slopes), torch.cat(curvatures))


def require_module(name: str, module: nn.Module | None, factors: Factors) -> None:
    """Raise `InputError` unless a module of the base is linear and has the shape that factors change."""
    if module is None:
        raise InputError(f"an adapter changes {name}, which this model lacks. Give the model that it was trained on.")
    shape = _shape(module)
    if shape is None:
        raise InputError(f"an adapter changes {name}, which is {type(module).__name__} and no linear layer here.")
    own = (len(factors.b), factors.a.shape[1])
    if own != shape:
        raise InputError(
            f"an adapter changes {name} by a matrix of {own[0]} x {own[1]}, which has {shape[0]} x {shape[1]} in this "
            "model. Give the model that it was trained on."
        )


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (d_out, d_in) of a linear layer; None for any other module."""
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return weight.shape[0], weight.shape[1]
    if type(module).__name__ == "Conv1D":  # GPT-2's, which keeps its weight transposed
        return weight.shape[1], weight.shape[0]
    return None


def _joined(module: nn.Module, parts: Sequence[tuple[int, Factors]]) -> Branch:
    weight: Any = module.weight
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    a = torch.cat([factors.a.double() for _, factors in parts])
    b = torch.cat([factors.scale * factors.b.double() for _, factors in parts], dim=1)
    owner = torch.cat([torch.full((len(factors.a),), number) for number, factors in parts])
    return Branch(a.to(weight.device, dtype), b.to(weight.device, dtype), owner.to(weight.device))


def _hook(name: str, branch: Branch, scales: Tensor) -> Any:
    columns = scales[..., branch.owner].to(branch.a.dtype)  # (rank,) or (n_examples, rank)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = inputs[0].to(branch.a.dtype) @ branch.a.T
        added = (hidden * _spread(name, columns, hidden)) @ branch.b.T
        return output + added.to(output.dtype)

    return add


def _spread(name: str, columns: Tensor, hidden: Tensor) -> Tensor:
    """Return columns that multiply hidden values (n_examples, ..., rank), the same at every position of an example."""
    if columns.ndim == 1:
        return columns
    if hidden.ndim < 3 or len(hidden) != len(columns):
        raise InputError(
            f"the inputs of {name} are not one row for each example, as in layers of experts; the curvature between "
            "adapters on such layers is not measured."
        )
    return columns.view(len(columns), *[1] * (hidden.ndim - 2), -1)
