"""LoRA through PEFT, on any module: attach one adapter, read its factors, write it as an ordinary PEFT folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.records import write_bytes
from lineament.settings import LoraSettings

HEADS = {"lm_head", "head", "embed_out"}


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


def attach_lora(model: nn.Module, settings: LoraSettings, seed: int, default_targets: Sequence[str]) -> PeftModel:
    """Freeze `model` and attach a fresh adapter (B = 0) whose A depends on `seed` alone.

    Raises:
        InputError: none of the named modules exists; the message lists names that do.
    """
    targets = settings.targets or default_targets
    suffixes = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _can_adapt(module)}
    missing = [name for name in targets if name not in suffixes]
    if missing:
        raise InputError(
            f"lora.targets names {missing}, but the model has no such linear module. "
            f"It has: {', '.join(sorted(suffixes))}. Use --set lora.targets=..."
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(targets),
        lora_dropout=0.0,
        bias="none",
    )
    # PEFT draws A from the global generator: the seed is set before the adapter is made, and given back after.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.eval()
    return adapted


def linear_names(model: nn.Module) -> list[str]:
    """Every module that can take an adapter but the output head, by last name."""
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _can_adapt(module)}
    return sorted(names - HEADS)


def factor_pairs(space: ParameterSpace) -> list[FactorPair]:
    """The factor pairs of a `lora_factors` space, from the names and scalings PEFT gives them."""
    where = {name: (part, p) for name, part, p in zip(space.names, space.slices, space.parameters, strict=True)}
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


def save_adapter(space: ParameterSpace, theta: Tensor, folder: Path) -> None:
    """Write the adapter at theta as a PEFT folder that `PeftModel.from_pretrained` loads."""
    adapted = space.module
    if not isinstance(adapted, PeftModel):
        raise InputError("only a LoRA run has adapters to save.")
    with space.temporarily(theta):
        tensors = {k: v.contiguous().cpu() for k, v in get_peft_model_state_dict(adapted).items()}
        content = save(tensors, metadata={"format": "pt"})
    config = adapted.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    write_bytes(folder / "adapter_model.safetensors", content)
    write_bytes(folder / "adapter_config.json", json.dumps(plain, indent=1, default=str).encode())


def load_adapter(space: ParameterSpace, folder: Path) -> Tensor:
    """theta (n_params,) of a PEFT adapter folder for a space whose adapter has the same shape.

    Raises:
        InputError: no safetensors weights there, or tensors that this model's adapter has not.
    """
    file = folder / "adapter_model.safetensors"
    if not file.exists():
        raise InputError(f"{folder} holds no adapter_model.safetensors; pickled adapters are not loaded.")
    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise InputError(f"{file} cannot be read: {error}.") from None
    tensors = []
    for name, parameter in zip(space.names, space.parameters, strict=True):
        found = stored.pop(name.replace(".default", ""), None)
        if found is None or found.shape != parameter.shape:
            given = "none" if found is None else f"one of shape {tuple(found.shape)}"
            raise InputError(f"{file} has {given} for {name}, which is {tuple(parameter.shape)} in this model.")
        tensors.append(found.to(parameter.dtype))
    if stored:
        raise InputError(f"{file} holds tensors that this model's adapter lacks: {sorted(stored)[:3]}.")
    return space.flatten(tensors)


def _can_adapt(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
