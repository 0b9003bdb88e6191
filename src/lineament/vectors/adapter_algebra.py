"""Sums, lengths and angles of LoRA adapters as changes of weights, dW = scale * B A, from their factors alone.

Adding factors is not adding adapters: (B1 + B2)(A1 + A2) has the cross terms B1 A2 + B2 A1, and factors may be changed
to (R A, B R^-1) without any effect. Here sums are exact, by concatenation: [w1 s1 B1, w2 s2 B2] [A1; A2], of rank
r1 + r2 and scale 1. No matrix of the size of a weight is ever formed: cost and memory are those of (d, rank) matrices.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.errors import InputError
from lineament.problems.factor_names import PREFIX
from lineament.problems.stored_adapters import Factors, StoredAdapter, live_order, write_adapter


def combine_adapters(adapters: Sequence[StoredAdapter], weights: Sequence[float]) -> StoredAdapter:
    """Add adapters with weights: dW is the weighted sum of theirs, module by module; ranks add up.

    Args:
        adapters: of the same base model; a module that some of them leave alone gets the others' part. One of weight 0
            is left out, if another is not.

    Raises:
        InputError: no adapter, not one weight for each, or modules whose weights differ in shape.
    """
    if not adapters or len(adapters) != len(weights):
        raise InputError(f"{len(adapters)} adapters and {len(weights)} weights; give one weight for each of them.")
    parts: dict[str, list[Factors]] = {}
    used = [pair for pair in zip(adapters, weights, strict=True) if pair[1]] or [(adapters[0], weights[0])]
    for adapter, weight in used:
        for module, own in adapter.factors.items():
            parts.setdefault(module, []).append(own._replace(scale=weight * own.scale))
    factors = {module: _concatenated(module, parts[module]) for module in live_order(parts)}
    return adapter_of(factors, adapters[0].config)


def scale_adapter(adapter: StoredAdapter, factor: float) -> StoredAdapter:
    """Multiply an adapter's dW by `factor`; the rank stays."""
    return combine_adapters([adapter], [factor])


def subtract_adapters(first: StoredAdapter, second: StoredAdapter) -> StoredAdapter:
    """Subtract the second adapter's dW from the first's."""
    return combine_adapters([first, second], [1.0, -1.0])


def adapter_inner(first: StoredAdapter, second: StoredAdapter) -> float:
    """Return <dW1, dW2> over all modules: sum of s1 s2 tr(B1^T B2 A2 A1^T); a module that only one adapts adds 0.

    Raises:
        InputError: modules whose weights differ in shape.
    """
    total = 0.0
    for module, own in first.factors.items():
        if other := second.factors.get(module):
            total += module_inner(module, own, other)
    return total


def module_inner(module: str, first: Factors, second: Factors) -> float:
    """Return <dW1, dW2> of one module, s1 s2 tr(B1^T B2 A2 A1^T).

    Raises:
        InputError: the weights differ in shape; names the module.
    """
    require_one_shape(module, first, second)
    between_a = first.a.double() @ second.a.double().T
    between_b = first.b.double().T @ second.b.double()
    return first.scale * second.scale * float((between_a * between_b).sum())


def adapter_norm(adapter: StoredAdapter) -> float:
    """Return the Frobenius norm of dW over all modules."""
    return math.sqrt(max(0.0, adapter_inner(adapter, adapter)))


def adapter_cosine(first: StoredAdapter, second: StoredAdapter) -> float:
    """Return the cosine of two adapters' dW, whatever factors give them; nan where one changes nothing."""
    length = adapter_norm(first) * adapter_norm(second)
    return adapter_inner(first, second) / length if length > 0 else math.nan


def adapter_singular_values(adapter: StoredAdapter) -> dict[str, Float64[Tensor, " n_values"]]:
    """Map each module to the singular values of its dW, largest first, (min(rank, d_in, d_out),) float64.

    With B = Q_B R_B and A^T = Q_A R_A they are those of scale * R_B R_A^T, a matrix of rank by rank.
    """
    singular_values = {}
    for module, (a, b, scale) in adapter.factors.items():
        right, left = torch.linalg.qr(a.double().T).R, torch.linalg.qr(b.double()).R
        singular_values[module] = torch.linalg.svdvals(scale * left @ right.T)
    return singular_values


def save_stored_adapter(adapter: StoredAdapter, folder: Path | str) -> None:
    """Write an adapter as a folder that `PeftModel.from_pretrained` and `read_adapter` load.

    Raises:
        InputError: the folder holds something else than an adapter that was written here before.
    """
    tensors = {
        name.replace(".default.weight", ".weight"): tensor.contiguous()
        for name, tensor in zip(adapter.names, adapter.tensors, strict=True)
    }
    write_adapter(Path(folder), tensors, adapter.config)


def _concatenated(module: str, parts: Sequence[Factors]) -> Factors:
    for part in parts[1:]:
        require_one_shape(module, parts[0], part)
    dtype = torch.float64 if any(part.a.dtype == torch.float64 for part in parts) else torch.float32
    a = torch.cat([part.a.double() for part in parts])
    b = torch.cat([part.scale * part.b.double() for part in parts], dim=1)
    return Factors(a.to(dtype), b.to(dtype), 1.0)


def require_one_shape(module: str, first: Factors, second: Factors) -> None:
    """Raise `InputError` unless both change a weight of one shape; names the module."""
    shapes = [(factors.b.shape[0], factors.a.shape[1]) for factors in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{module} has shape {shapes[0]} in one adapter and {shapes[1]} in another: their base models differ. "
            "Give adapters of one base model."
        )


# What a new adapter's configuration has from the one that it was made of.
KEPT = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "auto_mapping")


def adapter_of(factors: Mapping[str, Factors], like: Mapping[str, Any]) -> StoredAdapter:
    """Make an adapter of factors of scale 1, by module as `StoredAdapter` has them, and its configuration.

    Args:
        like: the configuration whose base model and task are kept.
    """
    names = [f"{module}.lora_{factor}.default.weight" for module in factors for factor in "AB"]
    tensors = [tensor for own in factors.values() for tensor in (own.a, own.b)]
    ranks = {module.removeprefix(PREFIX): len(own.a) for module, own in factors.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # PEFT takes a path for the end of one: of "layers.1.q" and "encoder.layers.1.q" the first means both.
    tails = any(other.endswith(f".{module}") for module in ranks for other in ranks)
    start = "^" if tails else ""
    other = {start + re.escape(module): rank for module, rank in ranks.items() if rank != usual}
    kept = {key: like.get(key) for key in KEPT}
    config = {
        **{key: value for key, value in kept.items() if value is not None},
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,  # over the rank it is the scale, 1
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": "|".join(map(re.escape, ranks)) if tails else list(ranks),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return StoredAdapter(tuple(names), tuple(tensors), dict.fromkeys(factors, 1.0), config)
