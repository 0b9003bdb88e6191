"""LoRA through PEFT, on any module: attach one adapter, read its factors, write it as an ordinary PEFT folder."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.adapter_configs import SUPPORTED
from lineament.problems.stored_adapters import WEIGHTS, adapter_config, adapter_tensors, write_adapter
from lineament.settings.model import LoraSettings

HEADS = {"lm_head", "head", "embed_out"}
USUAL_TARGETS = ("q_proj", "v_proj")
# PEFT refuses an adapter on these: the fused kernels of state-space models read their weights past it.
STATE_SPACE_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
REFUSED_IN_STATE_SPACES = {"out_proj", "conv1d"}


def attach_lora(model: nn.Module, settings: LoraSettings, seed: int, default_targets: Sequence[str]) -> PeftModel:
    """Freeze `model` and attach a fresh adapter (B = 0) whose A depends on `seed` alone.

    Raises:
        InputError: none of the named modules exists, with names that do, or PEFT refuses one.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_linear_targets(model, settings.targets or default_targets),
        lora_dropout=0.0,
        bias="none",
    )
    try:
        return _attached(model, config, seed)
    except ValueError as error:
        raise InputError(
            f"PEFT attaches no adapter to {type(model).__name__}: {error} Use --set lora.targets=..."
        ) from None


def attach_stored(model: nn.Module, folder: Path, seed: int) -> PeftModel:
    """Freeze `model` and attach an adapter folder's adapter as it would be fresh: B = 0, and A from `seed` alone.

    Its ranks, alphas and modules are those of the folder's configuration; its weights are read by `load_adapter`.

    Raises:
        InputError: no plain LoRA adapter, or one whose modules this model has not.
    """
    body = adapter_config(folder)
    known = {field.name for field in dataclasses.fields(LoraConfig)}
    config = LoraConfig(**{key: value for key, value in body.items() if key in known and key != "runtime_config"})
    config.inference_mode = False
    config.base_model_name_or_path = None  # PEFT puts this model's there, and would warn of the other
    config.init_lora_weights = config.init_lora_weights if config.init_lora_weights == "gaussian" else True
    try:
        adapted = _attached(model, config, seed)
    except ValueError as error:  # PEFT found no module to adapt
        raise InputError(f"{folder} does not fit {type(model).__name__}: {error}. {_base_of(body)}") from None
    other = [name for name, m in adapted.named_modules() if isinstance(m, LoraLayer) and not isinstance(m, LoraLinear)]
    if other:
        raise InputError(f"{folder} adapts {other[0]}, which is no linear layer. {SUPPORTED}.")
    return adapted


def base_name(folder: Path) -> str | None:
    """Return the base model that an adapter folder says it was trained on."""
    return adapter_config(folder).get("base_model_name_or_path")


def usual_targets(model: nn.Module) -> Sequence[str]:
    """Return the modules that get an adapter unless the user names some.

    q_proj and v_proj where the model has both; otherwise those of PEFT's own table for its architecture (c_attn in
    GPT-2, query_key_value in GPT-NeoX); otherwise every linear layer but the output head.
    """
    names = linear_names(model)
    if set(USUAL_TARGETS) <= set(names):
        return USUAL_TARGETS
    architecture = getattr(getattr(model, "config", None), "model_type", "")
    listed = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(architecture, ())
    if isinstance(listed, str):
        return [n for n, m in model.named_modules() if re.fullmatch(listed, n) and _can_adapt(m)] or names
    return [name for name in listed if name in names] or names


def adapted_names(adapted: PeftModel) -> tuple[str, ...]:
    """Return the last names of the modules that have an adapter, each once, in the model's order."""
    return tuple(dict.fromkeys(n.rsplit(".", 1)[-1] for n, m in adapted.named_modules() if isinstance(m, LoraLayer)))


