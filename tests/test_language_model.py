"""Real language models: SmolLM2-135M from its package, and a local GPT-2 folder made on the spot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import lineament, lineament_here
from read_once import read_smollm2
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lineament.errors import InputError
from lineament.problems.adapters import save_adapter
from lineament.problems.encoding import PROMPT
from lineament.problems.factor_pairs import factor_pairs
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.loading import load_model
from lineament.problems.problem import Batch
from lineament.problems.statements import STATEMENT_TASKS
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings
from lineament.vectors.effective import position_gram
from lineament.vectors.gradients import gradient_gram, group_gradients

pytestmark = pytest.mark.lm


@pytest.fixture(scope="module")
def smollm2() -> LanguageModelProblem:
    problem = LanguageModelProblem(resolve("lm", "quick", []), seed=0)
    generator = torch.Generator().manual_seed(0)
    theta = problem.parameters.read()
    problem.parameters.write(
        theta + 1e-3 * torch.randn(theta.shape, generator=generator)
    )  # B = 0 hides half the gradient
    return problem


def widened(batch: Batch, extra: int) -> Batch:
    """The same examples with `extra` more columns of padding that hold a real token."""
    return replace(
        batch,
        input_ids=functional.pad(batch.input_ids, (0, extra), value=504),
        attention_mask=functional.pad(batch.attention_mask, (0, extra)),
    )


def test_three_tasks_share_no_statement_between_splits(smollm2: LanguageModelProblem) -> None:
    assert len(smollm2.tasks) >= 3
    for task in smollm2.tasks:
        splits = smollm2.statements(task)
        sets = [
            {s.text for s in part} for part in (splits.train, splits.validation, splits.evaluation, splits.held_out)
        ]
        assert sum(map(len, sets)) == len(set.union(*sets))


def test_batches_hold_as_many_true_as_false_statements(smollm2: LanguageModelProblem) -> None:
    false, true = smollm2.sample("words", 2, np.random.default_rng(0)).choices
    generator = np.random.default_rng(0)
    counts = [int((smollm2.sample("words", n, generator).targets == true).sum()) for n in (2, 8, 16, 7, 7, 7, 7)]
    assert counts[:3] == [1, 4, 8]
    assert set(counts[3:]) == {3, 4}
    orders = {tuple(smollm2.sample("words", 4, generator).targets[:, 0].tolist()) for _ in range(60)}
    assert len(orders) == 6  # every order of two and two
    assert all(order.count(false) == 2 for order in orders)


def test_loss_is_plain_transformers_loss(smollm2: LanguageModelProblem) -> None:
    statements = smollm2.statements("qualities").evaluation[:4]
    batch = smollm2.encode(statements)
    ours = smollm2.example_losses(batch)
    for i, statement in enumerate(statements):
        ids = smollm2.tokenizer(PROMPT.format(statement=statement.text), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = smollm2.model(input_ids=ids).logits[0, -1]
        plain = functional.cross_entropy(logits[None], batch.targets[i])
        assert abs(float(ours[i].detach()) - float(plain)) < 1e-4 * max(1.0, float(plain))


def test_only_needed_logits_are_computed_and_no_hook_stays(smollm2: LanguageModelProblem) -> None:
    head = smollm2.model.get_output_embeddings()
    shapes = []
    handle = head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    batch = smollm2.fixed("words", "evaluation")
    smollm2.evaluate(batch)
    handle.remove()
    assert sum(rows for rows, _, _ in shapes) == len(batch)
    assert {tuple(rest) for _, *rest in shapes} == {(1, smollm2.model.config.vocab_size)}
    assert not head._forward_pre_hooks
    with pytest.raises(TypeError):
        smollm2.logits(replace(batch, input_ids="not a tensor"))  # type: ignore[arg-type]
    assert not head._forward_pre_hooks


def test_padding_changes_nothing(smollm2: LanguageModelProblem) -> None:
    batch = smollm2.sample("words", 8, np.random.default_rng(0))
    wide = widened(batch, 5)
    with torch.no_grad():
        assert torch.allclose(smollm2.example_losses(batch), smollm2.example_losses(wide), rtol=1e-5, atol=1e-5)
    narrow, padded = group_gradients(smollm2, batch).rows, group_gradients(smollm2, wide).rows
    assert float((narrow - padded).norm() / narrow.norm()) < 1e-5


def test_gram_and_group_gradients_match_one_by_one_in_float64(smollm2: LanguageModelProblem) -> None:
    batch = smollm2.sample("qualities", 6, np.random.default_rng(1))
    smollm2.model.double()
    try:
        dense = torch.stack([smollm2.parameters.gradient(smollm2.loss(batch.rows(slice(i, i + 1)))) for i in range(6)])
        rows, gram = group_gradients(smollm2, batch).rows, gradient_gram(smollm2, batch)
    finally:
        smollm2.model.float()  # float32 -> float64 -> float32 changes no bit
    truth = dense @ dense.T
    assert rows.dtype == torch.float64
    assert float((rows - dense).norm() / dense.norm()) < 1e-9
    assert float((gram - truth).norm() / truth.norm()) < 1e-9
    single = gradient_gram(smollm2, batch)  # in float32, rounding of a 30-layer pass remains
    assert float((single - truth).norm() / truth.norm()) < 1e-3


def test_saved_adapter_loads_in_peft_with_equal_logits(smollm2: LanguageModelProblem, tmp_path: Path) -> None:
    from peft import PeftModel

    save_adapter(smollm2.parameters, smollm2.parameters.read(), tmp_path / "adapter")
    base, _ = read_smollm2()
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    batch = smollm2.fixed("words", "evaluation").rows(slice(0, 2))
    with torch.no_grad():
        theirs = loaded(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        ours = smollm2.logits(batch)
    wanted = theirs.gather(1, batch.positions[..., None].expand(-1, -1, theirs.shape[-1]))
    assert torch.allclose(ours, wanted, atol=1e-3)


def test_effective_gram_is_pefts_delta_weight(smollm2: LanguageModelProblem) -> None:
    theta = smollm2.parameters.read(torch.float64)
    truth = sum(
        float(module.get_delta_weight("default").double().square().sum())
        for name, module in smollm2.model.named_modules()
        if hasattr(module, "get_delta_weight")
    )
    found = position_gram(factor_pairs(smollm2.parameters), theta[None])[0, 0]
    assert abs(found - truth) < 1e-5 * truth


SHORT = {
    "threads": "1",
    "operating.steps": "4",
    "damage.steps": "3",
    "damage.lr": "3e-3",
    "recovery.steps": "6",
    "recovery.threshold": "0.4",
    "task.evaluation_examples": "4",
    "measurement.ranks": "1,2",
    "measurement.headline_rank": "1",
    "measurement.gradients": "4",
    "measurement.minibatch": "2",
    "measurement.curvature_batch": "2",
    "measurement.lanczos_steps": "2",
    "measurement.task_vector_steps": "1",
    "measurement.inside_steps": "1",
    "measurement.inside_batch": "2",
    "measurement.drift_gradients": "2",
    "measurement.drift_rank": "1",
    "recovery.batch": "4",
    "operating.batch": "6",
    "damage.batch": "6",
}


def short(**changes: str) -> list[str]:
    return [part for key, value in {**SHORT, **changes}.items() for part in ("--set", f"{key}={value}")]


def test_short_real_run_ends_with_claims_and_report(tmp_path: Path) -> None:
    done = lineament_here(
        "run", "lm", "--model", "smollm2-135m", "--preset", "quick", "--out", "out", *short(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    body = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert body["model"] == "smollm2-135m"
    claims = {claim["id"]: claim for claim in body["claims"]}
    assert claims["prefix_captures"]["space"] == "lora_factors"
    assert claims["prefix_captures"]["verdict"] == "inconclusive"
    assert claims["prefix_captures"]["reason"] == "one seed"
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_missing_module_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = lineament_here(
        "run", "lm", "--preset", "quick", "--out", "out", "--set", "lora.targets=c_attn", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "c_attn" in done.stderr
    assert "q_proj" in done.stderr
    assert not (tmp_path / "out").exists()


def test_name_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = lineament("run", "lm", "--model", "nobody/no-such-model", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    for word in ("nobody/no-such-model", "local folder", "HF_HUB_OFFLINE", "smollm2-135m"):
        assert word in done.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def tiny_gpt2(folder: Path) -> Path:
    """A random two-layer GPT-2 with a tokenizer trained on the project's own statements."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [s.text + " Answer: True False" for make in STATEMENT_TASKS.values() for s in make()[:300]]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=600, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_local_folder_of_another_architecture_works_the_same(tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "gpt2")
    changes = {"lora.targets": "c_attn", "operating.lr": "1e-2", "operating.steps": "30"}
    done = lineament_here(
        "run", "lm", "--model", str(folder), "--preset", "quick", "--out", "out", *short(**changes), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {c["id"] for c in json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]}


