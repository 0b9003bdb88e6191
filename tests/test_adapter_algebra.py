"""Sums, lengths and angles of adapters in dW, against PEFT's merged weights and dense matrices in float64."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import random_model
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lineament import (
    StoredAdapter,
    adapter_cosine,
    adapter_inner,
    adapter_norm,
    adapter_singular_values,
    combine_adapters,
    read_adapter,
    save_stored_adapter,
    scale_adapter,
    subtract_adapters,
)
from lineament.errors import InputError
from lineament.problems.stored_adapters import Factors
from lineament.vectors.adapter_algebra import adapter_of

PLAIN: dict[str, Any] = {"r": 3, "lora_alpha": 7}
STABLE: dict[str, Any] = {"r": 4, "lora_alpha": 5, "use_rslora": True}
# family -> two configurations of other ranks, scales and modules.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gpt2": ({**PLAIN, "target_modules": ["c_attn"]}, {**STABLE, "target_modules": ["c_attn", "c_fc"]}),
    "llama": (
        {**PLAIN, "target_modules": ["q_proj", "v_proj"]},
        {
            **STABLE,
            "target_modules": ["v_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.v_proj": 2},
            "alpha_pattern": {"down_proj": 9},
        },
    ),
    "neox": ({**STABLE, "target_modules": ["query_key_value"]}, {**PLAIN, "target_modules": ["query_key_value"]}),
}
WEIGHTS = (0.7, -1.3)
every_pair = pytest.mark.parametrize("family", PAIRS)


def saved(family: str, config: Mapping[str, Any], folder: Path, seed: int) -> Path:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        made = get_peft_model(random_model(family), LoraConfig(**config, init_lora_weights=False))
        made.save_pretrained(folder)
    return folder


def merged(family: str, folder: Path) -> dict[str, Tensor]:
    """What PEFT's merge_adapter adds to each weight of the base, in float64."""
    base = random_model(family).double()
    before = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base, folder)
    model.double().merge_adapter()
    after = {n.replace(".base_layer.", ".").removeprefix("base_model.model."): p for n, p in model.named_parameters()}
    return {name: after[name].detach() - value for name, value in before.items()}


@pytest.fixture
def two(family: str, tmp_path: Path) -> tuple[Path, Path]:
    first, second = (saved(family, config, tmp_path / str(i), i) for i, config in enumerate(PAIRS[family]))
    return first, second


def dense(adapter: StoredAdapter) -> dict[str, np.ndarray]:
    """Module -> dW, formed."""
    return {m: (f.scale * f.b.double() @ f.a.double()).numpy() for m, f in adapter.factors.items()}


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest difference over the largest entry."""
    assert set(found) == set(expected)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0
    return max(float((found[name] - value).abs().max()) for name, value in expected.items()) / largest


@every_pair
def test_a_weighted_sum_is_that_of_pefts_merged_weights(family: str, two: tuple[Path, Path], tmp_path: Path) -> None:
    total = combine_adapters([read_adapter(folder) for folder in two], WEIGHTS)
    save_stored_adapter(total, tmp_path / "sum")
    parts = [merged(family, folder) for folder in two]
    expected = {name: WEIGHTS[0] * parts[0][name] + WEIGHTS[1] * parts[1][name] for name in parts[0]}
    assert distance(merged(family, tmp_path / "sum"), expected) < 1e-6
    again = read_adapter(tmp_path / "sum")
    assert again.names == total.names
    assert torch.equal(again.theta(), total.theta())
    assert set(again.scales.values()) == {1.0}
    first, second = (read_adapter(folder).factors for folder in two)
    for module, factors in again.factors.items():
        assert len(factors.a) == sum(len(own[module].a) for own in (first, second) if module in own)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_a_sum_is_pefts_concatenation_of_plain_adapters(family: str, tmp_path: Path) -> None:
    """Of plain LoRA only: PEFT's `cat` keeps rsLoRA's switch, and then scales the sum by sqrt(rank) once more."""
    modules = PAIRS[family][0]["target_modules"]
    configs = [
        {"r": 3, "lora_alpha": 7, "target_modules": modules},
        {"r": 2, "lora_alpha": 5, "target_modules": modules},
    ]
    folders = [saved(family, config, tmp_path / str(i), i) for i, config in enumerate(configs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(random_model(family), folders[0], adapter_name="first")
        model.load_adapter(folders[1], "second")
        model.add_weighted_adapter(["first", "second"], list(WEIGHTS), "both", combination_type="cat")
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    expected = {n: m.get_delta_weight("both").double() for n, m in layers.items()}
    found = dense(combine_adapters([read_adapter(folder) for folder in folders], WEIGHTS))
    ours = {n: torch.from_numpy(dw.T if family == "gpt2" else dw) for n, dw in found.items()}  # Conv1D is transposed
    assert distance(ours, expected) < 1e-6


def test_an_adapter_of_weight_zero_leaves_no_trace(tmp_path: Path) -> None:
    first, second = (
        read_adapter(saved("llama", config, tmp_path / str(i), i)) for i, config in enumerate(PAIRS["llama"])
    )
    assert torch.equal(combine_adapters([first, second], [0.0, 2.0]).theta(), scale_adapter(second, 2.0).theta())
    assert not adapter_norm(combine_adapters([first, second], [0.0, 0.0]))


class Nested(nn.Module):
    """A model in which one module's path is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"q": nn.Linear(9, 7)})])
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"q": nn.Linear(9, 7)})])})


