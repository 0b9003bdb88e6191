"""What each kind of layer adds to the gradient of a group of examples, read off by hooks during an ordinary pass.

The gradient of one example with respect to a linear layer's weight is the outer product of its inputs and its output
gradients, both of which the backward pass produces anyway. Layers understood: torch's own Linear, Embedding and
LayerNorm, and transformers' Conv1D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lineament.parameters import ParameterSpace

# Called once per measured tensor of a layer: (slice of theta, factors that make the group gradients).
Consumer = Callable[[slice, "GroupGradient"], None]
# (module, what entered it, gradient of its output, group size) -> parameter name -> group gradients.
Reader = Callable[[Any, Tensor, Tensor, int], dict[str, "GroupGradient"]]
# Known by its path, since only the language-model problem may import transformers.
CONV1D = ("transformers.pytorch_utils", "Conv1D")


class NotByExample(Exception):
    """A layer's inputs have no row per example, so hooks cannot tell the examples' gradients apart."""


class GroupGradient:
    """Gradients of one tensor for n groups, as factors.

    For a weight, `left` (n, tokens, d_out) and `right` (n, tokens, d_in), gradient sum_t left_t right_t^T; otherwise
    `dense` (n, size) holds the gradients themselves, and `terms` (n, tokens, d) what they were added up from.
    """

    def __init__(
        self,
        left: Float[Tensor, "n_groups n_tokens d_left"] | None,
        right: Float[Tensor, "n_groups n_tokens d_right"] | None,
        dense: Float[Tensor, "n_groups size"] | None = None,
        terms: Float[Tensor, "n_groups n_terms d_term"] | None = None,
    ) -> None:
        self.left, self.right, self._dense, self._terms = left, right, dense, terms

    def dense(self) -> Float[Tensor, "n_groups size"]:
        """Return the gradients themselves, (n, size)."""
        if self._dense is not None:
            return self._dense
        assert self.left is not None
        assert self.right is not None
        return torch.bmm(self.left.transpose(1, 2), self.right).flatten(1)

    def gram(self) -> Float[Tensor, "n_groups n_groups"]:
        """Return the inner products, (n, n), from factors or gradients, whichever takes fewer operations."""
        if self._dense is not None or self.left is None or self.right is None or self._materialise():
            rows = self.dense()
            return rows @ rows.T
        n, tokens, _ = self.left.shape
        # <x1 g1', x2 g2'> = <x1, x2> <g1, g2>: the (d_out, d_in) gradients are never formed.
        left, right = self.left.reshape(n * tokens, -1), self.right.reshape(n * tokens, -1)
        return ((left @ left.T) * (right @ right.T)).view(n, tokens, n, tokens).sum(dim=(1, 3))

    def sum_times(self, probe: Float[Tensor, " n_columns"]) -> Float[Tensor, " n_rows"]:
        """Multiply the sum over groups, a matrix (rows, len(probe)), by `probe`, without forming it for a weight."""
        if self._dense is not None:
            return self._dense.sum(dim=0).view(-1, len(probe)) @ probe
        assert self.left is not None
        assert self.right is not None
        return self.left.flatten(0, 1).T @ (self.right.flatten(0, 1) @ probe)

    def size(self) -> Float[Tensor, ""]:
        """Add up the lengths of all terms, to which the rounding of their sum is in proportion."""
        if self.left is not None and self.right is not None:
            return torch.sum(self.left.norm(dim=-1) * self.right.norm(dim=-1))
        terms = self._dense if self._terms is None else self._terms
        assert terms is not None
        return torch.sum(terms.norm(dim=-1))

    def _materialise(self) -> bool:
        assert self.left is not None
        assert self.right is not None
        n, tokens, d_out = self.left.shape
        d_in = self.right.shape[-1]
        return n * tokens * d_out * d_in + n * n * d_out * d_in < (n * tokens) ** 2 * (d_out + d_in)


def _owners(space: ParameterSpace) -> dict[nn.Module, dict[str, slice]]:
    """Find the modules that hold measured tensors directly: module -> {attribute name: slice of theta}."""
    where = {id(p): part for p, part in zip(space.tensors, space.slices, strict=True)}
    owners: dict[nn.Module, dict[str, slice]] = {}
    for module in space.module.modules():
        held = {n: where[id(p)] for n, p in module.named_parameters(recurse=False) if id(p) in where}
        if held:
            owners[module] = held
    return owners


def has_unknown_layers(space: ParameterSpace) -> bool:
    """Say whether a measured tensor belongs to a layer that cannot be read."""
    return any(_reader(module) is None for module in _owners(space))


@contextmanager
def gradient_hooks(space: ParameterSpace, n_examples: int, group_size: int, consume: Consumer) -> Iterator[None]:
    """Inside the block, hand the group gradients of every measured tensor to `consume` in each backward pass."""
    handles: list[RemovableHandle] = []
    try:
        for module, held in _owners(space).items():
            handles.append(module.register_forward_hook(_forward_hook(held, n_examples, group_size, consume)))
        yield
    finally:  # also where registering a later hook failed
        for handle in handles:
            handle.remove()


def _forward_hook(held: dict[str, slice], n_examples: int, group_size: int, consume: Consumer) -> Callable[..., None]:
    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        reader = _reader(module)
        assert reader is not None
        if not inputs or len(inputs[0]) != n_examples:
            raise NotByExample
        entering = inputs[0].detach()

        def backward(output_gradient: Tensor) -> None:
            with torch.no_grad():
                for name, gradient in reader(module, entering, output_gradient, group_size).items():
                    if name in held:
                        consume(held[name], gradient)

        # On the output tensor: register_full_backward_hook wraps inputs and outputs, and fails on layers that work in
        # place.
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def is_conv1d(module: nn.Module) -> bool:
    """Say whether this is transformers' own Conv1D, a linear layer whose weight is (d_in, d_out)."""
    return (type(module).__module__, type(module).__qualname__) == CONV1D


