"""Per-example and per-minibatch gradients, and their Gram matrix, from one forward and one backward pass.

The gradient of one example with respect to a linear layer's weight is the outer product of its inputs and its output
gradients, both of which the ordinary backward pass produces anyway. Hooks read them off, so n gradients cost about one
batched pass; the Gram matrix is accumulated layer by layer and the gradients themselves are never held all at once.

A "group" is `group_size` consecutive examples; its gradient is that of the group's mean loss. Results do not depend on
how examples are padded or chunked (tests). Layers understood: Linear, Conv1D, Embedding, LayerNorm; a space with a
parameter elsewhere, or a layer whose inputs do not tell examples apart (GPT-2 embeds its positions once for the whole
batch), is differentiated one group at a time, exactly and more slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from lineament.errors import InputError
from lineament.parameters import ParameterSpace, Vectors
from lineament.problems.problem import Batch, Problem

# Called once per measured tensor of a layer: (slice of theta, factors that make the group gradients).
Consumer = Callable[[slice, "GroupGradient"], None]


class _NotByExample(Exception):
    """A layer's inputs have no row per example, so hooks cannot tell the examples' gradients apart."""


class GroupGradient:
    """Gradients of one tensor for n groups, as factors.

    For a weight, `left` (n, tokens, d_out) and `right` (n, tokens, d_in), gradient sum_t left_t right_t^T; otherwise
    `dense` (n, size) holds the gradients themselves.
    """

    def __init__(self, left: Tensor | None, right: Tensor | None, dense: Tensor | None = None) -> None:
        self.left, self.right, self._dense = left, right, dense

    def dense(self) -> Tensor:
        """(n, size) gradients."""
        if self._dense is not None:
            return self._dense
        assert self.left is not None
        assert self.right is not None
        return torch.bmm(self.left.transpose(1, 2), self.right).flatten(1)

    def gram(self) -> Tensor:
        """(n, n) inner products, by whichever of the two ways takes fewer operations."""
        if self._dense is not None or self.left is None or self.right is None or self._materialise():
            rows = self.dense()
            return rows @ rows.T
        n, tokens, _ = self.left.shape
        left, right = self.left.reshape(n * tokens, -1), self.right.reshape(n * tokens, -1)
        return ((left @ left.T) * (right @ right.T)).view(n, tokens, n, tokens).sum(dim=(1, 3))

    def _materialise(self) -> bool:
        assert self.left is not None
        assert self.right is not None
        n, tokens, d_out = self.left.shape
        d_in = self.right.shape[-1]
        return n * tokens * d_out * d_in + n * n * d_out * d_in < (n * tokens) ** 2 * (d_out + d_in)


def group_gradients(problem: Problem, batch: Batch, group_size: int = 1) -> Vectors:
    """Gradients of each group's mean loss.

    Args:
        batch: n_groups * group_size examples; group i holds examples i * group_size .. (i + 1) * group_size - 1.

    Returns:
        Vectors (n_groups, n_params) in the problem's space, float32 on the CPU.

    Raises:
        InputError: the number of examples is no multiple of `group_size`.
    """
    n_groups = _count_groups(batch, group_size)
    rows = torch.zeros(n_groups, problem.space.n_params, dtype=problem.space.parameters[0].dtype)
    groups_per_chunk = max(1, problem.chunk // group_size)
    for start in range(0, n_groups, groups_per_chunk):
        stop = min(n_groups, start + groups_per_chunk)
        part = batch.rows(slice(start * group_size, stop * group_size))
        target = rows[start:stop]

        def add(where: slice, gradient: GroupGradient, target: Tensor = target) -> None:
            target[:, where] += gradient.dense().to(target)

        _backward(problem, part, group_size, add)
    return Vectors(rows, problem.space.space)


def gradient_gram(problem: Problem, batch: Batch, group_size: int = 1) -> Tensor:
    """Inner products G G^T of the group gradients, (n_groups, n_groups) float64, without storing G.

    One pass over all examples together; beyond the pass itself, memory is that of one layer's gradients.
    """
    n_groups = _count_groups(batch, group_size)
    if _unsupported(problem.space):
        rows = group_gradients(problem, batch, group_size).rows.double()
        return rows @ rows.T
    gram = torch.zeros(n_groups, n_groups, dtype=torch.float64)
    uses: Counter[int] = Counter()

    def add(where: slice, gradient: GroupGradient) -> None:
        uses[where.start] += 1
        gram.add_(gradient.gram().to(gram))

    _backward(problem, batch, group_size, add)
    if max(uses.values(), default=0) > 1:  # a tied or reused tensor: the products between its uses are missing
        rows = group_gradients(problem, batch, group_size).rows.double()
        return rows @ rows.T
    return gram


def mean_gradient(problem: Problem, batch: Batch) -> Tensor:
    """Gradient of the mean loss over the whole batch, each chunk weighted by its size, (n_params,) float64."""
    total = torch.zeros(problem.space.n_params, dtype=torch.float64)
    for part in batch.chunks(problem.chunk):
        total += problem.space.gradient(problem.example_losses(part).sum()).double().cpu()
    return total / len(batch)


class HessianOperator:
    """Hessian-vector products of the mean loss over a fixed batch, at the weights of the moment it was made.

    The first-order graph is built once and reused, so each product costs one backward pass through it. Attention runs
    in its mathematical form, the only one with second derivatives.

    Attributes:
        gradient: (n_params,) float64.
    """

    def __init__(self, problem: Problem, batch: Batch) -> None:
        self.space, self._problem, self._batch = problem.space, problem, batch
        self._theta = problem.space.read()
        self._build()
        self.gradient = self._flat.detach().double().cpu()

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H @ vector, (n_params,) float64. The model must hold the weights it had when the operator was made."""
        self._require_fresh_graph()
        given = vector.to(self._flat)
        with sdpa_kernel(SDPBackend.MATH):
            parts = torch.autograd.grad(
                self._flat, self.space.parameters, grad_outputs=given, retain_graph=True, allow_unused=True
            )
        return self.space.flatten(self._filled(parts)).double().cpu()

    def release(self) -> None:
        """Free the graph; the next product builds it again."""
        self._flat = torch.empty(0)
        self._versions: list[int] = []

    def _build(self) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            loss = self._problem.loss(self._batch)
            parts = torch.autograd.grad(loss, self.space.parameters, create_graph=True, allow_unused=True)
        self._flat = self.space.flatten(self._filled(parts))
        self._versions = [p._version for p in self.space.parameters]

    def _filled(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        return [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.space.parameters, strict=True)]

    def _require_fresh_graph(self) -> None:
        """Rebuild the graph if the weights were written in between, even with equal values, as autograd demands."""
        if self._versions == [p._version for p in self.space.parameters]:
            return
        if not torch.equal(self._theta, self.space.read()):
            raise InputError("the model's weights moved since this Hessian operator was made; make a new one.")
        self._build()


