"""Every supported family of causal language models: the same study on each, and losses and gradients of plain code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, arguments, random_model, write_data, write_family, write_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from lineament import cli
from lineament.errors import InputError
from lineament.measurements.local_geometry import measurement as local_geometry
from lineament.problems.adapters import USUAL_TARGETS, attach_lora, usual_targets
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.loading import load_model
from lineament.problems.problem import Batch, corrupted
from lineament.records import ALL_TASKS
from lineament.settings.model import LoraSettings
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.study import operating_study
from lineament.study.training import minibatches
from lineament.vectors.gradients import gradient_gram, group_gradients

# Two steps' order on a model of a few thousand parameters, in seconds.
GEOMETRY = {
    "operating.steps": 8,
    "operating.lr": 2e-2,
    "operating.batch": 8,
    "recovery.batch": 4,
    "measurement.task_vector_steps": 2,
    "measurement.minibatch": 4,
    "measurement.drift_gradients": 2,
    "measurement.drift_rank": 1,
    "geometry.float64": True,
    "geometry.examples": 8,
    "geometry.held_out_examples": 8,
    "geometry.rotation_lags": [1],
    "geometry.prompts": 4,
}
every_family = pytest.mark.parametrize("family", FAMILIES)
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Model folders by family, each written once."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def of(family: str) -> Path:
        made[family] = made.get(family) or write_family(family, root / family)
        return made[family]

    return of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "mine.jsonl")


def settings(model: Path, data: Path, **changes: object) -> Settings:
    keys = {"model.name": str(model), "task.data": str(data), "task.names": ["mine"], "task.evaluation_examples": 16}
    return resolve("lm", "quick", [("test", {**keys, "lora.rank": 2, "lora.alpha": 6, **changes})])


def problem_of(model: Path, data: Path, **changes: object) -> LanguageModelProblem:
    """A problem whose adapter is away from B = 0, which hides half the gradient."""
    problem = LanguageModelProblem(settings(model, data, **changes), seed=0)
    generator = torch.Generator().manual_seed(0)
    theta = problem.parameters.read()
    problem.parameters.write(theta + 0.05 * torch.randn(theta.shape, generator=generator))
    return problem


@pytest.mark.parametrize("labels", [None, "shuffled"])
def test_every_minibatch_has_as_many_true_as_false_statements(folder_of: Folder, data: Path, labels: Any) -> None:
    problem = problem_of(folder_of("gpt2"), data)

    def counts(batch: Batch) -> set[int]:
        return {int((part.targets == batch.choices[0]).sum()) for part in batch.chunks(8)}

    assert counts(minibatches(problem, "mine", (12, 8), Streams(0), labels)) == {4}
    pieces = problem.sample("mine", 12 * 8, Streams(0).generator("mine"))
    assert len(counts(pieces)) > 1, "pieces of one balanced sample are balanced too: nothing is tested"


def test_shuffled_labels_of_a_minibatch_come_from_another(folder_of: Folder, data: Path) -> None:
    """Of its own eight labels each example would keep its own with probability 1 / 8."""
    problem = problem_of(folder_of("gpt2"), data)
    true, shuffled = (minibatches(problem, "mine", (3, 8), Streams(0), how) for how in (None, "shuffled"))
    numbered = replace(true, targets=torch.arange(24)[:, None])
    given = corrupted(numbered, "shuffled", Streams(0).generator("labels"), group=8).targets.view(3, 8)
    assert [set(row.tolist()) for row in given] == [set(range(8, 16)), set(range(16, 24)), set(range(8))]
    assert torch.equal(true.input_ids, shuffled.input_ids)
    assert not torch.equal(true.targets, shuffled.targets)


def test_the_families_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "use-your-model.md").read_text()
    for family, (_, _, _, targets) in FAMILIES.items():
        start = f"| `{random_model(family).config.model_type}`"
        row = next(line for line in page.splitlines() if line.startswith(start))
        assert all(f"`{target}`" in row for target in targets), family


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, "float32") for family in FAMILIES), ("llama", "bfloat16"), ("gpt2", "bfloat16")]
)
def test_the_same_study_runs_on_every_family(
    family: str, dtype: str, folder_of: Folder, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with warnings.catch_warnings(record=True) as caught:
        code = cli.main(arguments(folder_of(family), data, out, **{"model.dtype": dtype}))
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert not [str(w.message) for w in caught if "gradient_checkpointing" in str(w.message)]
    assert "Loading weights" not in printed.err
    claims = {claim["id"]: claim for claim in json.loads((out / "claims.json").read_text())["claims"]}
    assert {"prefix_captures", "static_plane_misses", "gradient_low_rank"} <= set(claims)
    record = json.loads((out / "records" / "basis_capture-mine-seed0.json").read_text())
    whole = [
        f
        for f in record["figures"]
        if f["quantity"] == "capture"
        and (f["labels"]["definition"], f["labels"]["at"], f["labels"]["rank"]) == ("whole", "T", 2)
        and f["labels"]["space_of"] == "parameters"
    ]
    values = {f["labels"]["basis"]: f["value"] for f in whole}
    assert {"prefix", "static_start", "static_broken", "krylov", "null_noise_prefix"} <= set(values)
    missing = {name for name, value in values.items() if value is None}
    # one task has one task vector and no other task; three Lanczos steps do not find a second eigenvector
    assert missing <= {"task_vectors", "null_other_task", "static_hessian_top"}
    assert all(0 <= value <= 1 + 1e-9 for value in values.values() if value is not None)
    assert values["prefix"] > values["random"]
    targets = FAMILIES[family][3]
    assert f"adapter on {', '.join(targets)}" in (out / "log.txt").read_text()
    stored = out / "adapters" / "mine-seed0" / "recovered"
    base = AutoModelForCausalLM.from_pretrained(folder_of(family))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = PeftModel.from_pretrained(base, stored)
    layers = [m for m in adapted.modules() if hasattr(m, "get_delta_weight")]
    assert layers
    assert all(float(m.get_delta_weight("default").norm()) > 0 for m in layers)
    assert all(p.dtype == torch.float32 for name, p in adapted.named_parameters() if ".lora_" in name)


def plain_peft(model: Path, targets: tuple[str, ...], state: dict[str, torch.Tensor]) -> PeftModel:
    """What a user would write, with the same factors."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, target_modules=list(targets)))
    missing, unexpected = adapted.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if ".lora_" in name]
    return adapted.eval()