@pytest.mark.parametrize("ranks", [(2, 3), (3, 3)])
def test_modules_whose_path_ends_anothers_keep_their_own_ranks(ranks: tuple[int, int], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    names = ("layers.0.q", "encoder.layers.0.q")
    factors = {
        f"base_model.model.{name}": Factors(
            torch.randn(rank, 9, generator=generator), torch.randn(7, rank, generator=generator), 1.0
        )
        for name, rank in zip(names, ranks, strict=True)
    }
    adapter = adapter_of(factors, {"revision": "r1"})
    save_stored_adapter(adapter, tmp_path / "a")
    assert torch.equal(read_adapter(tmp_path / "a").theta(), adapter.theta())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(Nested(), tmp_path / "a")
    assert model.peft_config["default"].revision == "r1"
    for name, rank in zip(names, ranks, strict=True):
        module = model.base_model.model.get_submodule(name)
        assert len(module.lora_A["default"].weight) == rank
        expected = dense(adapter)[f"base_model.model.{name}"]
        assert module.get_delta_weight("default").detach().numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["llama"])
def test_adding_factors_is_not_adding_adapters(family: str, tmp_path: Path) -> None:
    config = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj"]}
    first, second = (read_adapter(saved(family, config, tmp_path / str(i), i)) for i in range(2))
    exact, one, other = dense(combine_adapters([first, second], [1, 1])), first.factors, second.factors
    for module, dw in exact.items():
        a, b = one[module].a + other[module].a, one[module].b + other[module].b
        naive = (one[module].scale * b.double() @ a.double()).numpy()
        assert np.linalg.norm(naive - dw) > 0.5 * np.linalg.norm(dw)
        halves = [one[module], other[module]]
        parts = sum(half.scale * half.b.double() @ half.a.double() for half in halves).numpy()
        assert np.abs(parts - dw).max() < 1e-6 * np.abs(dw).max()


def flat(adapter: StoredAdapter, like: StoredAdapter) -> np.ndarray:
    """dW over the modules of both, one vector; absent modules are zero."""
    own, other = dense(adapter), dense(like)
    modules = sorted({*own, *other})
    return np.concatenate([own.get(m, np.zeros_like(other.get(m, 0.0))).ravel() for m in modules])


