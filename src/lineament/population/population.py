"""Many perturbations of one model scored on one batch, without changing its weights.

Low-rank members go through one forward pass: the base product of every layer is shared by all members, each adds its
own low-rank term in a batched product, and the blocks below the first perturbed one are computed once. Dense noise on
small models goes through `torch.func`; whatever neither understands is set, scored and restored one by one. All three
give the same losses to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lineament.errors import InputError, NonFiniteError
from lineament.population.members import LowRankMembers, Members
from lineament.population.shared_pass import LowerPart, module_factors, moved, shared_pass
from lineament.problems.problem import Batch, Problem, mean_losses

Way = Literal["shared", "functional", "one_by_one"]
# (logits (n_examples, n_targets, n_vocabulary), batch) -> score per example (n_examples,); lower is better.
Objective = Callable[[Tensor, Batch], Tensor]
DEFAULT_MEMORY_BYTES = 2**30
# Beyond this many token rows in one pass products gain nothing and activations leave the caches.
MAX_TOKENS_PER_PASS = 2048


@dataclass(frozen=True)
class Scores:
    """Losses of a population.

    Attributes:
        losses: (n_members,) float64 mean score over the batch; nan for a failed member.
        base: the unperturbed model's.
    """

    losses: Float64[np.ndarray, " n_members"]
    base: float

    @property
    def gains(self) -> Float64[np.ndarray, " n_members"]:
        """base - losses, (n_members,); nan for a failed member."""
        return self.base - self.losses

    @property
    def n_failed(self) -> int:
        """Members whose score is not finite; they never win."""
        return int((~np.isfinite(self.losses)).sum())

    def best(self, k: int = 1) -> list[int]:
        """Return the k best finite members, best first; ties go to the lower number."""
        return ranked(self.losses)[:k]


def ranked(losses: Float64[np.ndarray, " n_members"]) -> list[int]:
    """Return the members with a finite loss, best first; ties go to the lower number."""
    order = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")
    return [int(i) for i in order if np.isfinite(losses[i])]


def cross_entropy_by_example(
    logits: Float[Tensor, "n_examples n_targets n_vocabulary"], batch: Batch
) -> Float64[Tensor, " n_examples"]:
    """Return the mean cross entropy over each example's target tokens, nats, (n_examples,): the default objective."""
    return mean_losses(logits, batch.targets, torch.float64)


