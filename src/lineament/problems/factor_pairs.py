"""Where the factors of a LoRA adapter lie in a flat vector; without PEFT, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lineament.errors import InputError
from lineament.parameters import ParameterSpace


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
        if ".lora_A." not in name:
            continue
        b, b_parameter = where[name.replace(".lora_A.", ".lora_B.")]
        owner = name.split(".lora_A.")[0]
        scaling: Any = modules[owner].scaling
        a_shape, b_shape = tuple(a_parameter.shape), tuple(b_parameter.shape)
        pairs.append(FactorPair(owner, a, b, a_shape, b_shape, float(scaling["default"])))  # type: ignore[arg-type]
    if not pairs:
        raise InputError(f"{space.space} holds no LoRA factors.")
    return pairs
