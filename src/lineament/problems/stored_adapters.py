"""LoRA adapters as files: what an adapter folder of PEFT holds, checked, and read without a model.

Supported is plain LoRA on linear layers, where the change of a weight is dW = scale * B A and nothing else: any rank,
alpha and choice of modules, rank and alpha patterns, rsLoRA. Whatever else PEFT's format can say is refused with the
reason, before weights are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from lineament.errors import InputError
from lineament.files.folders import mark, require_ours
from lineament.files.reading import read_json
from lineament.files.tensors import load_tensors
from lineament.files.writing import write_bytes
from lineament.parameters import Space, layout_hash
from lineament.problems.adapter_configs import DEFAULT_ALPHA, DEFAULT_RANK, SUPPORTED, what_is_wrong
from lineament.problems.factor_names import PREFIX, peft_names
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Order in which modules stand in their parent, in decoders of transformers: attention before MLP, and inside them.
ORDER = (
    *("transformer", "model", "gpt_neox", "wte", "embed_tokens", "embed_in", "h", "layers"),
    *("self_attn", "attn", "attention", "mixer", "mlp", "feed_forward"),
    *("c_attn", "q_attn", "query_key_value", "qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "dense"),
    *("gate_up_proj", "gate_proj", "up_proj", "down_proj", "c_fc", "c_proj", "fc1", "fc2", "dense_h_to_4h"),
    *("dense_4h_to_h", "lm_head", "embed_out"),
)
# Files in which other tools keep adapters, and keys of MLX's configuration.
OTHER_TOOLS: Mapping[str, str] = {
    "pytorch_lora_weights.safetensors": "diffusers",
    "adapters.safetensors": "MLX",
    "*.gguf": "llama.cpp",
    "lit_model.pth.lora": "LitGPT",
    "*/adapter_config.json": "PEFT, one folder further down",
}
_PLACE = {name: i for i, name in enumerate(ORDER)}
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


class Factors(NamedTuple):
    """One module's change dW = scale * b @ a, with a (rank, d_in) and b (d_out, rank)."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter without its model.

    Attributes:
        names: parameter names as a live `PeftModel` gives them, such as `...q_proj.lora_A.default.weight`.
        tensors: one per name, float32 unless stored in float64.
        scales: module name, as in `FactorPair.module`, -> scale of B A.
        config: the adapter's configuration, as in adapter_config.json.

    The order of names is the live one, in which layers follow their numbers and modules the order in which their parent
    makes them. Files do not keep it; it is made again from `ORDER`. Modules that are not listed there come last in
    their parent, by name: compare `space` with the live one before rows of such an adapter are read as vectors.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    scales: Mapping[str, float]
    config: Mapping[str, Any]

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """Module name -> its factors, in order."""
        pairs = zip(self.names[::2], self.tensors[::2], self.tensors[1::2], strict=True)
        modules = ((name.split(".lora_A.")[0], a, b) for name, a, b in pairs)
        return {module: Factors(a, b, self.scales[module]) for module, a, b in modules}

    @property
    def space(self) -> Space:
        """The space of the factors, equal to `ParameterSpace.trainable(live, "lora_factors").space`."""
        shapes = [(name, tuple(tensor.shape)) for name, tensor in zip(self.names, self.tensors, strict=True)]
        return Space("lora_factors", sum(tensor.numel() for tensor in self.tensors), layout_hash(shapes))

    @property
    def base_model(self) -> str | None:
        """The base model that the configuration names, if it names one."""
        return self.config.get("base_model_name_or_path") or None

    def theta(self) -> Tensor:
        """Return all factors as one vector, (n_params,)."""
        return torch.cat([tensor.reshape(-1) for tensor in self.tensors])


def read_adapter(folder: Path | str) -> StoredAdapter:
    """Read and check an adapter folder of PEFT without a model.

    Raises:
        InputError: no adapter there, an adapter that is no plain LoRA, or weights that do not fit its configuration.
    """
    config, tensors = adapter_config(Path(folder)), adapter_tensors(Path(folder))
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None or tensor.ndim != 2:
            raise InputError(f"{folder} holds {name}, which is no factor of a linear layer. {SUPPORTED}.")
        found.setdefault(match["module"], {})[match["factor"]] = tensor
    names, ordered, scales = [], [], {}
    for module in live_order(found):
        pair = found[module]
        if not all(tensor.numel() for tensor in pair.values()):
            raise InputError(f"{folder} holds factors of {module} without entries.")
        if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise InputError(f"{folder} holds no matching pair of factors for {module}; the file is torn.")
        scales[module] = scale_of(config, module, pair["A"].shape[0], folder)
        names += [f"{module}.lora_{factor}.default.weight" for factor in "AB"]
        ordered += [pair["A"], pair["B"]]
    if not names:
        raise InputError(f"{folder} holds no factors.")
    return StoredAdapter(tuple(names), tuple(ordered), scales, config)


