"""Tiny random decoders of every family that activations are read from, with left- and right-padded batches for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from problems_table import N_WORDS, seeded
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lineament.problems.problem import Batch, padded_rows
from lineament.streams import Streams

N_LAYERS, WIDTH = 4, 16
_SIZES = {
    "vocab_size": N_WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 1, "head_dim": 8}


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=N_WORDS,
            n_positions=64,
            n_embd=WIDTH,
            n_layer=N_LAYERS,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def _adapted_llama() -> nn.Module:
    model = LlamaForCausalLM(LlamaConfig(**_SIZES))
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))


DECODERS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "llama with an adapter": _adapted_llama,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**{**_SIZES, "num_key_value_heads": 1})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GROUPED)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_GROUPED)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**_GROUPED)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_GROUPED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_GROUPED)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES)),
}
# Blocks, attention and MLP of each, written down by hand: the truth for what is found by structure.
LAYOUTS = {
    "gpt2": ("transformer.h", "attn", "mlp"),
    "llama": ("model.layers", "self_attn", "mlp"),
    "llama with an adapter": ("base_model.model.model.layers", "self_attn", "mlp"),
    "qwen2": ("model.layers", "self_attn", "mlp"),
    "qwen3": ("model.layers", "self_attn", "mlp"),
    "gemma": ("model.layers", "self_attn", "mlp"),
    "gemma2": ("model.layers", "self_attn", "mlp"),
    "gemma3": ("model.layers", "self_attn", "mlp"),
    "mistral": ("model.layers", "self_attn", "mlp"),
    "neox": ("gpt_neox.layers", "attention", "mlp"),
}


def decoder(name: str) -> nn.Module:
    """A decoder with the same random weights every time, large enough that layers differ."""

    def make() -> nn.Module:
        model = DECODERS[name]()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
        return model.eval().requires_grad_(False)

    return seeded(make)


def prompts(n: int = 7, seed: int = 0) -> Batch:
    """Prompts of 3 to 9 random words, padded on the right, in no order of length."""
    generator = Streams(seed).generator("prompts")
    rows = [list(generator.integers(1, N_WORDS, size=length)) for length in generator.integers(3, 10, size=n)]
    return padded_rows([[int(word) for word in row] for row in rows], 0)


def hook_count(model: nn.Module) -> int:
    """Hooks of every kind on a model and its parts."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def run(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits at every position."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
