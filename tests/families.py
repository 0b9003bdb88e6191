"""Tiny random models of every supported family as folders that `--model` takes, with one tokenizer for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

WORDS = ("apple", "stone")
N_WORDS, WIDTH, N_LAYERS = 320, 16, 2
# Tokenizers of some families add special tokens of their own.
N_TOKENS = N_WORDS - 16
_SIZES: dict[str, Any] = {
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
_GROUPED = {**_SIZES, "num_key_value_heads": 1}
_HEADED = {**_GROUPED, "head_dim": 8}
_GPT2 = {
    "vocab_size": N_WORDS,
    "n_positions": 64,
    "n_embd": WIDTH,
    "n_layer": N_LAYERS,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# family -> (class of transformers without its suffix, class of its configuration, sizes, default adapter targets).
# DistilGPT-2 is GPT-2 with half the layers.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "distilgpt2": ("GPT2LMHeadModel", "GPT2Config", {**_GPT2, "n_layer": 1}, ("c_attn",)),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2, ("c_attn",)),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED, ("q_proj", "v_proj")),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GROUPED, ("q_proj", "v_proj")),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _HEADED, ("q_proj", "v_proj")),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _HEADED, ("q_proj", "v_proj")),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _HEADED, ("q_proj", "v_proj")),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _HEADED, ("q_proj", "v_proj")),
    "mistral": ("MistralForCausalLM", "MistralConfig", _HEADED, ("q_proj", "v_proj")),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _SIZES, ("query_key_value",)),
}


def random_model(family: str) -> Any:
    """A model of a family with the same random weights every time, large enough that its logits differ."""
    model_class, config_class, sizes, _ = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**sizes))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def statements() -> list[dict[str, object]]:
    """Labelled statements that one word decides, none of them twice."""
    return [{"statement": f"{i} {WORDS[i % 2]} {WORDS[i % 2]}", "label": i % 2 == 0} for i in range(280)]


def write_tokenizer(folder: Path) -> None:
    """A small byte-level tokenizer in which both labels are one token; it has no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"{row['statement']} Answer: True False" for row in statements()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_TOKENS, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)


def write_family(family: str, folder: Path) -> Path:
    """A model folder with config, weights and tokenizer."""
    random_model(family).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_data(file: Path) -> Path:
    """The statements as JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in statements()))
    return file


# Seconds per run: every stage and measurement of a study, with as little as each needs.
SHORTEST = {
    "threads": "1",
    "task.names": "mine",
    "task.evaluation_examples": "16",
    "lora.rank": "4",
    "lora.alpha": "16",
    "operating.steps": "60",
    "operating.lr": "2e-2",
    "operating.batch": "16",
    "damage.steps": "8",
    "damage.lr": "2e-2",
    "damage.batch": "16",
    "recovery.steps": "40",
    "recovery.lr": "1e-2",
    "recovery.threshold": "0.8",
    "recovery.batch": "8",
    "measurement.ranks": "1,2",
    "measurement.headline_rank": "2",
    "measurement.gradients": "8",
    "measurement.minibatch": "2",
    "measurement.curvature_batch": "4",
    "measurement.lanczos_steps": "3",
    "measurement.task_vector_steps": "1",
    "measurement.inside_steps": "2",
    "measurement.inside_batch": "4",
    "measurement.drift_gradients": "4",
    "measurement.drift_rank": "2",
    "measurement.random_draws": "2",
}


def arguments(model: Path, data: Path, out: Path, *more: str, **changes: str) -> list[str]:
    """`lineament run lm` on a model folder and a data file."""
    keys = {**SHORTEST, **changes}
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    command = ["run", "lm", "--model", str(model), "--data", str(data), "--preset", "quick", "--out", str(out)]
    return [*command, "--seeds", "1", "--quiet", *sets, *more]


Command = Callable[..., int]
