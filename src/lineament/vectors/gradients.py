"""Per-example and per-minibatch gradients, and their Gram matrix, from one forward and one backward pass.

The gradient of one example with respect to a linear layer's weight is the outer product of its inputs and its output
gradients, both of which the ordinary backward pass produces anyway. Hooks read them off, so n gradients cost about one
batched pass; the Gram matrix is accumulated layer by layer and the gradients themselves are never held all at once.

A "group" is `group_size` consecutive examples; its gradient is that of the group's mean loss. Results do not depend on
how examples are padded or chunked (tests). Layers understood: torch's own Linear, Embedding and LayerNorm, and
transformers' Conv1D. A space with a parameter elsewhere, a layer whose inputs do not tell examples apart (GPT-2 embeds
its positions once for the whole batch), or a weight that is also used outside its layer is differentiated one group at
a time, exactly and more slowly: every pass is checked against the parameters' own gradients, which it makes anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from lineament.errors import InputError
from lineament.parameters import ParameterSpace, Vectors
from lineament.problems.problem import Batch, Problem

# Called once per measured tensor of a layer: (slice of theta, factors that make the group gradients).
Consumer = Callable[[slice, "GroupGradient"], None]
# (module, what entered it, gradient of its output, group size) -> parameter name -> group gradients.
Reader = Callable[[Any, Tensor, Tensor, int], dict[str, "GroupGradient"]]
# Known by its path, since only the language-model problem may import transformers.
CONV1D = ("transformers.pytorch_utils", "Conv1D")
# Sums of group gradients may differ from the plain gradient by this many roundings of everything that was added up.
ROUNDINGS = 100


class _NotByExample(Exception):
    """A layer's inputs have no row per example, so hooks cannot tell the examples' gradients apart."""


class GroupGradient:
    """Gradients of one tensor for n groups, as factors.

    For a weight, `left` (n, tokens, d_out) and `right` (n, tokens, d_in), gradient sum_t left_t right_t^T; otherwise
    `dense` (n, size) holds the gradients themselves, and `terms` (n, tokens, d) what they were added up from.
    """

    def __init__(
        self, left: Tensor | None, right: Tensor | None, dense: Tensor | None = None, terms: Tensor | None = None
    ) -> None:
        self.left, self.right, self._dense, self._terms = left, right, dense, terms

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

    def sum_times(self, probe: Tensor) -> Tensor:
        """The sum over groups, as a matrix (rows, len(probe)), times `probe`; never forms the matrix of a weight."""
        if self._dense is not None:
            return self._dense.sum(dim=0).view(-1, len(probe)) @ probe
        assert self.left is not None
        assert self.right is not None
        return self.left.flatten(0, 1).T @ (self.right.flatten(0, 1) @ probe)

    def size(self) -> Tensor:
        """Summed lengths of all terms, to which the rounding of their sum is in proportion."""
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
    rows = torch.zeros(n_groups, problem.parameters.n_params, dtype=problem.parameters.tensors[0].dtype)
    groups_per_chunk = max(1, problem.chunk // group_size)
    hooked = _readable(problem, batch)
    for start in range(0, n_groups, groups_per_chunk):
        stop = min(n_groups, start + groups_per_chunk)
        part = batch.rows(slice(start * group_size, stop * group_size))
        target = rows[start:stop]

        def add(where: slice, gradient: GroupGradient, target: Tensor = target) -> None:
            target[:, where] += gradient.dense().to(target)

        hooked = hooked and _collect(problem, part, group_size, add)
        if not hooked:
            target.copy_(_one_group_at_a_time(problem, part, group_size))  # over whatever was added
    return Vectors(rows, problem.parameters.space)


def gradient_gram(problem: Problem, batch: Batch, group_size: int = 1) -> Tensor:
    """Inner products G G^T of the group gradients, (n_groups, n_groups) float64, without storing G.

    One pass over all examples together; beyond the pass itself, memory is that of one layer's gradients.
    """
    n_groups = _count_groups(batch, group_size)
    gram = torch.zeros(n_groups, n_groups, dtype=torch.float64)
    uses: Counter[int] = Counter()

    def add(where: slice, gradient: GroupGradient) -> None:
        uses[where.start] += 1
        gram.add_(gradient.gram().to(gram))

    trusted = _readable(problem, batch) and _collect(problem, batch, group_size, add)
    # Of a tied or reused tensor, the products between its uses are missing.
    if trusted and max(uses.values(), default=0) <= 1:
        return gram
    rows = group_gradients(problem, batch, group_size).rows.double()
    return rows @ rows.T


def mean_gradient(problem: Problem, batch: Batch) -> Tensor:
    """Gradient of the mean loss over the whole batch, each chunk weighted by its size, (n_params,) float64."""
    total = torch.zeros(problem.parameters.n_params, dtype=torch.float64)
    for part in batch.chunks(problem.chunk):
        total += problem.parameters.gradient(problem.example_losses(part).sum()).double().cpu()
    return total / len(batch)


class HessianOperator:
    """Hessian-vector products of the mean loss over a fixed batch, at the weights of the moment it was made.

    The first-order graph is built once and reused, so each product costs one backward pass through it. Attention runs
    in its mathematical form, the only one with second derivatives.

    Attributes:
        gradient: (n_params,) float64.
    """

    def __init__(self, problem: Problem, batch: Batch) -> None:
        self.space, self._problem, self._batch = problem.parameters, problem, batch
        self._theta = problem.parameters.read()
        self._build()
        self.gradient = self._flat.detach().double().cpu()

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H @ vector, (n_params,) float64. The model must hold the weights it had when the operator was made."""
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
            loss = self._problem.loss(self._batch)
            parts = torch.autograd.grad(loss, self.space.tensors, create_graph=True, allow_unused=True)
        self._flat = self.space.flatten(self._filled(parts))
        self._versions, self._leaves = self._state()

    def _filled(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        return [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.space.tensors, strict=True)]

    def _state(self) -> tuple[list[int], list[Node]]:
        """Writes to the parameters so far, and the graph's leaves: a parameter whose data changed type is a new leaf,
        to which the old graph would silently give no gradient."""
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


