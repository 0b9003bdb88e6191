"""States of training in planes: whether one belongs to the optimizer that it is to go on in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lineament.errors import InputError


def require_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `InputError`, saying what differs, unless a state can be loaded in place of `own`.

    Args:
        own: the present state of the optimizer that is to go on; of the planes, which check themselves, the kind.
    """
    if "projection" not in state:
        raise InputError("this is no state of a SubspaceOptimizer; load that of one made in the same way.")
    missing = [key for key in own if key not in state]
    if missing:
        raise InputError(f"the state lacks {', '.join(missing)}. Give a whole state, made by this version.")
    for key, what in (("optimizer", "the optimizer is a"), ("space", "what is trained is")):
        if state[key] != own[key]:
            raise InputError(f"{what} {own[key]}, and in the state {state[key]}. Make both in the same way.")
    if state["dtypes"] != own["dtypes"]:
        i = next(i for i, (one, two) in enumerate(zip(state["dtypes"], own["dtypes"], strict=True)) if one != two)
        raise InputError(
            f"the state is of a model whose tensor {i} is {state['dtypes'][i]}, and here it is {own['dtypes'][i]}. "
            "Cast the model before the optimizer is made."
        )
    kinds = [body["projection"]["kind"] for body in (state, own)]
    if kinds[0] != kinds[1]:
        raise InputError(f"the state is one of planes of {kinds[0]}, not of {kinds[1]}.")
    for key in ("slots", "moved"):
        shapes, wanted = (_shapes(body[key]) for body in (state, own))
        if shapes != wanted:
            raise InputError(f"the state has coefficients of shapes {shapes[:3]}, and this optimizer {wanted[:3]}.")
    if {i: wide.shape for i, wide in state["masters"].items()} != {i: w.shape for i, w in own["masters"].items()}:
        raise InputError("the state's wide copies of the weights are of other tensors. Give the state of this model.")
    for one, two in ((state, own), (state["inner"], own["inner"])):
        groups, wanted_groups = _sizes(one), _sizes(two)
        if groups != wanted_groups:
            raise InputError(
                f"the state has parameter groups of {groups} tensors, and this optimizer of {wanted_groups}. Make it "
                "with the same groups."
            )


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def _sizes(state: Mapping[str, Any]) -> list[int]:
    """Numbers of tensors of the groups."""
    return [len(group["params"]) for group in state["param_groups"]]