@every_pair
def test_inner_products_and_singular_values_are_those_of_dense_dw(family: str, two: tuple[Path, Path]) -> None:
    first, second = (read_adapter(folder) for folder in two)
    x, y = flat(first, second), flat(second, first)
    assert adapter_inner(first, second) == pytest.approx(x @ y, rel=1e-10)
    assert adapter_inner(second, first) == pytest.approx(x @ y, rel=1e-10)
    assert adapter_norm(first) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert adapter_cosine(first, second) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-10)
    for module, values in adapter_singular_values(second).items():
        exact = np.linalg.svd(dense(second)[module], compute_uv=False)
        assert np.allclose(values.numpy(), exact[: len(values)], rtol=1e-10)
        assert np.allclose(exact[len(values) :], 0, atol=1e-12)
    both = combine_adapters([first, second], [1, 1])
    assert adapter_norm(both) == pytest.approx(np.linalg.norm(x + y), rel=1e-6)
    difference = subtract_adapters(first, second)
    assert adapter_norm(difference) == pytest.approx(np.linalg.norm(x - y), rel=1e-6)
    assert adapter_norm(subtract_adapters(first, first)) < 1e-6 * adapter_norm(first)
    half = scale_adapter(first, -0.5)
    assert adapter_cosine(half, first) == pytest.approx(-1, abs=1e-9)
    assert adapter_norm(half) == pytest.approx(0.5 * adapter_norm(first), rel=1e-6)
    assert [len(f.a) for f in half.factors.values()] == [len(f.a) for f in first.factors.values()]


def regauged(adapter: StoredAdapter, seed: int) -> StoredAdapter:
    """(A, B) -> (R A, B R^-1), with another R for every module, in float64."""
    generator, tensors = torch.Generator().manual_seed(seed), []
    for a, b, _ in adapter.factors.values():
        r = torch.randn(len(a), len(a), generator=generator, dtype=torch.float64) + 3 * torch.eye(len(a))
        tensors += [r @ a.double(), b.double() @ torch.linalg.inv(r)]
    return StoredAdapter(adapter.names, tuple(tensors), adapter.scales, adapter.config)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_gauge_moves_cosines_of_factors_and_none_of_dw(family: str, tmp_path: Path) -> None:
    first, second = (read_adapter(saved(family, PAIRS[family][0], tmp_path / str(i), i)) for i in range(2))
    moved = regauged(second, 0)

    def of_factors(x: StoredAdapter, y: StoredAdapter) -> float:
        return float(torch.nn.functional.cosine_similarity(x.theta().double(), y.theta().double(), dim=0))

    assert adapter_cosine(first, moved) == pytest.approx(adapter_cosine(first, second), abs=1e-10)
    assert adapter_norm(moved) == pytest.approx(adapter_norm(second), rel=1e-10)
    for before, after in zip(*(adapter_singular_values(x).values() for x in (second, moved)), strict=True):
        assert torch.allclose(before, after, rtol=1e-8)
    assert adapter_cosine(second, moved) == pytest.approx(1, abs=1e-10)
    assert of_factors(second, moved) < 0.95
    assert abs(of_factors(first, moved) - of_factors(first, second)) > 1e-3


def test_what_cannot_be_combined_is_refused(tmp_path: Path) -> None:
    config = {"r": 2, "target_modules": ["v_proj"]}
    wide, grouped = (read_adapter(saved(f, config, tmp_path / f, 0)) for f in ("llama", "gemma"))
    one = wide.factors
    other = StoredAdapter(
        wide.names,
        tuple(tensor.repeat(1, 2) if i % 2 == 0 else tensor for i, tensor in enumerate(wide.tensors)),
        wide.scales,
        wide.config,
    )
    assert set(one) == set(grouped.factors)
    with pytest.raises(InputError, match="base models differ"):
        combine_adapters([wide, other], [1, 1])
    with pytest.raises(InputError, match="base models differ"):
        adapter_inner(wide, other)
    with pytest.raises(InputError, match="1 adapters and 2 weights"):
        combine_adapters([wide], [1, 1])
    with pytest.raises(InputError, match="0 adapters"):
        combine_adapters([], [])


def test_a_fresh_adapter_has_no_direction(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(random_model("llama"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    fresh = read_adapter(tmp_path)
    assert adapter_norm(fresh) == 0
    assert math.isnan(adapter_cosine(fresh, fresh))
