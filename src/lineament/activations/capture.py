"""Activations of a decoder at chosen layers, read inside the forward pass and no further than it must go.

The wanted token is taken inside the hook, so nothing of size (n, length, width) is kept; the pass stops at the last
wanted layer, so what lies above and the output head are never computed; examples go in batches of similar length, both
classes together. `group_sums` keeps running sums, so its memory does not grow with the number of examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor, nn

from lineament.activations.blocks import Site, find_blocks, output_tensor
from lineament.errors import InputError
from lineament.parameters import hash_tensors
from lineament.problems.problem import Batch, Problem, at_positions

# Real tokens of a pass: enough for large matrix products, little beside a model's weights.
TOKENS_PER_PASS = 2048
Forward = Callable[[Batch], object]


@dataclass(frozen=True)
class Place:
    """Where activations are read.

    Attributes:
        layers: layers counted from 1, ascending.
        mean: mean over the tokens of a row but its first, instead of the token at `batch.positions[:, -1]`.
    """

    layers: tuple[int, ...]
    site: Site = "block"
    mean: bool = False


def tokens_of_mean(attention_mask: Int[Tensor, "n_rows length"]) -> Bool[Tensor, "n_rows length"]:
    """Return the tokens that a row's mean is over: real ones without the first, if there are others.

    Models put activations of the first token that are hundreds of times as large as any other's into a few coordinates
    (Sun et al., arXiv 2402.17762). With it the mean says how long a row is.
    """
    real = attention_mask.bool()
    first = real & (attention_mask.cumsum(dim=1) == 1)
    return real & ~(first & (real.sum(dim=1, keepdim=True) > 1))


@dataclass(frozen=True)
class GroupSums:
    """Sums of activations by group.

    Attributes:
        counts: (n_groups,) float64, examples of each group.
        sums: (n_groups, n_layers, width) float64.
        squares: (n_layers,) float64, summed squared norms over all examples.
    """

    counts: Float64[Tensor, " n_groups"]
    sums: Float64[Tensor, "n_groups n_layers width"]
    squares: Float64[Tensor, " n_layers"]

    def means(self) -> Float64[Tensor, "n_groups n_layers width"]:
        """Return the (n_groups, n_layers, width) float64 means; NaN for a group without examples."""
        return self.sums / self.counts[:, None, None]

    @property
    def rms_norms(self) -> Float64[Tensor, " n_layers"]:
        """(n_layers,) root-mean-square norm of the activations."""
        return (self.squares / self.counts.sum()).sqrt()


class Enough(Exception):
    """Raised inside the last wanted layer: the rest of the forward pass is not needed."""


class Reader:
    """Reads activations of one model at one place.

    Args:
        model: the module that `forward` runs, directly or wrapped.
        forward: runs the model on a batch; how far it gets and what it returns do not matter.
        device: batches are moved there.

    Raises:
        InputError: a layer out of range, or a model or block without such parts.
    """

    def __init__(self, model: nn.Module, forward: Forward, place: Place, device: torch.device) -> None:
        self.blocks, self.place = find_blocks(model), place
        self.blocks.require(place.layers)
        self._modules = [self.blocks.at(layer, place.site) for layer in place.layers]
        self._forward, self._device = forward, device

    def read(self, batch: Batch) -> Float[Tensor, "n_examples n_layers width"]:
        """Read the activations (n_examples, n_layers, width) of one pass; gradients flow if they are enabled."""
        return self.read_at(batch, batch.positions[:, -1:])[:, :, 0]

    def read_at(
        self, batch: Batch, positions: Int[Tensor, "n_examples n_positions"]
    ) -> Float[Tensor, "n_examples n_layers n_read width"]:
        """Read at several positions (n_examples, n_positions): (n_examples, n_layers, n_positions, width)."""
        activations: dict[int, Tensor] = {}
        batch, positions = batch.to(self._device), positions.to(self._device)

        def hook_for(number: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                hidden = output_tensor(output)
                _require_one_stream(module, hidden, batch)
                activations[number] = self._chosen(hidden, batch, positions)
                if len(activations) == len(self._modules):
                    raise Enough

            return hook

        # The stack removes every hook however the pass ends: `Enough` leaves through the model's own frames.
        with ExitStack() as stack:
            for number, module in enumerate(self._modules):
                stack.callback(module.register_forward_hook(hook_for(number)).remove)
            try:
                self._forward(batch)
            except Enough:
                pass
            else:
                raise InputError(
                    f"the forward pass did not reach layers {self.place.layers} of {self.blocks.name}; "
                    "choose layers that it runs."
                )
        return torch.stack([activations[number] for number in range(len(self._modules))], dim=1)

    def _chosen(self, hidden: Tensor, batch: Batch, positions: Tensor) -> Tensor:
        """Select (n, length, width) -> (n, n_positions, width); the mean counts as one position."""
        if self.place.mean:
            mask = tokens_of_mean(batch.attention_mask)[..., None].to(hidden.dtype)
            return ((hidden * mask).sum(dim=1) / mask.sum(dim=1))[:, None]
        return at_positions(hidden, positions)


def _require_one_stream(module: nn.Module, hidden: Tensor, batch: Batch) -> None:
    """Refuse blocks that return something else than one activation per token, as Gemma 3n's, which have four."""
    if hidden.ndim != 3 or len(hidden) != len(batch):
        raise InputError(
            f"{type(module).__name__} returns activations of shape {tuple(hidden.shape)} for {len(batch)} rows of "
            f"{batch.input_ids.shape[1]} tokens. Vectors need one activation per token after each block; models with "
            "several streams have none."
        )


