"""Two PEFT adapters on one tiny random base in float64, with examples: what tests of composition share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from families import N_WORDS, random_model
from peft import LoraConfig, get_peft_model

from lineament import Batch, InMemoryProblem, StoredAdapter, read_adapter

TARGETS: dict[str, tuple[list[str], list[str]]] = {
    "llama": (["q_proj", "v_proj"], ["v_proj", "down_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "c_fc"]),
}


def examples(seed: int, n: int = 16, length: int = 6) -> Batch:
    """Random token rows of different lengths whose last two tokens are targets."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, N_WORDS, (n, length), generator=generator)
    lengths = torch.randint(4, length + 1, (n,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).long()
    positions = torch.stack([lengths - 3, lengths - 2], dim=1)
    targets = ids.gather(1, positions + 1)
    return Batch(ids * mask, mask, positions, targets, range(N_WORDS))


def adapter(family: str, folder: Path, seed: int, config: Mapping[str, Any]) -> StoredAdapter:
    """An adapter as PEFT saves it, with random factors that change the loss visibly."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        made = get_peft_model(random_model(family), LoraConfig(**config, init_lora_weights=False))
        made.double().save_pretrained(folder)
    return read_adapter(folder)


def pair(family: str, folder: Path) -> tuple[StoredAdapter, StoredAdapter]:
    """Two adapters of other ranks, scales and modules, one of which both change."""
    first, second = TARGETS[family]
    return (
        adapter(family, folder / "first", 1, {"r": 3, "lora_alpha": 2, "target_modules": first}),
        adapter(family, folder / "second", 2, {"r": 2, "lora_alpha": 1, "target_modules": second, "use_rslora": True}),
    )


def base_problem(family: str, n: int = 16) -> InMemoryProblem:
    """The base in float64 with all weights measured."""
    return InMemoryProblem(random_model(family).double().requires_grad_(True), {"first": examples(0, n)}, n // 4, 0)