def _reader(module: nn.Module) -> Reader | None:
    """Choose by exact type: a class of the same name, or a subclass, may do anything with its weight."""
    kind = type(module)
    if kind is nn.LayerNorm and len(cast(nn.LayerNorm, module).normalized_shape) > 1:
        return None
    if is_conv1d(module):
        return _conv1d
    readers: dict[type, Reader] = {nn.Linear: _linear, nn.Embedding: _embedding, nn.LayerNorm: _layer_norm}
    return readers.get(kind)


def _grouped(tensor: Float[Tensor, "n_examples *rest d"], group_size: int) -> Float[Tensor, "n_groups n_tokens d"]:
    """Reshape (examples, ..., d) to (groups, tokens of the group, d)."""
    return tensor.reshape(tensor.shape[0] // group_size, -1, tensor.shape[-1])


def _linear(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    left, right = _grouped(g, group_size), _grouped(x, group_size)
    return {"weight": GroupGradient(left, right), "bias": _summed(left)}


def _conv1d(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    """Swap the factors: transformers' Conv1D stores its weight as (d_in, d_out)."""
    left, right = _grouped(g, group_size), _grouped(x, group_size)
    return {"weight": GroupGradient(right, left), "bias": _summed(left)}


def _embedding(module: nn.Module, ids: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    left = _grouped(g, group_size)
    index = ids.reshape(len(left), -1, 1).expand_as(left)
    rows = torch.zeros(len(left), *weight.shape, dtype=g.dtype, device=g.device)
    rows.scatter_add_(1, index, left)
    if module.padding_idx is not None:
        rows[:, cast(int, module.padding_idx)] = 0
    return {"weight": GroupGradient(None, None, rows.flatten(1), left)}


def _layer_norm(module: nn.LayerNorm, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    return {"weight": _summed(_grouped(g * normal, group_size)), "bias": _summed(_grouped(g, group_size))}


def _summed(terms: Float[Tensor, "n_groups n_tokens d"]) -> GroupGradient:
    """Sum each group's terms over its tokens."""
    return GroupGradient(None, None, terms.sum(dim=1), terms)
