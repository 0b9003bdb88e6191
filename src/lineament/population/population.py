"""Many perturbations of one model scored on one batch, without changing its weights.

Low-rank members go through one forward pass: the base product of every layer is shared by all members, each adds its
own low-rank term in a batched product, and the blocks below the first perturbed one are computed once. Dense noise on
small models goes through `torch.func`; whatever neither understands is set, scored and restored one by one. All three
give the same losses to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.problem import Batch, Problem, mean_losses
from lineament.vectors.layer_gradients import is_conv1d

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
        self.base = self._score(logits)
        if not np.isfinite(self.base):
            raise NonFiniteError(f"the unperturbed model scores {self.base}; nothing can be compared with that.")

    def score(self, members: Members, per_pass: int | None = None) -> Scores:
        """Return the losses of all members, in their order.

        Args:
            per_pass: members per forward pass; default `self.per_pass(members)`. A loss is the same bit for bit where
                a member shares its pass with the same others.
        """
        losses = [self._score(logits) for _, logits in self.logits(members, per_pass)]
        return Scores(np.asarray(losses), self.base)

    def logits(self, members: Members, per_pass: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (member, its logits (n_examples, n_targets, n_vocabulary)), in order, chunk by chunk.

        The model's weights and hooks must stay as they are until the last one was taken.
        """
        self.problem.parameters.space.require(members.space, "the model and the members")
        way = self._way or self._fastest(members)
        make: dict[Way, Callable[[Members, int, int], Tensor]] = {
            "shared": partial(self._shared, _LowerPart()),
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

    def _score(self, logits: Tensor) -> float:
        return float(self.objective(logits, self.batch).double().mean())

    def _shared(self, lower: _LowerPart, members: Members, start: int, stop: int) -> Tensor:
        factors = _module_factors(self.problem, members, start, stop)
        n = stop - start
        with _sharing(self.problem.model, factors, n, len(self.batch), lower) as expanded:
            batch = self.batch if expanded else _repeated(self.batch, n)
            logits = self.problem.logits(batch)
        return logits.view(n, len(self.batch), *logits.shape[1:])

    def _functional(self, members: Members, start: int, stop: int) -> Tensor:
        space = self.problem.parameters
        rows = _moved(self.problem, members, start, stop)
        stacked = {
            f"model.{name}": rows[:, part].view(len(rows), *p.shape)
            for name, part, p in zip(space.names, space.slices, space.tensors, strict=True)
        }
        module = _Logits(self.problem, self.batch)

        def one(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(module, parameters, ())  # type: ignore[no-any-return]

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
            logits: Tensor = torch.func.vmap(one)(stacked)
        return logits

    def _one_by_one(self, members: Members, start: int, stop: int) -> Tensor:
        logits = []
        for row in _moved(self.problem, members, start, stop):
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


@dataclass(frozen=True)
class _Factors:
    """Low-rank terms of n members at one layer: the output gains (x @ right) @ left, member by member.

    right: (n, d_in, r); left: (n, r, d_out), every scale folded in. base: the layer without the term.
    """

    right: Float[Tensor, "n_members d_in rank"]
    left: Float[Tensor, "n_members rank d_out"]
    base: Callable[..., Tensor]


class _Logits(nn.Module):
    """A problem's logits as a module whose parameters can be swapped."""

    def __init__(self, problem: Problem, batch: Batch) -> None:
        super().__init__()
        self.model, self._problem, self._batch = problem.model, problem, batch

    def forward(self) -> Tensor:
        return self._problem.logits(self._batch)


def _moved(problem: Problem, members: Members, start: int, stop: int) -> Float[Tensor, "n_members n_params"]:
    """Return theta + delta of some members, (n, n_params), in the model's precision, on its device."""
    theta = problem.parameters.read()
    return theta + members.deltas(start, stop).to(theta)


def _module_factors(problem: Problem, members: Members, start: int, stop: int) -> dict[nn.Module, _Factors]:
    if isinstance(members, LowRankMembers):
        return _noise_factors(problem, members, start, stop)
    if problem.parameters.space.kind != "lora_factors":
        raise InputError(f"members of {problem.parameters.space} have no low rank; they cannot share a forward pass.")
    rows, modules = _moved(problem, members, start, stop), dict(problem.parameters.module.named_modules())
    factors: dict[nn.Module, _Factors] = {}
    for pair in factor_pairs(problem.parameters):
        module: Any = modules[pair.module]
        _require_plain_lora(module, pair.module)
        a, b = rows[:, pair.a].view(-1, *pair.a_shape), rows[:, pair.b].view(-1, *pair.b_shape)
        factors[module] = _Factors(a.transpose(1, 2), pair.scale * b.transpose(1, 2), module.base_layer)
    return factors


def _noise_factors(problem: Problem, members: LowRankMembers, start: int, stop: int) -> dict[nn.Module, _Factors]:
    owners = {f"{name}.weight": module for name, module in problem.parameters.module.named_modules()}
    device, factors = problem.device, {}
    for name in members.matrices:
        module = owners.get(name)
        if module is None or not (type(module) is nn.Linear or is_conv1d(module)):
            raise InputError(f"{name} belongs to no linear layer; choose a space of linear weights for low-rank noise.")
        left, right = (t.to(device, problem.parameters.tensors[0].dtype) for t in members.factors(name, start, stop))
        # A Linear's weight is (d_out, d_in): x W^T gains (x right^T) left^T. A Conv1D's is (d_in, d_out).
        pair = (right.transpose(1, 2), left.transpose(1, 2)) if type(module) is nn.Linear else (left, right)
        factors[module] = _Factors(*pair, module.forward)
    return factors


def _require_plain_lora(module: Any, name: str) -> None:
    if any(getattr(module, "use_dora", {}).values()) or getattr(module, "lora_variant", {}):
        raise InputError(f"{name} is no plain LoRA layer (DoRA or another variant); members cannot share its pass.")
    if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
        raise InputError(f"the adapter of {name} is merged or disabled; unmerge and enable it first.")


class _LowerPart:
    """The blocks below the first perturbed one: computed in the first pass, their output kept for all others."""

    def __init__(self) -> None:
        self._output: Any = None

    @contextmanager
    def once(self, blocks: list[nn.Module]) -> Iterator[None]:
        """Run these blocks the first time; from then on, let the last of them return what it returned then."""
        with ExitStack() as stack:
            if blocks and self._output is None:
                stack.callback(blocks[-1].register_forward_hook(self._keep).remove)
            elif blocks:
                for block in blocks:
                    stack.enter_context(_replaced_forward(block, lambda *args, **kwargs: self._output))
            yield

    def _keep(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self._output = output


@contextmanager
def _sharing(
    model: nn.Module, factors: Mapping[nn.Module, _Factors], n: int, n_examples: int, lower: _LowerPart
) -> Iterator[bool]:
    """Let the perturbed layers add their members' terms.

    Yields:
        Whether rows are repeated for the members inside the model, at the first perturbed block; otherwise the batch
        must come repeated.
    """
    below, blocks = _split_blocks(model, set(factors))
    with ExitStack() as stack:
        # One stack for all of it: whatever raises, every forward and hook is put back, the last one first.
        stack.enter_context(lower.once(below))
        for module, own in factors.items():
            stack.enter_context(_replaced_forward(module, _with_term(own, n)))
        for block in blocks if n > 1 else []:
            stack.callback(block.register_forward_pre_hook(_repeat_inputs(n, n_examples), with_kwargs=True).remove)
        yield n == 1 or bool(blocks)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    # An instance attribute may be there already (PEFT, accelerate): it must come back, and where there was none the
    # class's own must show again, so `del` and not an assignment of `module.forward`, a bound method that would stay.
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _with_term(own: _Factors, n: int) -> Callable[..., Tensor]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = own.base(x)
        whole = out.to(own.right)  # as PEFT does where the base is bfloat16 and the factors float32
        # One product with the shared weight for all members, then small ones by member: adding the terms to the weight
        # would cost a weight per member. In place, so that the activations are not copied.
        low = torch.bmm(x.to(own.right).reshape(n, -1, x.shape[-1]), own.right)
        whole.view(n, -1, out.shape[-1]).baddbmm_(low, own.left)
        return whole.to(out)

    return forward


def _split_blocks(model: nn.Module, modules: set[nn.Module]) -> tuple[list[nn.Module], list[nn.Module]]:
    """Split the blocks into those below the first perturbed one and the rest; both empty if one lies outside them."""
    names = {name: module for name, module in model.named_modules() if module in modules}
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    for prefix in lists:  # parents come before their children
        inside = [name for name in names if name.startswith(prefix + ".")]
        if len(inside) == len(names):
            first = min(int(name[len(prefix) + 1 :].split(".")[0]) for name in inside)
            blocks = list(model.get_submodule(prefix).children())
            return blocks[:first], blocks[first:]
    return [], []


def _repeat_inputs(n: int, n_examples: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """Make a hook that gives a block one copy of every example for each member, where it has one for all."""
    made: dict[int, tuple[Tensor, Tensor]] = {}

    def grown(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(grown(part) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != n_examples:
            return value
        if id(value) not in made:  # masks and positions are the same tensor in every block
            made[id(value)] = (value, value.repeat(n, *[1] * (value.ndim - 1)))
        return made[id(value)][1]

    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return grown(args), {key: grown(value) for key, value in kwargs.items()}

    return hook


def _repeated(batch: Batch, n: int) -> Batch:
    return batch.rows(torch.arange(len(batch), device=batch.input_ids.device).repeat(n))


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
