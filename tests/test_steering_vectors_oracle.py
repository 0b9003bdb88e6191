"""CAA vectors equal those that steering-vectors made of the same prompts, recorded by a script in benchmarks/."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from read_once import read_smollm2
from safetensors import safe_open
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lineament.activations.capture import Place, Reader, all_layers, group_sums, read_rows
from lineament.activations.packed import read_answers
from lineament.problems.problem import Batch, padded_rows
from lineament.steering.directions import caa

DATA = Path(__file__).parent / "data"
MODELS = ("tiny-llama", "tiny-gpt2", pytest.param("smollm2-135m", marks=pytest.mark.lm))
CLASSES = {"tiny-llama": (LlamaConfig, LlamaForCausalLM), "tiny-gpt2": (GPT2Config, GPT2LMHeadModel)}


@cache
def recorded() -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(DATA / "steering_vectors_oracle.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@cache
def model_and_rows(name: str) -> tuple[nn.Module, dict[str, list[list[int]]], tuple[int, int]]:
    """A model, token rows of the true and of the false prompts, and the tokens of both answers."""
    pairs = json.loads((DATA / "steering_pairs.json").read_text())
    texts = {kind: [pairs["prompt"].format(statement=p[kind]) for p in pairs["pairs"]] for kind in ("true", "false")}
    if name in CLASSES:
        model = tiny_model(name)
        rows = {kind: [list(text.encode()) for text in found] for kind, found in texts.items()}
        return model, rows, (256, 257)
    model, tokenizer = read_smollm2()
    rows = {kind: [tokenizer(text)["input_ids"] for text in found] for kind, found in texts.items()}
    answers = [tokenizer(pairs["answers"][kind], add_special_tokens=False)["input_ids"] for kind in ("true", "false")]
    assert all(len(ids) == 1 for ids in answers)
    return model.eval(), rows, (answers[0][0], answers[1][0])


def tiny_model(name: str) -> nn.Module:
    tensors, metadata = recorded()
    config, kind = CLASSES[name]
    model: Any = kind(config(**json.loads(metadata["configs"])[name]))
    prefix = f"weights/{name}/"
    state = {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model.eval()


def expected(name: str, contrast: str, n_layers: int) -> Tensor:
    tensors, _ = recorded()
    return torch.stack([tensors[f"{name}/{contrast}/{layer}"] for layer in range(1, n_layers + 1)])


def reader(model: nn.Module) -> Reader:
    def forward(batch: Batch) -> object:
        return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    return Reader(model, forward, Place(all_layers(model)), torch.device("cpu"))


def require_equal(found: Tensor, wanted: Tensor) -> None:
    """Cosine 0.9999 and norm to a thousandth are asked for; it is far closer."""
    cosines = torch.cosine_similarity(found.double(), wanted.double(), dim=-1)
    norms = found.double().norm(dim=-1) / wanted.double().norm(dim=-1)
    assert float(cosines.min()) > 0.999999
    assert float((norms - 1).abs().max()) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_statement_contrast(name: str) -> None:
    model, rows, _ = model_and_rows(name)
    batch = padded_rows([*rows["true"], *rows["false"]], 0)
    n = len(rows["true"])
    means = group_sums(reader(model), batch, torch.arange(2 * n) // n, 2).means()
    require_equal(means[0] - means[1], expected(name, "statement", means.shape[1]))


@pytest.mark.parametrize("name", MODELS)
def test_answer_contrast_with_the_prompt_computed_once(name: str) -> None:
    """Of every prompt, the right answer against the wrong one."""
    model, rows, (yes, no) = model_and_rows(name)
    prompts = padded_rows([*rows["true"], *rows["false"]], 0)
    n = len(rows["true"])
    answers = torch.tensor([[yes, no]] * n + [[no, yes]] * n)
    found, once = read_answers(model, prompts, answers, Place(all_layers(model)), torch.device("cpu"))
    assert once
    require_equal(caa(found[:, 0], found[:, 1]), expected(name, "answer", found.shape[2]))


def test_the_recorded_statement_vectors_are_not_those_of_answers() -> None:
    """So that the tests above could fail."""
    cosine = torch.cosine_similarity(
        expected("tiny-llama", "statement", 4), expected("tiny-llama", "answer", 4), dim=-1
    )
    assert float(cosine.abs().max()) < 0.99
    model, rows, _ = model_and_rows("tiny-llama")
    flipped = read_rows(reader(model), padded_rows(rows["false"], 0)).mean(dim=0)
    with pytest.raises(AssertionError):
        require_equal(flipped, expected("tiny-llama", "statement", 4))
