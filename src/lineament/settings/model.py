"""Settings `model.*` and `lora.*`: which model, and which adapter on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lineament.settings.fields import PositiveInt, Text, setting

DtypeName = Literal["float32", "bfloat16"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ModelSettings:
    """Which model. Width, layers, heads and length apply to the synthetic transformer only."""

    name: Text = setting(
        "synthetic", "Model to measure: synthetic, smollm2-135m, a local folder, a .gguf file or a hub name."
    )
    dtype: DtypeName = setting(
        "float32",
        "Type of a language model's weights; bfloat16 needs recovery.space lora, whose factors are float32 (lm only).",
    )
    adapter: Text = setting(
        "", "PEFT LoRA folder that is the operating point; its own configuration then replaces lora.* (lm only)."
    )
    adapter_start: Text = setting(
        "", "Folder with the factors that model.adapter was trained from; without it theta_start is unknown (lm only)."
    )
    width: PositiveInt = setting(
        64, "Residual width of the synthetic transformer, a multiple of model.heads.", "features"
    )
    layers: PositiveInt = setting(2, "Number of transformer blocks of the synthetic model.", "blocks")
    heads: PositiveInt = setting(4, "Attention heads in each block of the synthetic transformer.", "heads")
    length: PositiveInt = setting(8, "Length of every input of the synthetic problem.", "digits")


@dataclass(frozen=True)
class LoraSettings:
    """The adapter."""

    rank: PositiveInt = setting(8, "Rank r of every pair of factors A and B.", "directions")
    alpha: PositiveInt = setting(16, "Numerator of the adapter's scale: dW = alpha / rank * B A.")
    targets: tuple[Text, ...] = setting(
        (), "Names of the modules that get an adapter; empty means the usual ones of the architecture."
    )
