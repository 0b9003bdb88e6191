"""Directions that the package steering-vectors finds, recorded for our tests, by an environment of its own.

The package needs transformers 4 and Lineament needs 5, so they cannot be installed together. In another environment:

    pip install steering-vectors==0.12.2 "transformers>=4.57,<5" gguf accelerate
    python benchmarks/steering_vectors_oracle.py tests/data/steering_pairs.json \
        tests/data/steering_vectors_oracle.safetensors --tiny FOLDER --smollm2 FILE.gguf

Keys of the output, all float32 but the weights:

    MODEL/CONTRAST/LAYER       (width,) direction at the output of block LAYER, counted from 1; MODEL is tiny-llama,
                               tiny-gpt2 or smollm2-135m, CONTRAST statement or answer
    weights/MODEL/PARAMETER    float16 weights of the tiny models, which compute with just these values in float32

Metadata: `versions`, `configs` (arguments of each tiny model's config) and `source`, all JSON but the last. A tiny
model's tokens are the bytes of the prompt in UTF-8; an answer at its end is one token, 256 for true and 257 for false.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from steering_vectors import SteeringVectorTrainingSample, train_steering_vector
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchEncoding,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

SEED = 2606
VOCABULARY = 258
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        # Larger than usual, so that every block changes its input.
        "initializer_range": 0.3,
    },
    "tiny-gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_inner": 64,
        "n_positions": 128,
        "initializer_range": 0.3,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
CLASSES = {"tiny-llama": (LlamaConfig, LlamaForCausalLM), "tiny-gpt2": (GPT2Config, GPT2LMHeadModel)}
PACKAGES = ("steering-vectors", "transformers", "torch", "gguf", "numpy")
Samples = dict[str, list[SteeringVectorTrainingSample]]


class ByteTokenizer:
    """Bytes as tokens, and one token for each of the two answers."""

    pad_token_id = 0

    def __init__(self, answers: tuple[str, str]) -> None:
        self._answers = answers

    def __call__(self, prompts: list[str], **_: Any) -> BatchEncoding:
        """One row: steering-vectors asks for its prompts one by one, so nothing is padded."""
        assert len(prompts) == 1
        ids = torch.tensor([self._ids(prompts[0])])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def _ids(self, text: str) -> list[int]:
        for i, answer in enumerate(self._answers):
            if text.endswith(answer):
                return [*text.removesuffix(answer).encode(), 256 + i]
        return list(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", type=Path, required=True, help="folder for the tiny models")
    parser.add_argument("--smollm2", type=Path, help="GGUF file of SmolLM2-135M-Instruct")
    given = parser.parse_args()
    pairs = json.loads(given.pairs.read_text())
    tensors = {}
    for name, model, tokenizer in models(given.tiny, given.smollm2, pairs):
        for contrast, samples in contrasts(pairs).items():
            found = train_steering_vector(model, tokenizer, samples, read_token_index=-1).layer_activations
            tensors |= {f"{name}/{contrast}/{block + 1}": row.float().contiguous() for block, row in found.items()}
            print(name, contrast, len(samples), "pairs,", len(found), "layers", flush=True)
        if name in CONFIGS:
            tensors |= {f"weights/{name}/{key}": value.half() for key, value in named_weights(model)}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    metadata = {
        "versions": json.dumps({"python": platform.python_version(), **versions}),
        "configs": json.dumps(CONFIGS),
        "source": "benchmarks/steering_vectors_oracle.py with tests/data/steering_pairs.json",
    }
    save_file(tensors, given.out, metadata)


def contrasts(pairs: dict[str, Any]) -> Samples:
    """True against false statements, and the right against the wrong answer to each of them; the last token is read."""
    prompts = [{k: pairs["prompt"].format(statement=pair[k]) for k in ("true", "false")} for pair in pairs["pairs"]]
    yes, no = pairs["answers"]["true"], pairs["answers"]["false"]
    statement = [(prompt["true"], prompt["false"]) for prompt in prompts]
    answer = [(prompt["true"] + yes, prompt["true"] + no) for prompt in prompts]
    answer += [(prompt["false"] + no, prompt["false"] + yes) for prompt in prompts]
    made = {"statement": statement, "answer": answer}
    return {name: [SteeringVectorTrainingSample(*both) for both in found] for name, found in made.items()}


def models(tiny: Path, smollm2: Path | None, pairs: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, model and tokenizer; the tiny ones are made, saved and loaded again."""
    answers = (pairs["answers"]["true"], pairs["answers"]["false"])
    for i, (name, (config_class, model_class)) in enumerate(CLASSES.items()):
        torch.manual_seed(SEED + i)
        made = model_class(config_class(**CONFIGS[name]))
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(parameter.half())  # what the fixture holds, exactly
        made.save_pretrained(tiny / name)
        yield name, AutoModelForCausalLM.from_pretrained(tiny / name).float().eval(), ByteTokenizer(answers)
    if smollm2 is not None:
        source = {"pretrained_model_name_or_path": str(smollm2.parent), "gguf_file": smollm2.name}
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
        # The file says that no token is put before a text; transformers 4 puts one unless told.
        yield "smollm2-135m", model, AutoTokenizer.from_pretrained(**source, add_bos_token=False)


def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight once: the output head is the embedding, and activations do not need it."""
    return ((key, value) for key, value in model.state_dict().items() if not key.startswith("lm_head"))


if __name__ == "__main__":
    main()
