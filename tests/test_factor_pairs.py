"""Which trainable parameters are factors of dW = scale B A: PEFT's own change of the weights decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lineament.errors import InputError
from lineament.integrations.trainer_callback import LineamentCallback
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.options import AnalysisOptions
from lineament.parameters import ParameterSpace
from lineament.problems.factor_pairs import factor_pairs, why_no_pairs
from lineament.vectors.effective import effective_gram
from lineament.vectors.recording.writer import Recorder


class Experts(nn.Module):
    """Four experts in one tensor, as mixture-of-experts layers of transformers hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(4, 6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,eoi->bo", x, self.gate_up)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.experts, self.last = nn.Linear(8, 8), Experts(), nn.Linear(6, 5)
        self.picture = nn.Conv2d(2, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.experts(self.first(x)))
        return out


def adapted(name: str = "default", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(Model(), LoraConfig(r=2, lora_alpha=6, **options), adapter_name=name)


def names(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", ["default", "mine"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["first", "last"]},
        {"target_modules": ["first", "last"], "use_rslora": True},
        {"target_modules": ["first", "last"], "rank_pattern": {"last": 3}, "alpha_pattern": {"first": 1}},
    ],
)
def test_plain_lora_is_pairs_with_pefts_own_change(name: str, options: dict[str, Any]) -> None:
    model = adapted(name, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert why_no_pairs(model, names(model)) is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    space = ParameterSpace.trainable(model, "lora_factors")
    space.write(torch.randn(space.n_params))
    theta, modules = space.read(), dict(model.named_modules())
    for pair in factor_pairs(space):
        wanted = modules[pair.module].get_delta_weight(name)
        made = pair.scale * theta[pair.b].view(pair.b_shape) @ theta[pair.a].view(pair.a_shape)
        torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_parameters": ["experts.gate_up"], "target_modules": []}, "is not scale B A"),
        ({"target_modules": ["first"], "use_dora": True}, "magnitude"),
        ({"target_modules": ["first"], "lora_bias": True}, "bias"),
        ({"target_modules": ["first"], "modules_to_save": ["last"]}, "last"),
        ({"target_modules": ["picture"]}, "no matrices"),
    ],
)
def test_other_adapters_are_no_pairs(options: dict[str, Any], words: str) -> None:
    model = adapted(**options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reason = why_no_pairs(model, names(model))
    assert words in (reason or "")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="plain weights"):
        Recorder(ParameterSpace.trainable(model, "lora_factors"), Path("never made"))
    assert not Path("never made").exists()


def test_one_frozen_factor_and_two_adapters_are_no_pairs() -> None:
    model = adapted(target_modules=["first"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_B." in name)
    assert "without the other factor" in (why_no_pairs(model, names(model)) or "")
    model.add_adapter("second", LoraConfig(r=2, target_modules=["first"]))  # type: ignore[operator]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    assert "several adapters" in (why_no_pairs(model, names(model)) or "")


def test_experts_are_recorded_as_plain_weights_and_say_so(tmp_path: Path) -> None:
    """Their columns are ordered by rank and then expert in one factor, the other way round in the other."""
    model = adapted(target_parameters=["experts.gate_up"], target_modules=["first"])
    layer = next(m for m in model.modules() if type(m).__name__ == "ParamWrapper")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b, generator=torch.Generator().manual_seed(0))
    wrong = 3.0 * (b @ a).norm()
    assert abs(wrong / layer.get_delta_weight("default").norm() - 1) > 0.01
    callback = LineamentCallback(tmp_path / "recording", task="experts")
    arguments = SimpleNamespace(
        fsdp=[], fp16=False, max_grad_norm=1.0, optim="sgd", learning_rate=0.1, disable_tqdm=True
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with pytest.warns(UserWarning, match="recorded as plain weights"):
        callback.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        callback.on_step_end(arguments, state, None)
    callback.on_train_end(arguments, state, None)
    recorded = callback.trajectory()
    assert recorded.space.kind == "full"
    record = analyze_recording(recorded, "experts", 0, AnalysisOptions(window=4, plane_rank=1))
    assert "not scale B A" in (next(record.select("recorded", what="parameters")).reason or "")
    assert not list(record.select("mean_module_rank"))


def test_an_adapter_of_another_name_is_recorded_like_default(tmp_path: Path) -> None:
    grams = []
    for name in ("default", "mine"):
        model = adapted(name, target_modules=["first", "last"])
        space = ParameterSpace.trainable(model, "lora_factors")
        optimizer = torch.optim.SGD(space.tensors, lr=1e-3)
        recorder = Recorder(space, tmp_path / name, optimizer=optimizer)
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 8, generator=generator)).square().mean().backward()
            optimizer.step()
            recorder.append()
        recorded = recorder.close()
        assert set(recorded.scales.values()) == {3.0}
        grams.append(effective_gram(recorded).gram)
    np.testing.assert_array_equal(*grams)
