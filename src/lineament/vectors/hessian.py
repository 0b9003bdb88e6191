"""Hessian-vector products of a loss, such as a problem's over a fixed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.problem import Batch, Problem
from lineament.vectors.gradients import derivatives_required

# What autograd puts where a function was marked `once_differentiable`.
ERROR_NODE = "torch::autograd::Error"


class LossHessian:
    """Hessian-vector products of a scalar loss, at the weights of the moment it was made.

    The first-order graph is built once and reused, so each product costs one backward pass through it. Attention runs
    in its mathematical form, the only one with second derivatives.

    Args:
        loss: computes the loss at the weights that the model holds, the same at every call.

    Raises:
        NotImplementedError: an operation has no second derivative, or was marked as differentiable once only.

    Attributes:
        gradient: (n_params,) float64.
    """

    def __init__(self, space: ParameterSpace, loss: Callable[[], Tensor]) -> None:
        self.space, self._loss = space, loss
        self._theta = space.read()
        self._build()
        self.gradient = self._flat.detach().double().cpu()

    def __matmul__(self, vector: Float[Tensor, " n_params"]) -> Float64[Tensor, " n_params"]:
        """Return H @ vector, (n_params,) float64. The model must hold the weights it had when the operator was made."""
        self._require_fresh_graph()
        given = vector.to(self._flat)
        with sdpa_kernel(SDPBackend.MATH):
            parts = torch.autograd.grad(
                self._flat, self.space.tensors, grad_outputs=given, retain_graph=True, allow_unused=True
            )
        return self.space.flatten(self._filled(parts)).double().cpu()

    def release(self) -> None:
        """Free the graph; the next product builds it again."""
        self._flat = torch.empty(0)
        self._versions: list[int] = []
        self._leaves: list[Node] = []

    def _build(self) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            parts = torch.autograd.grad(self._loss(), self.space.tensors, create_graph=True, allow_unused=True)
        self._flat = self.space.flatten(self._filled(parts))
        require_twice_differentiable(self._flat)
        self._versions, self._leaves = self._state()

    def _filled(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        return [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.space.tensors, strict=True)]

    def _state(self) -> tuple[list[int], list[Node]]:
        """Return the parameters' write counts and the graph's leaves.

        A parameter whose data changed type is a new leaf, to which the old graph would silently give no gradient.
        """
        parameters = self.space.tensors
        return [p._version for p in parameters], [get_gradient_edge(p).node for p in parameters]

    def _require_fresh_graph(self) -> None:
        """Rebuild the graph if the weights were written in between, even with equal values, as autograd demands."""
        versions, leaves = self._state()
        if self._versions == versions and all(a is b for a, b in zip(self._leaves, leaves, strict=True)):
            return
        if not torch.equal(self._theta, self.space.read()):
            raise InputError("the model's weights moved since this Hessian operator was made; make a new one.")
        self._build()


def require_twice_differentiable(gradient: Tensor) -> None:
    """Refuse a gradient in whose graph an operation was marked as differentiable once only.

    torch raises where it reaches such a mark, but never goes there when it differentiates with respect to chosen
    tensors: the Hessian would silently lack what the operation contributes.

    Raises:
        NotImplementedError: there is such a mark.
    """
    seen: set[Node] = set()
    waiting = [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == ERROR_NODE:
            raise NotImplementedError("an operation of the model can be differentiated once only.")
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]


class HessianOperator(LossHessian):
    """Hessian-vector products of a problem's mean loss over a fixed batch."""

    def __init__(self, problem: Problem, batch: Batch) -> None:
        super().__init__(problem.parameters, lambda: problem.loss(batch))


def require_products(problem: Problem) -> None:
    """Try one Hessian-vector product on one example, before anything is trained or written.

    Raises:
        InputError: the model has an operation without second derivatives.
    """
    batch = problem.fixed(problem.tasks[0], "validation").rows(torch.arange(1))
    lacks = "has no second derivatives, which curvature, order of steps and Krylov bases need"
    with derivatives_required(
        problem, lacks, "Leave basis_capture, random_search and local_geometry out of --measure."
    ):
        operator = HessianOperator(problem, batch)
        operator @ torch.ones(problem.parameters.n_params)
    operator.release()