@every_family
def test_losses_and_gradients_are_those_of_plain_code(family: str, folder_of: Folder, data: Path) -> None:
    problem = problem_of(folder_of(family), data)
    batch = problem.sample("mine", 8, np.random.default_rng(0))
    state = {name: p.detach() for name, p in zip(problem.parameters.names, problem.parameters.tensors, strict=True)}
    plain = plain_peft(folder_of(family), FAMILIES[family][3], state)
    logits = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    last = logits[torch.arange(len(batch)), batch.attention_mask.sum(dim=1) - 1]
    losses = functional.cross_entropy(last, batch.targets[:, 0], reduction="none")
    assert torch.allclose(problem.example_losses(batch), losses, rtol=1e-6, atol=1e-6)
    losses.mean().backward()
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    assert list(theirs) == list(problem.parameters.names)
    expected = torch.cat([gradient.reshape(-1) for gradient in theirs.values()])
    found = problem.parameters.gradient(problem.loss(batch))
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    mean = group_gradients(problem, batch).rows.mean(dim=0)
    assert float((mean - expected).norm() / expected.norm()) < 1e-6


@every_family
def test_splits_and_padding_change_no_loss_and_no_gradient(family: str, folder_of: Folder, data: Path) -> None:
    problem = problem_of(folder_of(family), data)
    batch = problem.sample("mine", 6, np.random.default_rng(1))
    whole, losses = group_gradients(problem, batch).rows, problem.example_losses(batch).detach()
    assert len({int(n) for n in batch.attention_mask.sum(dim=1)}) > 1  # rows of several lengths
    singly = [batch.rows(slice(i, i + 1)) for i in range(len(batch))]
    rows = torch.stack([problem.parameters.gradient(problem.loss(one)) for one in singly])
    assert float((whole - rows).norm() / rows.norm()) < 1e-5
    assert torch.allclose(losses, torch.cat([problem.example_losses(one).detach() for one in singly]), atol=1e-5)
    wide = replace(
        batch,
        input_ids=functional.pad(batch.input_ids, (0, 5), value=7),
        attention_mask=functional.pad(batch.attention_mask, (0, 5)),
    )
    assert torch.allclose(losses, problem.example_losses(wide).detach(), atol=1e-5)
    gram = gradient_gram(problem, wide)  # which does not cut the padding off
    exact = rows.double() @ rows.double().T
    assert float((gram - exact).norm() / exact.norm()) < 1e-5
    problem.chunk = 2
    assert float((group_gradients(problem, batch).rows - rows).norm() / rows.norm()) < 1e-5


def test_an_adapter_on_the_output_head_sees_the_wanted_positions_only(folder_of: Folder, data: Path) -> None:
    problem = problem_of(folder_of("llama"), data, **{"lora.targets": ["lm_head", "q_proj"]})
    batch = problem.sample("mine", 5, np.random.default_rng(0))
    with torch.no_grad():
        found = problem.logits(batch)
        every = problem.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert found.shape == (5, 1, every.shape[-1])
    assert torch.allclose(found[:, 0], every[torch.arange(5), batch.positions[:, 0]], atol=1e-6)