def _count_groups(batch: Batch, group_size: int) -> int:
    if group_size < 1 or len(batch) % group_size:
        raise InputError(f"{len(batch)} examples do not divide into groups of {group_size}.")
    return len(batch) // group_size


def _readable(problem: Problem, batch: Batch) -> bool:
    """Whether hooks can tell examples apart: known layers only, each called with one row per example.

    One example goes forward alone: an axis of something else, such as positions, may have the batch's length by chance.
    """
    if _unsupported(problem.parameters):
        return False
    # Not batch.rows, which would cut padding off and so change what else has which length.
    alone = Batch(batch.input_ids[:1], batch.attention_mask[:1], batch.positions[:1], batch.targets[:1], batch.choices)
    try:
        with _hooks(problem.parameters, 1, 1, lambda where, gradient: None):
            problem.example_losses(alone)
    except _NotByExample:
        return False
    return True


def _collect(problem: Problem, batch: Batch, group_size: int, consume: Consumer) -> bool:
    """Run one pass and hand every measured tensor's group gradients to `consume`.

    False if they cannot be trusted: what was consumed must then be thrown away.
    """
    check = _SumCheck(problem.parameters)

    def both(where: slice, gradient: GroupGradient) -> None:
        check.add(where, gradient)
        consume(where, gradient)

    try:
        with _hooks(problem.parameters, len(batch), group_size, both):
            losses = problem.example_losses(batch)
            plain = torch.autograd.grad(losses.sum() / group_size, problem.parameters.tensors, allow_unused=True)
    except _NotByExample:
        return False
    return check.agrees(plain)


def _one_group_at_a_time(problem: Problem, batch: Batch, group_size: int) -> Tensor:
    return torch.stack([problem.parameters.gradient(problem.loss(part)) for part in batch.chunks(group_size)])