def _linear_targets(model: nn.Module, targets: Sequence[str]) -> list[str] | str:
    """Return targets for PEFT; where another kind of module shares a name, a pattern of the linear ones' names.

    PEFT would fail later on the other module, and takes a full name for the end of longer ones.

    Raises:
        InputError: a name that no linear module has; the message lists those that do.
    """
    modules = dict(model.named_modules())
    matched = {t: [name for name in modules if name == t or name.endswith(f".{t}")] for t in targets}
    linear = {t: [name for name in names if _can_adapt(modules[name])] for t, names in matched.items()}
    missing = [target for target, names in linear.items() if not names]
    if missing:
        suffixes = {name.rsplit(".", 1)[-1] for name, module in modules.items() if _can_adapt(module)}
        raise InputError(
            f"lora.targets names {missing}, but the model has no such linear module. "
            f"It has: {', '.join(sorted(suffixes))}. Use --set lora.targets=..."
        )
    if linear == matched:
        return list(targets)
    return "|".join(re.escape(name) for names in linear.values() for name in names)


def _attached(model: nn.Module, config: LoraConfig, seed: int) -> PeftModel:
    # PEFT draws A from the global generator: the seed is set before the adapter is made, and given back after.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # A deprecation inside transformers that PEFT runs into, and a flag that PEFT sets right by itself.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
        adapted = get_peft_model(model, config)
    adapted.eval()
    return adapted


def linear_names(model: nn.Module) -> list[str]:
    """Return every module that can take an adapter but the output head, by last name."""
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _can_adapt(module)}
    architecture = getattr(getattr(model, "config", None), "model_type", "")
    refused = REFUSED_IN_STATE_SPACES if architecture in STATE_SPACE_TYPES else set()
    return sorted(names - HEADS - _head_name(model) - refused)


def _head_name(model: nn.Module) -> set[str]:
    """Return the last name of a transformers model's output head, whatever it is called."""
    getter: Any = getattr(model, "get_output_embeddings", None)
    head = getter() if getter else None
    return {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if head is not None and module is head}


def save_adapter(space: ParameterSpace, theta: Tensor, folder: Path) -> None:
    """Write the adapter at theta as a PEFT folder that `PeftModel.from_pretrained` loads.

    Raises:
        InputError: the folder holds something else than an adapter that was written here before.
    """
    adapted = space.module
    if not isinstance(adapted, PeftModel):
        raise InputError("only a LoRA run has adapters to save.")
    with space.temporarily(theta):
        # PEFT would else look on the hub whether the vocabulary was resized.
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        tensors = {k: v.detach().contiguous().cpu().clone() for k, v in state.items()}  # theta is undone below
    config = adapted.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    write_adapter(folder, tensors, plain)


def load_adapter(space: ParameterSpace, folder: Path) -> Tensor:
    """Read theta (n_params,) from a PEFT adapter folder for a space whose adapter has the same shape.

    Raises:
        InputError: no safetensors weights there, or tensors that this model's adapter has not.
    """
    file, stored = folder / WEIGHTS, adapter_tensors(folder)
    tensors = []
    for name, parameter in zip(space.names, space.tensors, strict=True):
        found = stored.pop(name.replace(".default.weight", ".weight"), None)
        if found is None or found.shape != parameter.shape:
            given = "none" if found is None else f"one of shape {tuple(found.shape)}"
            raise InputError(
                f"{file} has {given} for {name}, which is {tuple(parameter.shape)} in this model. "
                f"{_base_of(adapter_config(folder))}"
            )
        tensors.append(found.to(parameter))
    if stored:
        raise InputError(
            f"{file} holds tensors that this model's adapter lacks: {sorted(stored)[:3]}. "
            f"{_base_of(adapter_config(folder))}"
        )
    return space.flatten(tensors)


def _base_of(config: Mapping[str, Any]) -> str:
    base = config.get("base_model_name_or_path")
    return f"The adapter says it was trained on {base!r}." if base else "The adapter does not say on which model."


def _can_adapt(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