def test_bfloat16_is_of_the_base_alone_and_close_to_float32(folder_of: Folder, data: Path) -> None:
    half, single = (problem_of(folder_of("llama"), data, **{"model.dtype": d}) for d in ("bfloat16", "float32"))
    kinds = {".lora_" in name: p.dtype for name, p in half.model.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    batch: Batch = half.sample("mine", 8, np.random.default_rng(0))
    losses = [problem.example_losses(batch).detach() for problem in (half, single)]
    assert losses[0].dtype == torch.float32
    assert 0 < float((losses[0] - losses[1]).abs().max()) < 0.1
    rows = [group_gradients(problem, batch).rows for problem in (half, single)]
    cosines = functional.cosine_similarity(*rows)
    assert float(cosines.min()) > 0.98
    exact = torch.stack([half.parameters.gradient(half.loss(batch.rows(slice(i, i + 1)))) for i in range(8)])
    assert float((rows[0] - exact).norm() / exact.norm()) < 0.05  # bfloat16 rounds rows of other lengths differently


def test_all_weights_in_bfloat16_are_refused(
    folder_of: Folder, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"model.dtype": "bfloat16", "recovery.space": "full"}
    assert cli.main(arguments(folder_of("llama"), data, tmp_path / "out", **keys)) == 2
    assert "swallow updates" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_usual_targets_are_pefts_or_every_linear_layer() -> None:
    for family, (_, _, _, targets) in FAMILIES.items():
        assert tuple(usual_targets(random_model(family))) == targets
    unknown = random_model("gpt2")
    unknown.config.model_type = "something new"
    assert list(usual_targets(unknown)) == ["c_attn", "c_fc", "c_proj"]
    assert usual_targets(random_model("llama")) is USUAL_TARGETS


class Named(torch.nn.Module):
    """A module that shares its name with linear layers elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.ModuleDict({"mix": torch.nn.LayerNorm(4), "proj": torch.nn.Linear(4, 4)})
        self.mix = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(self.inner["proj"](self.inner["mix"](x)))


def test_a_name_that_other_modules_share_means_the_linear_ones() -> None:
    adapted = attach_lora(Named(), LoraSettings(rank=2), 0, ["mix"])
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained == [f"base_model.model.mix.lora_{f}.default.weight" for f in "AB"]
    with pytest.raises(InputError, match=r"no such linear module\. It has: mix, proj"):
        attach_lora(torch.nn.Sequential(Named()), LoraSettings(rank=2), 0, ["inner"])


def bert(folder: Path) -> None:
    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertLMHeadModel(config).save_pretrained(folder)


def t5(folder: Path) -> None:
    config = T5Config(vocab_size=320, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def quantised(folder: Path) -> None:
    random_model("llama").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))


def multimodal(folder: Path) -> None:
    random_model("gemma3").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    text = {**config, "model_type": "gemma3_text"}
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bert, "BertLMHeadModel .* is no causal language model: a token changes what comes before"),
        (t5, r"\(T5\) is an encoder-decoder"),
        (quantised, r"\(Llama\) has quantised weights, whose gradients"),
        (multimodal, r"\(Gemma3\) reads more than text"),
    ],
)
def test_what_is_no_plain_causal_model_is_refused_by_name(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    make(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "GPT-NeoX" in str(caught.value) or "quantised from" in str(caught.value)


def test_bars_and_warnings_are_as_before_after_loading(folder_of: Folder) -> None:
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    bar, filters = modeling_gguf_pytorch_utils.tqdm, list(warnings.filters)
    logging.enable_progress_bar()
    load_model(str(folder_of("llama")))
    assert logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with pytest.raises(InputError):
        load_model("./no/such/folder")
    assert not logging.is_progress_bar_enabled()
    assert modeling_gguf_pytorch_utils.tqdm is bar
    assert warnings.filters == filters


@every_family
def test_the_order_of_two_steps_is_predicted_on_every_family(
    family: str, folder_of: Folder, data: Path, tmp_path: Path
) -> None:
    settings_here = settings(folder_of(family), data, **GEOMETRY)
    problem = LanguageModelProblem(settings_here, seed=0)
    study = operating_study(Case(problem, settings_here, ALL_TASKS, 0, StudyFiles.inside(tmp_path)))
    record = local_geometry.measure(study)
    ratio = record.value("order_ratio", pair="within", eta_kappa=1e-3)
    assert ratio == pytest.approx(1, abs=0.02)
    assert record.value("window_ratio", task="mine", direction="gradient") == pytest.approx(1, abs=0.5)
    assert record.value("median_steering_share") is not None or next(record.select("median_steering_share")).reason
