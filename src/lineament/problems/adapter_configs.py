"""What adapter_config.json may say: a key that makes an adapter no dW = scale B A on a fixed base has its reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from lineament.files.reading import shown

# PEFT's defaults, for configurations that leave them out.
DEFAULT_RANK, DEFAULT_ALPHA = 8, 8
# Ranks and alphas above it are slips of the pen, and infinity.
LARGEST = 2**53
SUPPORTED = "Supported is plain LoRA on linear layers: any rank, alpha and modules, rank_pattern, alpha_pattern, rsLoRA"
# Key of adapter_config.json -> why an adapter that sets it is no dW = scale B A on a fixed base.
REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA rescales every row of W + B A by a trained magnitude, so its change is no B A",
    "modules_to_save": "whole modules were trained beside the factors",
    "trainable_token_indices": "rows of the embedding were trained beside the factors",
    "layer_replication": "layers of the base are repeated, which makes another model of it",
    "lora_bias": "a trained bias is added beside B A",
    "alora_invocation_tokens": "aLoRA is switched on by tokens of the text, so its change depends on the input",
    "target_parameters": "factors of bare parameters, as of expert layers, are not read",
    "use_qalora": "QALoRA pools the inputs of quantised layers",
    "velora_config": "VeLoRA compresses activations, so its gradients are not those of the loss",
    "monteclora_config": "MonteCLoRA draws its factors at random",
    "kasa_config": "KaSA changes the base and puts singular values between B and A",
    "use_bdlora": "block-diagonal factors are not read",
    "arrow_config": "Arrow routes between adapters by the input",
    "megatron_config": "Megatron's layers are spread over devices",
    "ensure_weight_tying": "adapters of tied embeddings share factors",
}
# Keys that plain LoRA may set. Of any other PEFT is asked whether it knows it; importing PEFT takes seconds.
PLAIN = {
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights"),
    *("megatron_core", "qalora_group_size"),
}
# Initialisations that change the base's weights, so that the factors are of another base, or that freeze factors.
OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
OF_MLX = {"fine_tune_type", "lora_parameters", "lora_layers"}


def what_is_wrong(config: Mapping[str, Any]) -> list[str]:
    """Say why an adapter of this configuration cannot be measured, one reason per key; empty if it can."""
    kind = config.get("peft_type")
    if kind is None and OF_MLX & config.keys():
        return [f"it is an adapter of MLX ({', '.join(sorted(OF_MLX & config.keys()))}), whose factors are transposed"]
    if kind != "LORA":
        return [f"peft_type is {_short(kind)}; other methods have no factors B A"]
    wrong = [f"{key} = {_short(config[key])} ({why})" for key, why in REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        wrong.append(f"bias = {_short(config['bias'])} (biases of the base were trained beside the factors)")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(OTHER_BASE):
        wrong.append(
            f"init_lora_weights = {_short(start)} (it changed the base's weights; let PEFT save the adapter with "
            "path_initial_model_for_weight_conversion)"
        )
    rare = {key: value for key, value in config.items() if value and key not in PLAIN}
    return wrong + _unknown_keys(rare) + (_wrong_maps(config) or _wrong_numbers(config) + _wrong_patterns(config))


def _unknown_keys(rare: Mapping[str, Any]) -> list[str]:
    """Name the keys that PEFT would ignore; PEFT is imported where there is a key to ask about."""
    if not rare:
        return []
    import peft

    return [
        f"{key} = {_short(value)} (PEFT {peft.__version__} does not know this key and would ignore it)"
        for key, value in rare.items()
        if key not in {field.name for field in dataclasses.fields(peft.LoraConfig)}
    ]


def _wrong_maps(config: Mapping[str, Any]) -> list[str]:
    given = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    return [
        f"{key} = {_short(value)}; it must be an object of patterns and numbers"
        for key, value in given.items()
        if not isinstance(value, dict)
    ]


def _wrong_patterns(config: Mapping[str, Any]) -> list[str]:
    """Find regular expressions that are none: keys of both patterns, and a string of target modules."""
    targets = config.get("target_modules")
    patterns = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    wrong = []
    for pattern in [*patterns, *([targets] if isinstance(targets, str) else [])]:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            wrong.append(f"{_short(pattern)} is no regular expression: {error}")
    return wrong


def _wrong_numbers(config: Mapping[str, Any]) -> list[str]:
    ranks = {"r": config.get("r", DEFAULT_RANK), **(config.get("rank_pattern") or {})}
    alphas = {"lora_alpha": config.get("lora_alpha", DEFAULT_ALPHA), **(config.get("alpha_pattern") or {})}
    wrong = [
        f"rank {key} = {_short(value)}" for key, value in ranks.items() if not (_number(value, int) and value >= 1)
    ]
    return wrong + [
        f"alpha {key} = {_short(value)}" for key, value in alphas.items() if not _number(value, int | float)
    ]


def _number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= LARGEST


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
