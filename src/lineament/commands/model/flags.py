"""Flags of `lineament model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lineament.command_line.markers import Positional
from lineament.settings.model import DtypeName


@dataclass(frozen=True, kw_only=True)
class Model:
    """Write a packaged model or a GGUF file as a plain folder, which transformers and its Trainer take.

    Trainers refuse a model that was loaded from a GGUF file, since its weights count as quantised. Here they are made
    plain, as numbers of one type in safetensors, with the tokenizer beside them.
    """

    name: Positional[str]
    """smollm2-135m, a .gguf file, a local folder or a hub name"""
    out: Path
    """folder of the model"""
    dtype: DtypeName = "float32"
    """type of the weights"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""