def write_adapter(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write an adapter as a folder that `PeftModel.from_pretrained` and `read_adapter` load.

    Args:
        folder: new, empty, or an adapter that was written by this function.

    Raises:
        InputError: the folder holds something else, which stays as it is.
    """
    require_own_adapter(folder)
    mark(folder, "adapter")
    write_bytes(folder / WEIGHTS, save(dict(tensors), metadata={"format": "pt"}))
    write_bytes(folder / CONFIG, json.dumps(dict(config), indent=1, default=str).encode())


def require_own_adapter(folder: Path) -> None:
    """Raise `InputError` unless a folder is new, empty or holds an adapter that `write_adapter` wrote."""
    require_ours(folder, "adapter", "of the adapter")


def adapter_settings(model: str, adapter: Path, seed: int) -> Settings:
    """Return settings of a language-model problem whose operating point is an adapter folder.

    Raises:
        InputError: the folder holds no plain LoRA adapter.
    """
    read_adapter(adapter)
    changes: dict[str, Any] = {"model.name": model, "model.adapter": str(adapter), "seed": seed}
    return resolve("lm", "quick", [(str(adapter), changes)])


def live_order(modules: Iterable[str]) -> list[str]:
    """Sort module names in the order in which a live model lists them, as far as `ORDER` knows it."""
    return sorted(modules, key=_place)


def renamed(name: str, adapter: str) -> str:
    """Return the name of a factor in a model whose adapter has another name than `default`."""
    return re.sub(r"(\.lora_[AB])\.[^.]+\.weight$", rf"\1.{adapter}.weight", name)


def scale_of(config: Mapping[str, Any], module: str, rank: int, folder: Path | str) -> float:
    """Return the scale that PEFT gives a module's B A; `InputError` where its rank is not the configuration's."""
    key = module.removeprefix(PREFIX)

    def of_module(name: str, default: str) -> float:
        values = config.get(name) or {}
        return float(next((values[pattern] for pattern in values if _fits(pattern, key)), config[default]))

    wanted, alpha = of_module("rank_pattern", "r"), of_module("alpha_pattern", "lora_alpha")
    if wanted != rank:
        raise InputError(f"{folder}: factors of {module} have rank {rank}, but {CONFIG} says {wanted:g}.")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of an adapter folder by PEFT's names, half precision as float32, as PEFT loads them.

    Raises:
        InputError: no safetensors weights there, torn ones, or names of a layout that is not read (`factor_names`).
    """
    file = folder / WEIGHTS
    if not file.exists():
        pickled = (folder / "adapter_model.bin").exists()
        raise InputError(
            f"{folder} holds no {WEIGHTS}; pickled adapters are not loaded."
            + (" Load adapter_model.bin where you trust it and save it again with safe_serialization." * pickled)
        )
    stored = load_tensors(file)
    if whole := [name for name, tensor in stored.items() if not tensor.is_floating_point()]:
        raise InputError(
            f"{file} holds {whole[0]} of type {stored[whole[0]].dtype}; factors are floating-point numbers."
        )
    names = peft_names(stored, str(folder))
    wide = {name: tensor if tensor.dtype == torch.float64 else tensor.float() for name, tensor in stored.items()}
    return {names[name]: tensor for name, tensor in wide.items()}


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of an adapter folder, and check that it can be measured.

    Raises:
        InputError: no such folder or configuration, or an adapter that is no plain LoRA; names every reason.
    """
    file = folder / CONFIG
    if folder.is_file():
        raise InputError(f"{folder} is a file. Give the PEFT folder, which holds {CONFIG} and {WEIGHTS}.")
    if not folder.is_dir():
        raise InputError(f"the adapter folder {folder} does not exist. Give a local PEFT folder; fetch others first.")
    if not file.exists():
        raise InputError(f"{folder} is no PEFT adapter folder: it has no {CONFIG}.{_other_tool(folder)}")
    config = read_json(file)
    if not isinstance(config, dict):
        raise InputError(f"{file} is no JSON object of settings.")
    if wrong := what_is_wrong(config):
        raise InputError(f"{folder} is no plain LoRA adapter: {'; '.join(wrong)}. {SUPPORTED}.")
    return {"r": DEFAULT_RANK, "lora_alpha": DEFAULT_ALPHA, **config}


def _other_tool(folder: Path) -> str:
    """Say whose adapter a folder without PEFT's configuration holds, after a space; empty where that is not known."""
    for pattern, tool in OTHER_TOOLS.items():
        if found := min(folder.glob(pattern), default=None):
            return f" {found.relative_to(folder)} is of {tool}."
    return ""


def _fits(pattern: str, module: str) -> bool:
    """Return whether a key of a rank or alpha pattern is meant for a module: as PEFT reads it, the end of its path."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _place(module: str) -> list[tuple[int, int, str]]:
    """Return a module name's sorting key: numbers as numbers, names in the order of `ORDER`, others last."""
    parts = module.removeprefix(PREFIX).split(".")
    return [(0, int(part), "") if part.isdigit() else (1, _PLACE.get(part, len(ORDER)), part) for part in parts]
