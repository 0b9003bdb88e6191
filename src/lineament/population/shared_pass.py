"""One forward pass for many members that differ by low-rank terms.

The base product of every layer is shared by all members, each adds its own low-rank term in a batched product, and the
blocks below the first perturbed one are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.population.members import LowRankMembers, Members
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.problem import Batch, Problem
from lineament.vectors.layer_gradients import is_conv1d


@dataclass(frozen=True)
class _Factors:
    """Low-rank terms of n members at one layer: the output gains (x @ right) @ left, member by member.

    right: (n, d_in, r); left: (n, r, d_out), every scale folded in. base: the layer without the term.
    """

    right: Float[Tensor, "n_members d_in rank"]
    left: Float[Tensor, "n_members rank d_out"]
    base: Callable[..., Tensor]


class LowerPart:
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


def shared_logits(
    problem: Problem, batch: Batch, thetas: Float[Tensor, "n_members n_params"]
) -> Float[Tensor, "n_members n_examples n_targets n_vocabulary"]:
    """Compute the logits of an adapter's parameter vectors in one pass that shares every base product.

    Raises:
        InputError: the space is no adapter's, or the adapter is no plain LoRA.
    """
    factors = _adapter_factors(problem, thetas)
    return shared_pass(problem, batch, factors, len(thetas), LowerPart())


def shared_pass(
    problem: Problem, batch: Batch, factors: Mapping[nn.Module, _Factors], n: int, lower: LowerPart
) -> Tensor:
    with _sharing(problem.model, factors, n, len(batch), lower) as expanded:
        logits = problem.logits(batch if expanded else _repeated(batch, n))
    return logits.view(n, len(batch), *logits.shape[1:])


def module_factors(problem: Problem, members: Members, start: int, stop: int) -> dict[nn.Module, _Factors]:
    if isinstance(members, LowRankMembers):
        return _noise_factors(problem, members, start, stop)
    return _adapter_factors(problem, moved(problem, members, start, stop))


def _adapter_factors(problem: Problem, rows: Float[Tensor, "n_members n_params"]) -> dict[nn.Module, _Factors]:
    """Return the terms of an adapter's parameter vectors, layer by layer."""
    if problem.parameters.space.kind != "lora_factors":
        raise InputError(f"members of {problem.parameters.space} have no low rank; they cannot share a forward pass.")
    modules = dict(problem.parameters.module.named_modules())
    factors: dict[nn.Module, _Factors] = {}
    for pair in factor_pairs(problem.parameters):
        module: Any = modules[pair.module]
        _require_plain_lora(module, pair.module)
        a, b = rows[:, pair.a].view(-1, *pair.a_shape), rows[:, pair.b].view(-1, *pair.b_shape)
        factors[module] = _Factors(a.transpose(1, 2), pair.scale * b.transpose(1, 2), module.base_layer)
    return factors


def moved(problem: Problem, members: Members, start: int, stop: int) -> Float[Tensor, "n_members n_params"]:
    """Return theta + delta of some members, (n, n_params), in the model's precision, on its device."""
    theta = problem.parameters.read()
    return theta + members.deltas(start, stop).to(theta)


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


def can_share(problem: Problem) -> bool:
    """Say whether parameter vectors of a problem can share a pass: all of them are factors of plain LoRA layers."""
    space = problem.parameters
    if space.space.kind != "lora_factors":
        return False
    modules, pairs = dict(space.module.named_modules()), factor_pairs(space)
    n_in_factors = sum(part.stop - part.start for pair in pairs for part in (pair.a, pair.b))
    return n_in_factors == space.n_params and all(_why_not_plain(modules[pair.module]) is None for pair in pairs)


def _require_plain_lora(module: nn.Module, name: str) -> None:
    if why := _why_not_plain(module):
        raise InputError(why.format(name=name))


def _why_not_plain(module: Any) -> str | None:
    if any(getattr(module, "use_dora", {}).values()) or getattr(module, "lora_variant", {}):
        return "{name} is no plain LoRA layer (DoRA or another variant); members cannot share its pass."
    if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
        return "the adapter of {name} is merged or disabled; unmerge and enable it first."
    return None


@contextmanager
def _sharing(
    model: nn.Module, factors: Mapping[nn.Module, _Factors], n: int, n_examples: int, lower: LowerPart
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
