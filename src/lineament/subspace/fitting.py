"""Which optimizers can train coefficients in place of tensors, and which of them look at the weights while they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import ParameterSpace

ONE_GROUP = (
    "one plane of the whole space has one set of coefficients and so one step size, and the optimizer has "
    "{n} parameter groups. Give it one group, or take MatrixPlanes, which keep a group for each tensor."
)
ESCAPES = (
    "the {kind} {how}, so that it would step the weights themselves and leave the plane. Make the SubspaceOptimizer of "
    "the innermost optimizer{then}."
)
# Without weight decay, their steps do not depend on the values that they step.
BLIND = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)


def require_fitting(optimizer: torch.optim.Optimizer, space: ParameterSpace, whole: bool) -> None:
    """Raise `InputError` for an optimizer that cannot train coefficients in place of the space's tensors.

    Args:
        whole: whether one plane of the whole space is trained, and not a plane for each matrix.
    """
    _require_same_tensors(optimizer, space)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("L-BFGS evaluates losses many times in a step, which planes cannot follow. Take another.")
    if any(optimizer.state.values()):
        raise InputError(
            f"the {type(optimizer).__name__} has a state for the real parameters already, which coefficients cannot "
            "take over. Give one that has not stepped, of a class that makes its state in its first step."
        )
    _require_no_way_out(optimizer, space)
    if whole and len(optimizer.param_groups) != 1:
        raise InputError(ONE_GROUP.format(n=len(optimizer.param_groups)))
    if whole and any(kind.__name__ == "Muon" for kind in type(optimizer).__mro__):
        raise InputError(
            "Muon steps matrices, and the coefficients of one plane of the whole space are a list of numbers. Take "
            "another optimizer, or MatrixPlanes."
        )


def looks_at_weights(kind: type[torch.optim.Optimizer], groups: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether steps may depend on the weights: by weight decay, or by what an unknown class does."""
    return kind not in BLIND or any(bool(group.get("weight_decay", 0)) for group in groups)


def _require_same_tensors(optimizer: torch.optim.Optimizer, space: ParameterSpace) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p) for p in space.tensors}
    missing = [name for name, p in zip(space.names, space.tensors, strict=True) if id(p) not in held]
    if missing or held - wanted:
        raise InputError(
            "the optimizer and the space must have the same tensors: the optimizer lacks "
            f"{len(missing)} of the space's {len(space.names)} ({', '.join(missing[:3]) or 'none'}) and holds "
            f"{len(held - wanted)} others. Make the optimizer of `space.tensors`."
        )


def _require_no_way_out(optimizer: torch.optim.Optimizer, space: ParameterSpace) -> None:
    """Refuse what holds the real tensors elsewhere than in its groups: a wrapper, or a list of its own."""
    kind, tensors = type(optimizer).__name__, {id(p) for p in space.tensors}
    if getattr(optimizer.step, "_wrapped_by_lr_sched", False):
        raise InputError("a scheduler was made of the optimizer itself; make it of the SubspaceOptimizer instead.")
    if "step" in vars(optimizer):
        raise InputError(ESCAPES.format(kind=kind, how="has a `step` that was put on it", then=", as it was made"))
    for key, value in vars(optimizer).items():
        if key in ("param_groups", "state"):
            continue
        for held in _inside(value):
            if isinstance(held, torch.optim.Optimizer):
                how = f"holds another optimizer, the {type(held).__name__} in `{key}`"
                raise InputError(ESCAPES.format(kind=kind, how=how, then=", and wrap that if it can be wrapped"))
            if isinstance(held, Tensor) and id(held) in tensors:
                raise InputError(ESCAPES.format(kind=kind, how=f"keeps tensors of the space in `{key}`", then=""))


def _inside(value: Any, depth: int = 3) -> Iterator[Any]:
    """Yield a value, and what lists, tuples, sets and dicts in it hold."""
    yield value
    if depth and isinstance(value, dict | list | tuple | set):
        for held in value.values() if isinstance(value, dict) else value:
            yield from _inside(held, depth - 1)