def problem_reader(problem: Problem, place: Place) -> Reader:
    """Make a reader of a problem's model."""
    return Reader(problem.model, problem.logits, place, problem.device)


def read_rows(reader: Reader, batch: Batch) -> Float32[Tensor, "n_examples n_layers width"]:
    """Read the activations of every example, (n_examples, n_layers, width) float32 on the CPU, in the batch's order."""
    rows: Tensor | None = None
    for index, activations in _passes(reader, batch):
        if rows is None:
            rows = torch.empty(len(batch), *activations.shape[1:])
        rows[index] = activations.float().cpu()
    assert rows is not None
    return rows


def group_sums(reader: Reader, batch: Batch, groups: Int[Tensor, " n_examples"], n_groups: int) -> GroupSums:
    """Sum activations by group.

    Args:
        groups: (n_examples,) integers 0 .. n_groups - 1, such as the class of each example.
    """
    return summed(_passes(reader, batch), groups, n_groups)


def summed(passes: Iterable[tuple[Tensor, Tensor]], groups: Int[Tensor, " n_examples"], n_groups: int) -> GroupSums:
    """Sum by group over passes of (indices of examples, their activations (n, n_layers, width))."""
    sums, squares = torch.empty(0), torch.empty(0)
    for index, activations in passes:
        wide = activations.double().cpu()
        if not len(sums):
            sums, squares = wide.new_zeros(n_groups, *wide.shape[1:]), wide.new_zeros(wide.shape[1])
        sums.index_add_(0, groups[index], wide)
        squares += wide.square().sum(dim=(0, 2))
    return GroupSums(torch.bincount(groups, minlength=n_groups).double(), sums, squares)


def _passes(reader: Reader, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    for index in length_sorted(batch):
        with torch.no_grad():  # not as a decorator: wrapped once more, a generator would run without it
            activations = reader.read(batch.rows(index))
        yield index, activations


def length_sorted(batch: Batch, tokens_per_pass: int = TOKENS_PER_PASS) -> Iterator[Int[Tensor, " n_in_pass"]]:
    """Yield the indices of passes of similar length, longest first, each of at most so many tokens with padding."""
    if not len(batch):
        raise InputError("the batch has no examples; give at least one to read activations of.")
    lengths = batch.attention_mask.sum(dim=1).cpu()
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, tokens_per_pass // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def layers_up_to(n_layers: int, share: float = 1.0) -> tuple[int, ...]:
    """Return layers 1 .. round(share * n_layers), at least one."""
    return tuple(range(1, max(1, round(share * n_layers)) + 1))


def all_layers(model: nn.Module) -> tuple[int, ...]:
    """Return every layer of a model."""
    return layers_up_to(len(find_blocks(model)))


def hash_rows(batches: Sequence[Batch], labels: Sequence[Tensor] = ()) -> str:
    """Hash token rows, masks, wanted positions and labels."""
    parts = [t for b in batches for t in (b.input_ids, b.attention_mask, b.positions)]
    return hash_tensors((str(i), part) for i, part in enumerate([*parts, *labels]))
