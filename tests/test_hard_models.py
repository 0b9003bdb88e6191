"""Models with experts, state spaces, several streams or operations of their own run, or are refused beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import _GROUPED, _HEADED, _SIZES, N_WORDS, WIDTH, arguments, write_data, write_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM

from lineament import cli
from lineament.activations.blocks import find_blocks
from lineament.problems import loading
from lineament.problems.loading import load_model
from lineament.records import load_records
from lineament.steering.vector import load_vector

EXPERTS = {"num_experts_per_tok": 2}
PLAIN = {"vocab_size": N_WORDS, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
# family -> (class of transformers without its suffix, class of its configuration, sizes)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**_GROUPED, **EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_HEADED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 8},
    ),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_HEADED, **EXPERTS, "num_local_experts": 4}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {**PLAIN, "hidden_size": WIDTH, "n_layer": 2, "n_head": 2}),
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {**PLAIN, "hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4},
    ),
    "gemma3n": (
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        {
            **_HEADED,
            "vocab_size_per_layer_input": N_WORDS,
            "hidden_size_per_layer_input": 4,
            "intermediate_size": [24, 24],
            "laurel_rank": 4,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "mine.jsonl")


def write_model(name: str, folder: Path, **changes: object) -> Path:
    model_class, config_class, sizes = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**{**sizes, **changes}))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def steer(data: Path, folder: Path, out: Path, *more: str) -> int:
    """A vector and a step's shift, of few rows."""
    few = data.with_name("few.jsonl")
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:24]))
    command = ["steer", "make", str(few), "--model", str(folder), "--out", str(out), "--threads", "1"]
    return cli.main([*command, "--method", "both", *more])


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss", "bloom", "mamba"])
def test_steps_and_curvature_work_where_kernels_have_one_derivative(name: str, data: Path, tmp_path: Path) -> None:
    """Kernels are replaced by plain operations of the same values; what a run needs is tried before it begins."""
    folder, out = write_model(name, tmp_path / name), tmp_path / "v.safetensors"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    rows = torch.arange(12).view(2, 6)
    with torch.no_grad():
        assert torch.allclose(load_model(str(folder))[0](rows).logits, plain(rows).logits, atol=1e-4)
    assert steer(data, folder, out) == 0
    step = load_vector(out.with_name("v-step.safetensors"))
    assert all(float(direction.norm()) > 0 for direction in step.directions.values())
    assert cli.main(arguments(folder, data, tmp_path / "run", "--dry-run", "--measure", "basis_capture,steering")) == 0


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_order_of_steps_is_predicted_with_experts(name: str, data: Path, tmp_path: Path) -> None:
    """Fused kernels of experts have no second derivative; eager ones, which are loaded instead, have."""
    sizes = {
        "operating.steps": "8",
        "recovery.batch": "4",
        "measurement.task_vector_steps": "2",
        "measurement.minibatch": "4",
        "measurement.drift_gradients": "2",
        "measurement.drift_rank": "1",
        "geometry.float64": "true",
        "geometry.examples": "8",
        "geometry.held_out_examples": "8",
        "geometry.rotation_lags": "1",
        "geometry.prompts": "4",
    }
    folder, out = write_model(name, tmp_path / name), tmp_path / "run"
    assert cli.main(arguments(folder, data, out, "--measure", "local_geometry", **sizes)) == 0
    (record,) = load_records(out / "records")
    assert record.value("order_ratio", pair="within", eta_kappa=1e-3) == pytest.approx(1, abs=0.02)


def test_an_operation_without_forward_derivative_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "_make_differentiable", lambda model: None)
    folder, out = write_model("bloom", tmp_path / "bloom"), tmp_path / "v.safetensors"
    assert steer(data, folder, out) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "cannot be differentiated forwards" in printed
    assert "--method caa" in printed
    assert not out.exists()
    run = tmp_path / "run"
    assert cli.main(arguments(folder, data, run, "--measure", "steering")) == 2
    assert "leave steering out" in capsys.readouterr().err.lower()
    assert not run.exists()


def test_blocks_with_several_streams_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_model("gemma3n", tmp_path / "gemma3n"), tmp_path / "v.safetensors"
    for method in ("both", "caa"):
        assert steer(data, folder, out, "--method", method) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert "several streams" in printed
    assert not out.exists()


def test_modules_that_peft_refuses_are_no_default_and_named_when_asked_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model("mamba", tmp_path / "mamba")
    run = tmp_path / "run"
    assert cli.main(arguments(folder, data, run, "--dry-run", **{"lora.targets": "out_proj"})) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "'out_proj' is incompatible" in printed
    assert "lora.targets" in printed
    assert not run.exists()


@pytest.mark.parametrize(
    ("model_class", "config_class", "sizes"),
    [
        (
            "GPTJForCausalLM",
            "GPTJConfig",
            {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "rotary_dim": 4},
        ),
        ("PhiForCausalLM", "PhiConfig", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}),
        (
            "BertLMHeadModel",
            "BertConfig",
            {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "is_decoder": True},
        ),
    ],
)
def test_the_bias_of_a_head_is_no_layer(model_class: str, config_class: str, sizes: dict[str, Any]) -> None:
    config = getattr(transformers, config_class)(**{**_SIZES, **sizes, "vocab_size": 20_000, "intermediate_size": 16})
    model = getattr(transformers, model_class)(config)
    assert len(find_blocks(model)) == 1