DATA_RUN = {
    "lora.targets": "c_attn",
    "operating.lr": "1e-2",
    "operating.steps": "30",
    "task.names": "mine,words",
    "task.evaluation_examples": "16",
    "steering.examples": "64",
    "steering.folds": "2",
    "steering.random_directions": "3",
    "steering.shuffled_steps": "2",
    "steering.neutral_examples": "4",
    "steering.effect_directions": "1",
}


@pytest.mark.parametrize("pairs", [False, True], ids=["statements", "pairs"])
def test_own_data_become_a_task(tmp_path: Path, pairs: bool) -> None:
    folder = tiny_gpt2(tmp_path / "gpt2")
    rows = [
        {"question": f"Is {i}?", "answer_matching_behavior": "AB"[i % 2], "answer_not_matching_behavior": "BA"[i % 2]}
        if pairs
        else {"statement": f"{i} is odd.", "label": i % 2 == 1}
        for i in range(400)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [part for key, value in DATA_RUN.items() for part in ("--set", f"{key}={value}")]
    command = [
        "run",
        "lm",
        "--model",
        str(folder),
        "--data",
        "mine.jsonl",
        "--measure",
        "steering",
        "--preset",
        "quick",
    ]
    done = lineament_here(*command, "--threads", "1", "--out", "out", *sets, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "records" / "steering-mine-seed0.json").read_text())
    assert record["target"] == "mine"
    assert not (tmp_path / "out" / "recording").exists()
    accuracy = next(f["value"] for f in record["figures"] if f["quantity"] == "task_accuracy")
    assert 0 <= accuracy <= 1
    cosines = [f for f in record["figures"] if f["quantity"] == "step_cosine" and f["null"] is not None]
    assert [f["labels"]["layer"] for f in cosines] == [1, 2]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"statement": "very " * 80 + "long.", "label": True}, "tokens, but .* takes at most 64"),
        ({"statement": "x"}, "line 401: label None"),
    ],
)
def test_bad_data_are_refused_before_anything_is_written(tmp_path: Path, row: dict[str, object], words: str) -> None:
    folder = tiny_gpt2(tmp_path / "gpt2")
    rows = [{"statement": f"{i} is odd.", "label": i % 2 == 1} for i in range(400)]
    rows.append(row)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ["run", "lm", "--model", str(folder), "--data", "mine.jsonl", "--set", "lora.targets=c_attn"]
    sets = ["--set", "task.evaluation_examples=16"]
    done = lineament_here(*command, "--preset", "quick", "--out", "out", *sets, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.search(words, " ".join(done.stderr.split()))
    assert not (tmp_path / "out").exists()


def test_full_weights_of_a_local_model(tmp_path: Path) -> None:
    folder = tiny_gpt2(tmp_path / "gpt2")
    settings: Settings = resolve("lm", "quick", [("test", {"model.name": str(folder), "recovery.space": "full"})])
    problem = LanguageModelProblem(settings, seed=0)
    assert problem.parameters.space.kind == "full"
    batch = problem.sample("words", 4, np.random.default_rng(0))
    dense = torch.stack([problem.parameters.gradient(problem.loss(batch.rows(slice(i, i + 1)))) for i in range(4)])
    rows = group_gradients(problem, batch).rows
    assert float((rows - dense).norm() / dense.norm()) < 1e-5


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])


