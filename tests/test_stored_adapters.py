"""Any plain LoRA folder as operating point: equal to what PEFT makes of it, read without a model, or refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from families import FAMILIES, arguments, random_model, write_data, write_family
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from lineament import cli, read_adapter
from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.adapters import attach_stored, load_adapter
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.stored_adapters import adapter_settings
from lineament.settings.presets import resolve
from lineament.vectors.effective import position_gram

MADE = {"init_lora_weights": False, "task_type": "CAUSAL_LM"}
# name -> (family, configuration): every way in which plain LoRA folders differ.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("llama", {"r": 3, "lora_alpha": 7, "target_modules": ["v_proj", "q_proj", "o_proj"]}),
    "a pattern": ("qwen2", {"target_modules": r".*layers\.1\.(self_attn\.k_proj|mlp\.(up|down)_proj)"}),
    "all linear": ("llama", {"r": 2, "target_modules": "all-linear"}),
    "all linear in gpt2": ("gpt2", {"r": 2, "target_modules": "all-linear", "fan_in_fan_out": True}),
    "all linear in neox": ("neox", {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.3}),
    "patterns of rank and alpha": (
        "qwen3",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "v_proj", "gate_proj"],
            "rank_pattern": {"v_proj": 2, r"model.layers.1.self_attn.q_proj": 5, "^nothing$": 9},
            "alpha_pattern": {r"layers\.0\..*\.q_proj": 11, "gate_proj": 3},
        },
    ),
    "rslora": (
        "mistral",
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"v_proj": 9}, "target_modules": ["v_proj"]},
    ),
    "some layers": ("gemma", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
    "a fused projection": ("gpt2", {"target_modules": ["attn.c_attn", "mlp.c_proj"]}),
    "the usual": ("gemma3", {}),
    "bfloat16": ("gemma2", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
Adapter = Callable[[str], Path]


def peft_model(family: str, seed: int = 0, **config: Any) -> PeftModel:
    """What PEFT makes, with random factors."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return get_peft_model(random_model(family), LoraConfig(**{**MADE, **config})).eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    return write_data(root / "mine.jsonl")


@pytest.fixture(scope="module")
def model_of(root: Path) -> Adapter:
    def of(family: str) -> Path:
        folder = root / "models" / family
        return folder if folder.exists() else write_family(family, folder)

    return of


@pytest.fixture(scope="module")
def adapter_of(root: Path) -> Adapter:
    """Adapter folders as PEFT saves them."""

    def of(kind: str) -> Path:
        folder = root / "adapters" / kind.replace(" ", "-")
        if not folder.exists():
            family, config = KINDS[kind]
            made = peft_model(family, **config)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (made.to(torch.bfloat16) if kind == "bfloat16" else made).save_pretrained(folder)
        return folder

    return of


def settings(model: Path, data: Path, **changes: object) -> Any:
    keys = {"model.name": str(model), "task.data": str(data), "task.names": ["mine"], "task.evaluation_examples": 16}
    return resolve("lm", "quick", [("test", {**keys, **changes})])


def from_peft(model: Path, adapter: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, adapter).eval()


@every_kind
def test_an_adapter_is_what_peft_makes_of_it(kind: str, adapter_of: Adapter, model_of: Adapter, data: Path) -> None:
    family, _ = KINDS[kind]
    folder, model = adapter_of(kind), model_of(family)
    problem = LanguageModelProblem(settings(model, data, **{"model.adapter": str(folder)}), seed=0)
    theirs = from_peft(model, folder)
    ids = torch.arange(3, 30).view(3, 9)
    with torch.no_grad():
        bare = AutoModelForCausalLM.from_pretrained(model)(input_ids=ids).logits
        fresh = problem.model(input_ids=ids).logits
        problem.parameters.write(problem.operating_point)
        ours, expected = problem.model(input_ids=ids).logits, theirs(input_ids=ids).logits
    assert torch.allclose(fresh, bare, atol=1e-5)  # theta_start: B = 0; oneDNN rounds otherwise
    assert torch.allclose(ours, expected, atol=1e-5, rtol=1e-5)
    assert float((ours - bare).abs().max()) > 1e-2
    pairs, layers = factor_pairs(problem.parameters), dict(theirs.named_modules())
    assert {pair.module for pair in pairs} == {n for n, m in layers.items() if hasattr(m, "get_delta_weight")}
    for pair in pairs:
        assert pair.scale == layers[pair.module].scaling["default"]
        assert pair.a_shape[0] == pair.b_shape[1] == layers[pair.module].r["default"]
    dense = np.concatenate([layers[p.module].get_delta_weight("default").double().ravel() for p in pairs])
    found = position_gram(pairs, torch.stack([problem.operating_point, -2 * problem.operating_point]))
    assert oracles.relative_error(found, float(dense @ dense) * np.array([[1, 4], [4, 16]])) < 1e-5


