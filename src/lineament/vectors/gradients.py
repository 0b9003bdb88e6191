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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import ParameterSpace, Vectors
from lineament.problems.problem import Batch, Problem
from lineament.vectors.layer_gradients import Consumer, GroupGradient, NotByExample, gradient_hooks, has_unknown_layers

# Sums of group gradients may differ from the plain gradient by this many roundings of everything that was added up.
ROUNDINGS = 100


def group_gradients(problem: Problem, batch: Batch, group_size: int = 1) -> Vectors:
    """Return the gradient of each group's mean loss.

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


def gradient_gram(problem: Problem, batch: Batch, group_size: int = 1) -> Float64[Tensor, "n_groups n_groups"]:
    """Return the inner products G G^T of the group gradients, (n_groups, n_groups) float64, without storing G.

    One pass over all examples together; beyond the pass itself, memory is that of one layer's gradients.
    """
    n_groups = _count_groups(batch, group_size)
    # on the device, so that no layer waits for a copy; float64 is what Apple's GPUs lack
    device = problem.parameters.tensors[0].device
    gram = torch.zeros(n_groups, n_groups, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    uses: Counter[int] = Counter()

    def add(where: slice, gradient: GroupGradient) -> None:
        uses[where.start] += 1
        gram.add_(gradient.gram().to(gram))  # float64 sums over layers; each layer in the model's own precision

    trusted = _readable(problem, batch) and _collect(problem, batch, group_size, add)
    # Of a tied or reused tensor, the products between its uses are missing.
    if trusted and max(uses.values(), default=0) <= 1:
        return gram.cpu()
    rows = group_gradients(problem, batch, group_size).rows.double()
    return rows @ rows.T


def mean_gradient(problem: Problem, batch: Batch) -> Float64[Tensor, " n_params"]:
    """Return the gradient of the mean loss over the batch, each chunk weighted by its size, (n_params,) float64."""
    total = torch.zeros(problem.parameters.n_params, dtype=torch.float64)
    for part in batch.chunks(problem.chunk):
        total += problem.parameters.gradient(problem.example_losses(part).sum()).double().cpu()
    return total / len(batch)


def _count_groups(batch: Batch, group_size: int) -> int:
    if group_size < 1 or len(batch) % group_size:
        raise InputError(
            f"{len(batch)} examples do not divide into groups of {group_size}; give a group size of at least 1 and a "
            "number of examples that is a multiple of it."
        )
    return len(batch) // group_size


def _readable(problem: Problem, batch: Batch) -> bool:
    """Say whether hooks can tell examples apart: known layers only, each called with one row per example.

    One example goes forward alone: an axis of something else, such as positions, may have the batch's length by chance.
    """
    if has_unknown_layers(problem.parameters):
        return False
    # Not batch.rows, which would cut padding off and so change what else has which length.
    alone = Batch(batch.input_ids[:1], batch.attention_mask[:1], batch.positions[:1], batch.targets[:1], batch.choices)
    try:
        with gradient_hooks(problem.parameters, 1, 1, lambda where, gradient: None):
            problem.example_losses(alone)
    except NotByExample:
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
        with gradient_hooks(problem.parameters, len(batch), group_size, both):
            losses = problem.example_losses(batch)
            plain = torch.autograd.grad(losses.sum() / group_size, problem.parameters.tensors, allow_unused=True)
    except NotByExample:
        return False
    return check.agrees(plain)


def _one_group_at_a_time(problem: Problem, batch: Batch, group_size: int) -> Float[Tensor, "n_groups n_params"]:
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
        """Count in one use of a tensor."""
        probe = self._probes[where.start]
        self._sums[where.start] = self._sums.get(where.start, 0) + gradient.sum_times(probe)
        self._sizes[where.start] = self._sizes.get(where.start, 0) + gradient.size()

    def agrees(self, plain: Sequence[Tensor | None]) -> bool:
        """Say whether only rounding lies between the sums and the plain gradients (None: not reached)."""
        excess = [self._excess(start, g) for start, g in zip(self._starts, plain, strict=True) if g is not None]
        return not excess or bool((torch.stack(excess) <= 0).all())

    def _excess(self, start: int, plain: Tensor) -> Tensor:
        probe = self._probes[start]
        difference = plain.reshape(-1, len(probe)) @ probe - self._sums.get(start, 0)
        allowed = ROUNDINGS * torch.finfo(plain.dtype).eps * self._sizes.get(start, 0)
        return torch.sub(difference.norm(), allowed)


@contextmanager
def derivatives_required(problem: Problem, lacks: str, remedy: str) -> Iterator[None]:
    """Turn what torch says of an operation without the derivative that is tried inside the block into one error.

    Args:
        lacks: what the model cannot do, to go on after its name. remedy: how the error ends.

    Raises:
        InputError: torch refused; with the first line of its reason.
    """
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{type(problem.model).__name__} {lacks}: {reason:.200} {remedy}") from None