def _count_groups(batch: Batch, group_size: int) -> int:
    if group_size < 1 or len(batch) % group_size:
        raise InputError(f"{len(batch)} examples do not divide into groups of {group_size}.")
    return len(batch) // group_size


def _backward(problem: Problem, batch: Batch, group_size: int, consume: Consumer) -> None:
    """Run one pass and hand every measured tensor's group gradients to `consume`."""
    if _unsupported(problem.space):
        return _one_group_at_a_time(problem, batch, group_size, consume)
    try:
        with _hooks(problem.space, len(batch), group_size, consume):
            losses = problem.example_losses(batch)
            # The parameters' own gradients are asked for only to make the pass reach every hooked layer.
            torch.autograd.grad(losses.sum() / group_size, problem.space.parameters, allow_unused=True)
    except _NotByExample:  # raised by the forward pass, before anything was consumed
        _one_group_at_a_time(problem, batch, group_size, consume)
    return None


def _one_group_at_a_time(problem: Problem, batch: Batch, group_size: int, consume: Consumer) -> None:
    rows = [problem.space.gradient(problem.loss(part)) for part in batch.chunks(group_size)]
    consume(slice(0, problem.space.n_params), GroupGradient(None, None, torch.stack(rows)))


def _owners(space: ParameterSpace) -> dict[nn.Module, dict[str, slice]]:
    """Modules that hold measured tensors directly: module -> {attribute name: slice of theta}."""
    where = {id(p): part for p, part in zip(space.parameters, space.slices, strict=True)}
    owners: dict[nn.Module, dict[str, slice]] = {}
    for module in space.module.modules():
        held = {n: where[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in where}
        if held:
            owners[module] = held
    return owners


def _unsupported(space: ParameterSpace) -> bool:
    return any(_reader(module) is None for module in _owners(space))


@contextmanager
def _hooks(space: ParameterSpace, n_examples: int, group_size: int, consume: Consumer) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    try:
        for module, held in _owners(space).items():
            handles.append(module.register_forward_hook(_forward_hook(held, n_examples, group_size, consume)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward_hook(held: dict[str, slice], n_examples: int, group_size: int, consume: Consumer) -> Callable[..., None]:
    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        reader, entering = _reader(module), inputs[0].detach()
        assert reader is not None
        if len(entering) != n_examples:
            raise _NotByExample

        def backward(output_gradient: Tensor) -> None:
            with torch.no_grad():
                for name, gradient in reader(module, entering, output_gradient, group_size).items():
                    if name in held:
                        consume(held[name], gradient)

        output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def _reader(module: nn.Module) -> Callable[..., dict[str, GroupGradient]] | None:
    readers: dict[str, Any] = {
        "Linear": _linear,
        "Conv1D": _conv1d,
        "Embedding": _embedding,
        "LayerNorm": _layer_norm,
    }
    return readers.get(type(module).__name__)


def _grouped(tensor: Tensor, group_size: int) -> Tensor:
    """(examples, ..., d) -> (groups, tokens of the group, d)."""
    return tensor.reshape(tensor.shape[0] // group_size, -1, tensor.shape[-1])


def _linear(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    left, right = _grouped(g, group_size), _grouped(x, group_size)
    return {"weight": GroupGradient(left, right), "bias": GroupGradient(None, None, left.sum(dim=1))}


def _conv1d(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    """transformers' Conv1D stores its weight as (d_in, d_out)."""
    left, right = _grouped(g, group_size), _grouped(x, group_size)
    return {"weight": GroupGradient(right, left), "bias": GroupGradient(None, None, left.sum(dim=1))}


def _embedding(module: nn.Module, ids: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    left = _grouped(g, group_size)
    index = ids.reshape(len(left), -1, 1).expand_as(left)
    rows = torch.zeros(len(left), *weight.shape, dtype=g.dtype, device=g.device)
    rows.scatter_add_(1, index, left)
    if module.padding_idx is not None:
        rows[:, cast(int, module.padding_idx)] = 0
    return {"weight": GroupGradient(None, None, rows.flatten(1))}


def _layer_norm(module: nn.LayerNorm, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    left = _grouped(g, group_size)
    weight = _grouped(g * normal, group_size).sum(dim=1)
    return {
        "weight": GroupGradient(None, None, weight),
        "bias": GroupGradient(None, None, left.sum(dim=1)),
    }