@every_kind
def test_a_folder_is_read_without_its_model_in_the_live_order(kind: str, adapter_of: Adapter) -> None:
    family, _ = KINDS[kind]
    folder = adapter_of(kind)
    stored = read_adapter(folder)
    live = attach_stored(random_model(family), folder, 0)
    space = ParameterSpace.trainable(live, "lora_factors")
    assert stored.names == space.names
    assert stored.space == space.space
    assert torch.equal(stored.theta(), load_adapter(space, folder))
    assert stored.scales == {pair.module: pair.scale for pair in factor_pairs(space)}
    assert list(stored.scales) == list(stored.factors)
    assert all(tensor.dtype == torch.float32 for tensor in stored.tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_live_order_is_known_for_every_module_of_every_family(family: str, tmp_path: Path) -> None:
    live = peft_model(family, r=1, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live.save_pretrained(tmp_path)
    assert read_adapter(tmp_path).space == ParameterSpace.trainable(live, "lora_factors").space


def test_eleven_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    module = nn.ModuleDict({"layers": nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(2, 2)}) for _ in range(11))})
    live = get_peft_model(module, LoraConfig(r=1, target_modules=["q_proj"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live.save_pretrained(tmp_path)
    assert read_adapter(tmp_path).space == ParameterSpace.trainable(live, "lora_factors").space


def spoilt(folder: Path, copy: Path, **config: object) -> Path:
    """A copy of an adapter folder with another configuration."""
    copy.mkdir()
    body = json.loads((folder / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**body, **config}))
    save_file(load_file(folder / "adapter_model.safetensors"), copy / "adapter_model.safetensors")
    return copy


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora = True .*magnitude"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .*whole modules"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices .*embedding"),
        ({"layer_replication": [[0, 2]]}, "layer_replication .*repeated"),
        ({"lora_bias": True}, "lora_bias"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA .*input"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 0}, "rank r = 0"),
        ({"lora_alpha": "8"}, "alpha lora_alpha = '8'"),
        ({"rank_pattern": {"(": 2}}, r"'\(' is no regular expression"),
        ({"from_the_future": {"x": 1}}, "from_the_future .*does not know"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_plain_lora_is_refused_with_the_reason(
    config: dict[str, object], words: str, adapter_of: Adapter, tmp_path: Path
) -> None:
    folder = spoilt(adapter_of("a list"), tmp_path / "spoilt", **config)
    for read in (read_adapter, lambda path: adapter_settings("smollm2-135m", path, 0)):
        with pytest.raises(InputError, match=words) as caught:
            read(folder)
        assert "Supported is plain LoRA" in str(caught.value)


def no_folder(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def torn(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


def no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def other_rank(folder: Path) -> None:
    body = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**body, "r": 5}))


def without(factor: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        kept = {name: t for name, t in tensors.items() if not (factor in name and "layers.1" in name)}
        save_file(kept, folder / "adapter_model.safetensors")

    return remove


def more(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_folder, "does not exist"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (no_json, "not valid JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "pickled adapters are not loaded"),
        (pickled, "pickled adapters are not loaded.*safe_serialization"),
        (torn, "cannot be read"),
        (other_rank, "rank 3, but adapter_config.json says 5"),
        (without("lora_B"), "no matching pair"),
        (more, "lm_head.weight, which is no factor"),
    ],
)
def test_folders_that_are_not_whole_are_refused(
    spoil: Callable[[Path], None], words: str, adapter_of: Adapter, tmp_path: Path
) -> None:
    folder = spoilt(adapter_of("a list"), tmp_path / "spoilt")
    spoil(folder)
    with pytest.raises(InputError, match=words):
        read_adapter(folder)


@pytest.mark.parametrize(("kind", "words"), [("all linear in gpt2", "does not fit"), ("rslora", "has one of shape")])
def test_an_adapter_of_another_model_is_refused_before_anything_is_written(
    kind: str,
    words: str,
    adapter_of: Adapter,
    model_of: Adapter,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = model_of("qwen2")  # its v_proj is of another shape than Mistral's
    if kind == "rslora":
        folder = tmp_path / "wider"
        folder.mkdir()
        tensors = load_file(adapter_of(kind) / "adapter_model.safetensors")
        save_file(
            {n: t.repeat(1, 2) if "lora_A" in n else t for n, t in tensors.items()},
            folder / "adapter_model.safetensors",
        )
        (folder / "adapter_config.json").write_text((adapter_of(kind) / "adapter_config.json").read_text())
    else:
        folder = adapter_of(kind)
    code = cli.main(arguments(model, data, tmp_path / "out", "--adapter", str(folder)))
    assert code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "trained on" in message or "on which model" in message
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_not_lora_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(random_model("llama"), IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="peft_type is 'IA3'"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recovery.space": "full"}, "model.adapter is given and recovery.space is full"),
        ({"damage.kind": "gaussian"}, "start of model.adapter is not known"),
    ],
)
def test_what_an_adapter_does_not_go_with(
    changes: dict[str, str],
    words: str,
    adapter_of: Adapter,
    model_of: Adapter,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments(model_of("llama"), data, tmp_path / "out", "--adapter", str(adapter_of("a list")), **changes)
    assert cli.main(command) == 2
    assert words in capsys.readouterr().err
    assert cli.main(["run", "synthetic", "--adapter", "x"]) == 2
    assert "--adapter is for `lineament run lm`" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(root: Path, model_of: Adapter, data: Path) -> Path:
    """A finished run, whose trained adapter is taken by others as theirs."""
    out = root / "trained"
    assert (
        cli.main(arguments(model_of("llama"), data, out, **{"lora.rank": "3", "lora.targets": "q_proj,up_proj"})) == 0
    )
    return out


def figures(out: Path, name: str = "basis_capture") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "records" / f"{name}-mine-seed0.json").read_text())["figures"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("with_start", [False, True])
def test_a_run_around_an_adapter_trains_to_no_operating_point(
    with_start: bool, trained: Path, model_of: Adapter, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star, out = trained / "adapters" / "mine-seed0" / "star", tmp_path / "out"
    more = {}
    if with_start:
        start = tmp_path / "start"
        stages = load_file(trained / "stages" / "operating-seed0.safetensors")
        live = attach_stored(random_model("llama"), star, 7)
        space = ParameterSpace.trainable(live, "lora_factors")
        space.write(stages["start"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live.save_pretrained(start)
        more = {"model.adapter_start": str(start)}
    command = arguments(model_of("llama"), data, out, "--adapter", str(star), **more)
    command.remove("--quiet")
    assert cli.main(command) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "adapter on q_proj, up_proj" in said
    assert ("static_start is left out" in said) is not with_start
    stages = load_file(out / "stages" / "operating-seed0.safetensors")
    theirs = load_file(trained / "stages" / "operating-seed0.safetensors")
    assert torch.equal(stages["star"], theirs["star"])
    assert ("early" in stages) is with_start
    if with_start:
        assert torch.equal(stages["start"], theirs["start"])
        assert torch.equal(stages["early"], theirs["early"])  # the same first steps from the same start
    starts = [f for f in figures(out) if f["quantity"] == "capture" and f["labels"]["basis"] == "static_start"]
    assert starts
    assert all((f["value"] is not None) is with_start for f in starts if f["labels"]["definition"] == "whole")
    if not with_start:
        assert {f["reason"] for f in starts} == {"theta_start of the adapter is not known (model.adapter_start)"}
    prefix = [f["value"] for f in figures(out) if f["quantity"] == "capture" and f["labels"]["basis"] == "prefix"]
    assert None not in prefix[:1]
    base = [f["value"] for run in (out, trained) for f in figures(run) if f["labels"].get("point") == "start"]
    assert base[: len(base) // 2] == pytest.approx(base[len(base) // 2 :], abs=1e-6)  # B = 0: the model's own answers


@pytest.mark.slow
def test_random_search_and_the_grid_do_without_an_unknown_start(
    trained: Path, model_of: Adapter, data: Path, tmp_path: Path
) -> None:
    keys = {
        "measurement.grid": "true",
        "model.dtype": "bfloat16",
        "search.examples": "4",
        "search.draws": "8",
        "search.counts": "1,2",
        "search.headline_count": "2",
        "search.costs": "0.1",
        "search.spaces": "full,static_start,static_broken",
        "search.informed": "static_start,static_broken,prefix",
        "search.theorem_draws": "8",
        "search.density_draws": "4",
        "search.most_probes": "4",
        "search.lora_ranks": "1",
    }
    star, out = trained / "adapters" / "mine-seed0" / "star", tmp_path / "out"
    more = ("--adapter", str(star), "--measure", "basis_capture,random_search")
    assert cli.main(arguments(model_of("llama"), data, out, *more, **keys)) == 0
    cells = [f for f in figures(out) if f["quantity"] == "grid_recovery_steps"]
    assert len(cells) == 9
    assert {("not known" in (f["reason"] or "")) for f in cells if f["labels"]["damage"] == "gaussian"} == {True}
    searched = figures(out, "random_search")
    assert {f["labels"]["space"] for f in searched if f["quantity"] == "gradient_norm"} == {"full", "static_broken"}
    assert {f["labels"]["variant"] for f in searched if f["quantity"] == "dimension_ratio"} <= {"this study"}
