"""Names of LoRA factors as PEFT and other tools write them, made those of PEFT, or refused with the tool named.

PEFT saves `base_model.model.<module>.lora_A.weight`. A state dict that was saved as it stood has the adapter's name in
it (`lora_A.default.weight`); compiled, sharded or checkpointed models add a part to the path (`_orig_mod.`); some tools
leave the prefix out. All of these say which module is meant. Names that do not are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lineament.errors import InputError

PREFIX = "base_model.model."
# Parts of a path that wrappers add: torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What a name holds -> who writes it, and why it is no factor of PEFT's plain LoRA; the first that fits is said.
FOREIGN: tuple[tuple[str, str], ...] = (
    (r"\.lora_(down|up)\.", "kohya's and other diffusion trainers' names, with alphas as tensors"),
    (r"\.alpha$", "kohya's and other diffusion trainers' names, with alphas as tensors"),
    (r"\.lora\.(down|up)\.|_lora\.(down|up)\.|lora_linear_layer", "an old layout of diffusers"),
    (r"\.lora_[ab]$", "MLX's layout, whose factors are transposed"),
    (r"^blk\.\d+\.", "llama.cpp's names"),
    (r"lora_magnitude_vector", "DoRA rescales every row of W + B A by a trained magnitude, so its change is no B A"),
    (r"lora_embedding_[AB]", "an adapter of an embedding, which is no linear layer"),
    (r"\.modules_to_save\.", "whole modules were trained beside the factors"),
    (r"\.base_layer\.", "the weights of the base model were saved beside the factors"),
    (r"\.(hada_|lokr_|oft_|vera_|boft_|lora_mid)", "a method other than LoRA"),
    (r"\.lora_[AB](\.[^.]+)?\.bias$", "a trained bias is added beside B A"),
)
REMEDY = "Save the adapter with PEFT's save_pretrained, or convert it to PEFT's names first."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")


def peft_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Map each name to PEFT's own, `base_model.model.<module>.lora_A.weight`; names that are no factors stay.

    Args:
        where: the folder, for errors.

    Raises:
        InputError: a layout of another tool, factors of several adapters, or two names for one factor.
    """
    found: dict[str, str] = {}
    adapters: set[str] = set()
    for name in names:
        if reason := foreign_layout(name):
            raise InputError(f"{where} holds {name}, which is no factor of a linear layer: {reason}. {REMEDY}")
        match = _FACTOR.fullmatch(name)
        if match is None:
            found[name] = name
            continue
        adapters.add(match["adapter"] or "")
        found[name] = f"{PREFIX}{module_name(match['module'])}.lora_{match['factor']}.weight"
    if len(adapters) > 1:
        listed = ", ".join(sorted(adapter or "one without a name" for adapter in adapters))
        raise InputError(f"{where} holds several adapters in one file ({listed}); save each in a folder of its own.")
    _require_one_name_each(found, where)
    return found


def module_name(path: str) -> str:
    """Return a module's path in the base model: without PEFT's prefix and what wrappers put into it."""
    bare = ".".join(part for part in path.split(".") if part not in WRAPPERS)
    wrapped = bare.removeprefix("module.")  # distributed data parallel
    bare = wrapped if wrapped.startswith(PREFIX) else bare
    while bare.startswith(PREFIX):
        bare = bare.removeprefix(PREFIX)
    return bare


def foreign_layout(name: str) -> str | None:
    """Return who writes such a name and why it is not read; None for names that may be PEFT's."""
    return next((reason for pattern, reason in FOREIGN if re.search(pattern, name)), None)


def _require_one_name_each(found: dict[str, str], where: str) -> None:
    first: dict[str, str] = {}
    for name, own in found.items():
        if own in first:
            raise InputError(f"{where} holds the same factor twice, as {first[own]} and as {name}; delete one of them.")
        first[own] = name
