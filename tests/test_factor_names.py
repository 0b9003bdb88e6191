"""Names of factors as other tools write them: read as PEFT's own, or refused with the tool named."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn

from lineament import read_adapter
from lineament.errors import InputError
from lineament.problems import adapter_configs, stored_adapters
from lineament.problems.factor_names import foreign_layout, module_name

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What PEFT saves of two layers with two linear modules each, which have other factors each."""
    layers = [nn.ModuleDict({"q_proj": nn.Linear(6, 5), "v_proj": nn.Linear(6, 4)}) for _ in range(2)]
    base = nn.ModuleDict({"model": nn.ModuleDict({"layers": nn.ModuleList(layers)})})
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "named": lambda name: name.replace(".weight", ".default.weight"),
    "of another name": lambda name: name.replace(".weight", ".my-adapter_2.weight"),
    "compiled inside": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "compiled outside": lambda name: f"_orig_mod.{name}",
    "compiled layers": lambda name: name.replace("q_proj", "_orig_mod.q_proj"),
    "without prefix": lambda name: name.removeprefix("base_model.model."),
    "twice the prefix": lambda name: f"base_model.model.{name}",
    "distributed": lambda name: f"module.{name}",
    "sharded": lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_that_say_the_same_are_read_as_pefts(spelling: str, folder: Path) -> None:
    expected = read_adapter(folder)
    renamed(folder, SPELLINGS[spelling])
    found = read_adapter(folder)
    assert found.names == expected.names
    assert found.scales == expected.scales
    assert torch.equal(found.theta(), expected.theta())
    assert len(set(found.names)) == 8


def test_a_module_of_the_model_that_is_called_module_stays() -> None:
    assert module_name("module.layers.0.q_proj") == "module.layers.0.q_proj"
    assert module_name("module.base_model.model.layers.0.q_proj") == "layers.0.q_proj"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_down_blocks_0_attn.lora_down.weight", "kohya"),
        ("lora_unet_down_blocks_0_attn.alpha", "kohya"),
        ("unet.attn.processor.to_q_lora.down.weight", "diffusers"),
        ("transformer.attn.to_q.lora.up.weight", "diffusers"),
        ("model.layers.0.self_attn.q_proj.lora_a", "MLX"),
        ("blk.0.attn_q.weight.lora_a", "MLX|llama.cpp"),
        ("base_model.model.q_proj.lora_magnitude_vector", "DoRA"),
        ("base_model.model.embed_tokens.lora_embedding_A", "embedding"),
        ("base_model.model.lm_head.modules_to_save.weight", "whole modules"),
        ("base_model.model.q_proj.base_layer.weight", "weights of the base model"),
        ("base_model.model.q_proj.hada_w1_a", "other than LoRA"),
        ("base_model.model.q_proj.lora_B.bias", "bias"),
        ("base_model.model.q_proj.lora_B.default.bias", "bias"),
    ],
)
def test_names_of_other_layouts_are_refused_by_name(name: str, words: str, folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, name: torch.ones(3, 3)}, folder / WEIGHTS)
    with pytest.raises(InputError, match=words) as raised:
        read_adapter(folder)
    assert name in str(raised.value)


def test_names_of_plain_factors_are_no_foreign_layout(folder: Path) -> None:
    assert [foreign_layout(name) for name in load_file(folder / WEIGHTS)] == [None] * 8


def test_two_adapters_in_a_file_and_one_factor_twice_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    copies = {name.replace(".weight", ".other.weight"): tensor.clone() for name, tensor in tensors.items()}
    save_file({**tensors, **copies}, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"several adapters .*one without a name, other"):
        read_adapter(folder)
    twice = {f"_orig_mod.{name}": tensor.clone() for name, tensor in tensors.items()}
    save_file({**tensors, **twice}, folder / WEIGHTS)
    with pytest.raises(InputError, match="same factor twice"):
        read_adapter(folder)


def test_folders_of_other_tools_are_named(folder: Path, tmp_path: Path) -> None:
    for name, words in {
        "pytorch_lora_weights.safetensors": "diffusers",
        "adapters.safetensors": "MLX",
        "lora.gguf": "llama.cpp",
        "inner/adapter_config.json": "one folder further down",
    }.items():
        other = tmp_path / words
        (other / name).parent.mkdir(parents=True)
        (other / name).write_text("x")
        with pytest.raises(InputError, match=words):
            read_adapter(other)
    with pytest.raises(InputError, match=r"is a file\. Give the PEFT folder"):
        read_adapter(folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}))
    with pytest.raises(InputError, match="adapter of MLX"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "pattern", ["q_proj", "layers.0.q_proj", r"layers\.\d+\.q_proj", "^model.layers", ".*", "proj"]
)
@pytest.mark.parametrize("module", ["model.layers.0.q_proj", "layers.0.q_proj", "q_proj", "model.q_project"])
def test_a_pattern_is_for_the_modules_that_peft_takes_it_for(pattern: str, module: str) -> None:
    assert stored_adapters._fits(pattern, module) == (get_pattern_key([pattern], module) == pattern)


def test_defaults_and_keys_are_those_of_peft() -> None:
    assert (LoraConfig.r, LoraConfig.lora_alpha) == (adapter_configs.DEFAULT_RANK, adapter_configs.DEFAULT_ALPHA)
    known = set(LoraConfig.__dataclass_fields__)
    assert known >= adapter_configs.PLAIN
    assert not adapter_configs.PLAIN & set(adapter_configs.REFUSED)


def test_a_plain_adapter_is_read_without_importing_peft(folder: Path) -> None:
    code = "import sys, lineament; lineament.read_adapter(sys.argv[1]); print('peft' in sys.modules)"
    command = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


# What somebody may have written for any key of a configuration.
VALUES: tuple[Any, ...] = (
    *(
        "nan",
        "-1",
        "0",
        "1" + "0" * 30,
        "a\0b",
        "x" * 5000,
        "",
        " ",
        "[bold]",
        "(",
        "a{9999999999999}",
        None,
        True,
        [],
        {},
    ),
    *(
        [[]],
        -(10**30),
        10**400,
        float("nan"),
        float("inf"),
        0,
        1,
        1.5,
        [1],
        [None],
        "q_proj",
        {"q_proj": 3},
        {"q_proj": "x"},
    ),
    *({"q_proj": None}, {"(": 1}, {"q_proj": [1]}, {"": 3}, {"q_proj": 10**400}, {"a{9999999999999}": 1}),
)


@pytest.mark.parametrize("key", [*LoraConfig.__dataclass_fields__, "from_the_future"])
def test_every_value_of_every_key_is_taken_or_refused_with_one_sentence(key: str, folder: Path) -> None:
    file = folder / "adapter_config.json"
    body = json.loads(file.read_text())
    refusals = []
    for value in VALUES:
        file.write_text(json.dumps({**body, key: value}))
        try:
            read_adapter(folder)
        except InputError as error:
            refusals.append(str(error))
    for message in refusals:
        assert "\n" not in message
        assert len(message) < 600
        assert message.encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.to(torch.int32), "of type torch.int32"),
        (lambda tensor: tensor > 0, "of type torch.bool"),
        (lambda tensor: tensor.to(torch.complex64), "of type torch.complex64"),
        (lambda tensor: tensor[:, :0].contiguous(), "without entries|no matching pair"),
        (lambda tensor: tensor.flatten(), "no factor of a linear layer"),
    ],
)
def test_tensors_that_are_no_factors_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, folder: Path
) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: change(tensors[name])}, folder / WEIGHTS)
    with pytest.raises(InputError, match=words):
        read_adapter(folder)
