"""Where the factors of a LoRA adapter lie in a flat vector; without PEFT, which takes seconds to import."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace

# A factor as PEFT names it; an adapter has whatever name it was added under.
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>[^.]+)\.weight")
# Largest relative difference of PEFT's own dW from scale B A that rounding explains.
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_PRECISION = 3e-2
N_NAMES_SHOWN = 2


@dataclass(frozen=True)
class FactorPair:
    """Where one adapted weight's factors lie in the flat vector: dW = scale * B @ A.

    Attributes:
        a, b: slices of theta; `a_shape` is (rank, d_in), `b_shape` is (d_out, rank).
    """

    module: str
    a: slice
    b: slice
    a_shape: tuple[int, int]
    b_shape: tuple[int, int]
    scale: float


def factor_pairs(space: ParameterSpace) -> list[FactorPair]:
    """Return the factor pairs of a `lora_factors` space, from the names and scalings PEFT gives them."""
    where = {name: (part, p) for name, part, p in zip(space.names, space.slices, space.tensors, strict=True)}
    modules = dict(space.module.named_modules())
    pairs = []
    for name, (a, a_parameter) in where.items():
        found = FACTOR.fullmatch(name)
        if found is None or found["factor"] != "A":
            continue
        b, b_parameter = where[partner(name)]
        scaling: Any = modules[found["module"]].scaling
        a_shape, b_shape = tuple(a_parameter.shape), tuple(b_parameter.shape)
        scale = float(scaling[found["adapter"]])
        pairs.append(FactorPair(found["module"], a, b, a_shape, b_shape, scale))  # type: ignore[arg-type]
    if not pairs:
        raise InputError(f"{space.space} holds no LoRA factors.")
    return pairs


def partner(name: str) -> str:
    """Return the name of the B that belongs to an A."""
    return name.replace(".lora_A.", ".lora_B.")


def why_no_pairs(module: nn.Module, names: Sequence[str]) -> str | None:
    """Say why parameters are no factors of changes dW = scale B A of single weights; None if they are.

    PEFT's own `get_delta_weight` is asked once for every kind of adapted layer: layers of experts, for one, order the
    columns of their factors differently, so that B A is of a matrix that exists nowhere.

    Args:
        module: the model, whose factors are left as they were. names: the trainable parameters.
    """
    factors = {name: FACTOR.fullmatch(name) for name in names}
    if others := [name for name, found in factors.items() if found is None]:
        return f"{_some(others)} {'are' if len(others) > 1 else 'is'} trained too, and no factor of a linear layer"
    named = {name: found for name, found in factors.items() if found is not None}
    if lonely := [name for name in named if _other_factor(name) not in named]:
        return f"{_some(lonely)} {'are' if len(lonely) > 1 else 'is'} trained without the other factor"
    adapters: dict[str, set[str]] = {}
    for found in named.values():
        adapters.setdefault(found["module"], set()).add(found["adapter"])
    if twice := [owner for owner, held in adapters.items() if len(held) > 1]:
        return f"{_some(twice)} has several adapters that are trained together"
    return _first_difference(module, ((owner, held.pop()) for owner, held in adapters.items()))


def _first_difference(module: nn.Module, adapted: Iterable[tuple[str, str]]) -> str | None:
    modules: Mapping[str, Any] = dict(module.named_modules())
    compared = set()
    for owner, adapter in adapted:
        layer = modules[owner]
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if a.ndim != 2 or b.ndim != 2:
            return f"the factors of {owner} have shapes {tuple(a.shape)} and {tuple(b.shape)}, which are no matrices"
        if adapter in getattr(layer, "lora_variant", {}):
            return f"{owner} is adapted by {type(layer.lora_variant[adapter]).__name__}, which adds more than B A"
        kind = (type(layer), tuple(a.shape), tuple(b.shape), getattr(layer, "fan_in_fan_out", None))
        if kind not in compared and not _agrees(layer, adapter, a, b):
            return f"PEFT's own change of {owner} ({type(layer).__name__}) is not scale B A of its factors"
        compared.add(kind)
    return None


@torch.no_grad()
def _agrees(layer: Any, adapter: str, a: Tensor, b: Tensor) -> bool:
    """Compare PEFT's dW with scale B A, at random factors: those of a fresh adapter are zero."""
    if not hasattr(layer, "get_delta_weight"):
        return True  # no layer of PEFT
    saved = a.detach().clone(), b.detach().clone()
    generator = torch.Generator().manual_seed(0)
    try:
        for factor in (a, b):
            factor.copy_(torch.randn(factor.shape, generator=generator))
        own = layer.get_delta_weight(adapter)
        wanted = float(layer.scaling[adapter]) * (b.double() @ a.double())
    finally:
        a.copy_(saved[0])
        b.copy_(saved[1])
    allowed = AGREEMENT.get(own.dtype, HALF_PRECISION) if own.dtype == a.dtype else HALF_PRECISION
    turned = (own, own.T) if own.ndim == 2 else ()
    differences = [float((one.double() - wanted).norm() / wanted.norm()) for one in turned if one.shape == wanted.shape]
    return min(differences, default=1.0) <= allowed


def _other_factor(name: str) -> str:
    return partner(name) if ".lora_A." in name else name.replace(".lora_B.", ".lora_A.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - N_NAMES_SHOWN} more" if len(names) > N_NAMES_SHOWN else ""
    return f"{', '.join(names[:N_NAMES_SHOWN])}{more}"