def misshapen(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"][:7].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def incomplete(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.0.attn.c_attn.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def no_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def own_code(folder: Path) -> None:
    classes = {"AutoConfig": "configuration_mine.MyConfig", "AutoModelForCausalLM": "modeling_mine.MyModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": classes}))
    for name in ("configuration_mine.py", "modeling_mine.py"):
        (folder / name).write_text(f"open({str(folder / 'was run')!r}, 'w')")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "could not be loaded.*whole safetensors weights"),
        (misshapen, "could not be loaded"),
        (incomplete, r"lack 1 tensors, transformer\.h\.0\.attn\.c_attn\.weight"),
        (no_tokenizer, "could not be loaded"),
        (no_config, "could not be loaded"),
        (own_code, "needs code that comes with its checkpoint, and Lineament never runs"),
    ],
)
def test_a_spoilt_folder_is_refused_with_advice(
    spoil: Callable[[Path], None], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_gpt2(tmp_path / "gpt2")
    load_model(str(folder))
    spoil(folder)
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("the terminal was asked"))
    with pytest.raises(InputError, match=words) as caught:
        load_model(str(folder))
    assert str(folder) in str(caught.value)
    assert not (folder / "was run").exists()


def test_torn_weights_are_exit_2_without_traceback_and_leave_nothing(tmp_path: Path) -> None:
    truncated(tiny_gpt2(tmp_path / "gpt2"))
    done = lineament_here(
        "run", "lm", "--model", "./gpt2", "--set", "lora.targets=c_attn", "--out", "out", cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "could not be loaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_folder_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_model("./no/such/folder")
