"""Small LoRA adapters as PEFT makes and reads them, with the dense dW that PEFT itself gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lineament import StoredAdapter
from lineament.problems.stored_adapters import Factors
from lineament.vectors.adapter_algebra import adapter_of

PREFIX = "base_model.model."


def small_base(seed: int = 0) -> nn.Module:
    """Two layers of two linear modules each, of other shapes, applied one after the other."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.ModuleDict({"q": nn.Linear(9, 7), "v": nn.Linear(7, 9)}) for _ in range(2)]
        return SmallBase(nn.ModuleList(layers))


class SmallBase(nn.Module):
    """A module that adapters can be attached to."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers one after the other."""
        for layer in self.layers:
            x = x + layer["v"](layer["q"](x))  # type: ignore[index]
        return x


def made(folder: Path, seed: int = 0, **config: object) -> tuple[Path, dict[str, np.ndarray]]:
    """Write a random adapter of `small_base` as PEFT does; return its folder, and PEFT's own dW of every module."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        base = small_base()
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q", "v"], "init_lora_weights": False, **config}
        adapted = get_peft_model(base, LoraConfig(**settings))  # type: ignore[arg-type]
        adapted.save_pretrained(folder)
    return folder, dense_changes(adapted)


def loaded(folder: Path) -> PeftModel:
    """The adapter on `small_base`, as PEFT loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(small_base(), folder).eval()


def dense_changes(adapted: PeftModel) -> dict[str, np.ndarray]:
    """Module -> PEFT's own dW, in float64."""
    layers = {name: module for name, module in adapted.named_modules() if hasattr(module, "get_delta_weight")}
    dense = {name: module.get_delta_weight("default").detach().double().numpy() for name, module in layers.items()}
    return {name.removeprefix(PREFIX): dw for name, dw in dense.items()}


def of_matrices(matrices: dict[str, np.ndarray], rank: int | None = None) -> StoredAdapter:
    """An adapter, in float64 and without a folder, whose dW are these matrices."""
    factors = {}
    for module, dw in matrices.items():
        u, s, v = np.linalg.svd(dw, full_matrices=False)
        kept = slice(rank or int((s > 1e-12 * max(s[0], 1e-300)).sum()) or 1)
        a, b = torch.from_numpy(s[kept, None] * v[kept]), torch.from_numpy(u[:, kept].copy())
        factors[f"{PREFIX}{module}"] = Factors(a, b, 1.0)
    return adapter_of(factors, {})


def regauged(adapter: StoredAdapter) -> StoredAdapter:
    """(A, B) -> (R A, B R^-1) in float64, with an R that is far from orthogonal."""
    generator, tensors = torch.Generator().manual_seed(7), []
    for a, b, _ in adapter.factors.values():
        r = torch.randn(len(a), len(a), generator=generator, dtype=torch.float64) + 3 * torch.eye(len(a))
        tensors += [r @ a.double(), b.double() @ torch.linalg.inv(r)]
    return StoredAdapter(adapter.names, tuple(tensors), adapter.scales, adapter.config)