class Population:
    """Scores members theta + delta_i of a problem on one batch.

    Args:
        problem: the model at theta; its weights, hooks and forward methods are the same bit for bit after every call,
            also one that raises.
        batch: examples that every member is scored on.
        memory_bytes: bound on what a pass holds beyond the model: activations, logits and the members themselves.
        way: `shared`, `functional` or `one_by_one`; default the fastest that the space allows.

    Raises:
        InputError: no examples, or `shared` asked for where it cannot be had.
        NonFiniteError: the unperturbed score is not finite.
    """

    def __init__(
        self,
        problem: Problem,
        batch: Batch,
        *,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        way: Way | None = None,
        objective: Objective = cross_entropy_by_example,
    ) -> None:
        if not len(batch):
            raise InputError("the batch has no examples; give at least one to score members on.")
        self.problem, self.batch, self.objective = problem, batch.to(problem.device), objective
        self.memory_bytes, self._way = memory_bytes, way
        logits, self.bytes_per_member = _measured_pass(problem, self.batch)
        self.base = float(self._score(logits))
        if not np.isfinite(self.base):
            raise NonFiniteError(f"the unperturbed model scores {self.base}; nothing can be compared with that.")

    def score(self, members: Members, per_pass: int | None = None) -> Scores:
        """Return the losses of all members, in their order.

        Args:
            per_pass: members per forward pass; default `self.per_pass(members)`. A loss is the same bit for bit where
                a member shares its pass with the same others.
        """
        losses = [self._score(logits) for _, logits in self.logits(members, per_pass)]
        numbers = torch.stack(losses).tolist() if losses else []  # at once: a GPU would wait for each alone
        return Scores(np.asarray(numbers), self.base)

    def logits(self, members: Members, per_pass: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (member, its logits (n_examples, n_targets, n_vocabulary)), in order, chunk by chunk.

        The model's weights and hooks must stay as they are until the last one was taken.
        """
        self.problem.parameters.space.require(members.space, "the model and the members")
        way = self._way or self._fastest(members)
        make: dict[Way, Callable[[Members, int, int], Tensor]] = {
            "shared": partial(self._shared, LowerPart()),
            "functional": self._functional,
            "one_by_one": self._one_by_one,
        }
        size = per_pass or self.chunk(way)
        for start in range(0, len(members), size):
            stop = min(len(members), start + size)
            with torch.no_grad():
                by_member = make[way](members, start, stop)
            yield from enumerate(by_member, start)

    def per_pass(self, members: Members) -> int:
        """Return how many such members go through one forward pass; passes are cut at multiples of it."""
        return self.chunk(self._way or self._fastest(members))

    def chunk(self, way: Way) -> int:
        """Return the members per pass: as many as memory allows and products gain from."""
        if way == "one_by_one":
            return 1
        space = self.problem.parameters
        tokens = max(1, self.batch.input_ids.numel())
        each = self.bytes_per_member + 3 * space.n_params * space.tensors[0].element_size()
        return max(1, min(self.memory_bytes // each, -(-MAX_TOKENS_PER_PASS // tokens)))

    def _fastest(self, members: Members) -> Way:
        if self.problem.parameters.space.kind == "lora_factors" or isinstance(members, LowRankMembers):
            return "shared"
        return "functional" if self.problem.vmaps else "one_by_one"

    def _score(self, logits: Tensor) -> Tensor:
        return self.objective(logits, self.batch).double().mean()

    def _shared(self, lower: LowerPart, members: Members, start: int, stop: int) -> Tensor:
        factors = module_factors(self.problem, members, start, stop)
        return shared_pass(self.problem, self.batch, factors, stop - start, lower)

    def _functional(self, members: Members, start: int, stop: int) -> Tensor:
        return functional_logits(self.problem, self.batch, moved(self.problem, members, start, stop), mapped=True)

    def _one_by_one(self, members: Members, start: int, stop: int) -> Tensor:
        logits = []
        for row in moved(self.problem, members, start, stop):
            with self.problem.parameters.temporarily(row):
                logits.append(self.problem.logits(self.batch))
        return torch.stack(logits)


@contextmanager
def double_precision(module: nn.Module) -> Iterator[None]:
    """Hold parameters and buffers in float64 inside the block; the very same tensors come back on exit.

    Gains at sigma < 1e-4 drown in float32 rounding of the loss. Architectures that compute their norms in float32
    whatever their weights' precision (Llama's RMSNorm in transformers) keep that part of the rounding.
    """
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    saved = [t.data for t in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, data in zip(tensors, saved, strict=True):
            tensor.data = data


class LogitsModule(nn.Module):
    """A problem's logits on one batch, (n_examples, n_targets, n_vocabulary), as a module with swappable parameters."""

    def __init__(self, problem: Problem, batch: Batch) -> None:
        super().__init__()
        self.model, self._problem, self._batch = problem.model, problem, batch

    def forward(self) -> Tensor:
        return self._problem.logits(self._batch)


def stacked_parameters(problem: Problem, thetas: Float[Tensor, "n_members n_params"]) -> dict[str, Tensor]:
    """View parameter vectors as the tensors that `LogitsModule` swaps, each (n_members, *shape)."""
    space = problem.parameters
    return {
        f"model.{name}": thetas[:, part].view(len(thetas), *p.shape)
        for name, part, p in zip(space.names, space.slices, space.tensors, strict=True)
    }


def functional_logits(
    problem: Problem, batch: Batch, thetas: Float[Tensor, "n_members n_params"], *, mapped: bool
) -> Tensor:
    """Return the logits at each parameter vector, (n_members, n_examples, n_targets, n_vocabulary).

    Args:
        mapped: in one pass over all members, where the model can be mapped; otherwise member by member.
    """
    module, stacked = LogitsModule(problem, batch), stacked_parameters(problem, thetas)

    def one(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(module, parameters, ())  # type: ignore[no-any-return]

    if mapped:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
            logits: Tensor = torch.func.vmap(one)(stacked)
        return logits
    return torch.stack([one({name: part[i] for name, part in stacked.items()}) for i in range(len(thetas))])


def _measured_pass(problem: Problem, batch: Batch) -> tuple[Tensor, int]:
    """Return the unperturbed model's logits and about how many bytes a pass holds: the largest block's outputs."""
    blocks = [m for m in problem.model.modules() if isinstance(m, nn.ModuleList)][:1]
    inside = {leaf: i for i, block in enumerate(blocks[0] if blocks else []) for leaf in block.modules()}
    held: dict[int, int] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            block = inside.get(module, -1)
            held[block] = held.get(block, 0) + output.numel() * output.element_size()

    with ExitStack() as stack:
        for module in problem.model.modules():
            if not any(module.children()):
                stack.callback(module.register_forward_hook(note).remove)
        with torch.no_grad():
            logits = problem.logits(batch)
    return logits, 2 * max(held.values(), default=0) + 2 * logits.numel() * logits.element_size()
