"""A control vector of ours inside llama.cpp: recorded by benchmarks/llama_cpp_oracle.py.

`python tests/test_steering_llama_cpp.py` writes the file that llama.cpp is given.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lineament.steering.formats import read_gguf, write_gguf
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector, VectorTags

DATA = Path(__file__).parent / "data"
GIVEN = DATA / "tiny_llama_vector.gguf"
LAYERS = (2, 3, 4)


def vector() -> SteeringVector:
    """Directions of different sizes that point to different coordinates."""
    rows = torch.eye(32)
    return SteeringVector({n: 2.0 * n * rows[n] - 3.0 * rows[10 * n - 9] for n in LAYERS}, VectorTags(n_layers=4))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(DATA / "llama_cpp_oracle.safetensors")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    with safe_open(DATA / "steering_vectors_oracle.safetensors", "pt") as file:
        config = LlamaConfig(**json.loads(file.metadata()["configs"])["tiny-llama"])
        start = "weights/tiny-llama/"
        names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118 (no mapping)
        weights = {name.removeprefix(start): file.get_tensor(name).float() for name in names}
    made = LlamaForCausalLM(config)
    made.load_state_dict(weights, strict=False)
    made.tie_weights()
    return made.eval()


@torch.no_grad()
def logits(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    return model(tokens[None].long()).logits[0, -1]


def apart(first: Tensor, second: Tensor) -> float:
    """Distance relative to the second."""
    return float((first - second).norm() / second.norm())


def test_what_llama_cpp_was_given_is_what_is_written_today(tmp_path: Path) -> None:
    write_gguf(vector(), tmp_path / "v.gguf", "llama")
    written, given = ({t.name: t.data.tolist() for t in GGUFReader(p).tensors} for p in (tmp_path / "v.gguf", GIVEN))
    assert written == given
    assert read_gguf(GIVEN).layers == LAYERS


def test_its_loader_reads_every_bit_at_our_layer(recorded: dict[str, Tensor]) -> None:
    assert [int(name.removeprefix("loaded/")) for name in sorted(recorded) if name.startswith("loaded/")] == [2, 3, 4]
    assert all(torch.equal(recorded[f"loaded/{layer}"], vector().directions[layer]) for layer in LAYERS)


def test_without_a_vector_both_are_the_same_model(model: LlamaForCausalLM, recorded: dict[str, Tensor]) -> None:
    assert apart(logits(model, recorded["tokens"]), recorded["logits/none"]) < 1e-5


@pytest.mark.parametrize("layer", LAYERS)
def test_it_adds_where_we_add(model: LlamaForCausalLM, recorded: dict[str, Tensor], layer: int) -> None:
    plain, change = recorded["logits/none"], recorded[f"logits/{layer}"] - recorded["logits/none"]
    for place in (layer - 1, layer, layer + 1):
        if place <= 4:
            with steered(model, SteeringVector({place: vector().directions[layer]}), 1.0):
                ours = logits(model, recorded["tokens"]) - plain
            assert apart(ours, change) < 1e-4 if place == layer else apart(ours, change) > 0.1


def test_it_adds_all_layers_at_once(model: LlamaForCausalLM, recorded: dict[str, Tensor]) -> None:
    with steered(model, vector(), 1.0):
        assert apart(logits(model, recorded["tokens"]), recorded["logits/all"]) < 1e-5


if __name__ == "__main__":
    write_gguf(vector(), GIVEN, "llama")