class _SumCheck:
    """Compares the sum of all group gradients with the plain gradient of the same pass, tensor by tensor.

    Both are multiplied by one fixed random vector per tensor (Freivalds 1977): a part that is missing or wrong shows,
    at the cost of a matrix-vector product.
    """

    def __init__(self, space: ParameterSpace) -> None:
        generator = torch.Generator().manual_seed(0)
        self._starts = [where.start for where in space.slices]
        widths = [p.shape[-1] if p.ndim > 1 else 1 for p in space.tensors]
        probes = [torch.randn(n, generator=generator).to(p) for n, p in zip(widths, space.tensors, strict=True)]
        self._probes = dict(zip(self._starts, probes, strict=True))
        self._sums: dict[int, Tensor | float] = {}
        self._sizes: dict[int, Tensor | float] = {}

    def add(self, where: slice, gradient: GroupGradient) -> None:
        """Count one use of a tensor in."""
        probe = self._probes[where.start]
        self._sums[where.start] = self._sums.get(where.start, 0) + gradient.sum_times(probe)
        self._sizes[where.start] = self._sizes.get(where.start, 0) + gradient.size()

    def agrees(self, plain: Sequence[Tensor | None]) -> bool:
        """Whether nothing but rounding lies between the sums and the plain gradients (None: not reached)."""
        excess = [self._excess(start, g) for start, g in zip(self._starts, plain, strict=True) if g is not None]
        return not excess or bool((torch.stack(excess) <= 0).all())

    def _excess(self, start: int, plain: Tensor) -> Tensor:
        probe = self._probes[start]
        difference = plain.reshape(-1, len(probe)) @ probe - self._sums.get(start, 0)
        allowed = ROUNDINGS * torch.finfo(plain.dtype).eps * self._sizes.get(start, 0)
        return torch.sub(difference.norm(), allowed)


def _owners(space: ParameterSpace) -> dict[nn.Module, dict[str, slice]]:
    """Modules that hold measured tensors directly: module -> {attribute name: slice of theta}."""
    where = {id(p): part for p, part in zip(space.tensors, space.slices, strict=True)}
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
        reader = _reader(module)
        assert reader is not None
        if not inputs or len(inputs[0]) != n_examples:
            raise _NotByExample
        entering = inputs[0].detach()

        def backward(output_gradient: Tensor) -> None:
            with torch.no_grad():
                for name, gradient in reader(module, entering, output_gradient, group_size).items():
                    if name in held:
                        consume(held[name], gradient)

        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    return forward


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is transformers' own Conv1D, a linear layer whose weight is (d_in, d_out)."""
    return (type(module).__module__, type(module).__qualname__) == CONV1D


def _reader(module: nn.Module) -> Reader | None:
    """By exact type: a class of the same name, or a subclass, may do anything with its weight."""
    kind = type(module)
    if kind is nn.LayerNorm and len(cast(nn.LayerNorm, module).normalized_shape) > 1:
        return None
    if is_conv1d(module):
        return _conv1d
    readers: dict[type, Reader] = {nn.Linear: _linear, nn.Embedding: _embedding, nn.LayerNorm: _layer_norm}
    return readers.get(kind)


def _grouped(tensor: Tensor, group_size: int) -> Tensor:
    """(examples, ..., d) -> (groups, tokens of the group, d)."""
    return tensor.reshape(tensor.shape[0] // group_size, -1, tensor.shape[-1])


def _linear(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    left, right = _grouped(g, group_size), _grouped(x, group_size)
    return {"weight": GroupGradient(left, right), "bias": _summed(left)}


def _conv1d(module: nn.Module, x: Tensor, g: Tensor, group_size: int) -> dict[str, GroupGradient]:
    """transformers' Conv1D stores its weight as (d_in, d_out)."""
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


def _summed(terms: Tensor) -> GroupGradient:
    """Gradients that are sums over the group's tokens."""
    return GroupGradient(None, None, terms.sum(dim=1), terms)
