"""Recording inside real trainers: transformers' Trainer and TRL's SFTTrainer on a tiny GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from problems_table import seeded
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, default_data_collator

from lineament import cli
from lineament.errors import InputError
from lineament.integrations.trainer_callback import LineamentCallback
from lineament.parameters import ParameterSpace
from lineament.records import load_records
from lineament.subspace.optimizer import SubspaceOptimizer
from lineament.subspace.projections import MatrixPlanes
from lineament.vectors.effective import effective_gram
from lineament.vectors.recording.reader import Trajectory

pytestmark = pytest.mark.slow

N_WORDS = 40


def tiny() -> GPT2LMHeadModel:
    sizes = {"vocab_size": N_WORDS, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return seeded(lambda: GPT2LMHeadModel(config))


def adapted(**options: Any) -> nn.Module:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, **options)
    return seeded(lambda: get_peft_model(tiny(), config))


def rows() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, N_WORDS, (64, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in ids]


@pytest.fixture
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer of a few hundred tokens, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 300, "special_tokens": ["<|end|>"], "initial_alphabet": alphabet}
    made.train_from_iterator(["a cat is an animal"], trainers.BpeTrainer(**options))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")


def trainer(model: nn.Module, out: Path, callback: LineamentCallback, **options: Any) -> Trainer:
    usual: dict[str, Any] = {
        "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "use_cpu": True, "report_to": [],
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant",
    }  # fmt: skip
    own = options.pop("own", (None, None))
    arguments = TrainingArguments(output_dir=str(out / "trainer"), **{**usual, **options})
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows(),
        data_collator=default_data_collator,
        callbacks=[callback],
        optimizers=own,
    )


def test_updates_are_those_of_the_optimizer(tmp_path: Path) -> None:
    """Plain SGD: u_t = -lr g_t with the gradient as the optimizer gets it, accumulated over two batches and clipped."""
    model = tiny()
    space = ParameterSpace.trainable(model)
    start = space.read()
    callback = LineamentCallback(tmp_path / "recording", gradients=True, task="rows")
    trainer(model, tmp_path, callback, optim="sgd", gradient_accumulation_steps=2, max_grad_norm=0.5).train()
    recorded = callback.trajectory()
    assert recorded.n_steps == 6
    assert recorded.closed
    assert recorded.about["task"] == "rows"
    assert (recorded.about["optimizer"], recorded.about["lr"]) == ("SGD", 1e-2)
    assert recorded.optimizer.momentum == 0
    assert torch.equal(recorded.start(), start)
    torch.testing.assert_close(recorded.position(6).float(), space.read().cpu(), rtol=0, atol=1e-6)
    assert recorded.gradients is not None
    updates, gradients = recorded.updates(1, 6).rows, recorded.gradients.updates(1, 6).rows
    torch.testing.assert_close(updates, -1e-2 * gradients, rtol=1e-3, atol=1e-7)
    assert float(gradients.norm(dim=1).max()) <= 0.5 + 1e-4


def test_the_optimizer_is_recorded_with_its_schedule_and_groups(tmp_path: Path) -> None:
    """A warm-up from 0, as transformers' default schedule has it, makes the first update exactly zero."""
    callback = LineamentCallback(tmp_path / "recording")
    schedule = {"lr_scheduler_type": "linear", "warmup_steps": 2, "max_steps": 8, "adam_beta1": 0.8}
    trained = trainer(tiny(), tmp_path, callback, weight_decay=0.1, **schedule)
    trained.train()
    recorded = callback.trajectory()
    assert recorded.n_steps == 8
    known = recorded.optimizer
    assert {(g.rule.name, g.rule.momentum, g.rule.weight_decay) for g in known.groups} == {
        ("adamw", 0.8, 0.1),
        ("adamw", 0.8, 0.0),
    }
    assert sum(group.n_params for group in known.groups) == recorded.space.n_params
    shares = [0, 0.5, *(share / 6 for share in range(6, 0, -1))]
    assert known.groups[0].rule.step_sizes == pytest.approx([1e-2 * share for share in shares])
    assert not float(recorded.updates(1, 1).rows.abs().max())
    assert float(recorded.updates(2, 2).rows.abs().max()) > 0
    assert cli.main(["analyze", str(tmp_path / "recording"), "--quiet"]) == 0
    record = load_records(tmp_path / "recording" / "analysis" / "records")[0]
    assert next(record.select("recorded", what="zero updates")).reason == "left out: row 1"
    assert next(record.select("capture", basis="prefix", rank=2, definition="whole")).blind is not None


def adamw(p: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(p, lr=3e-3)


OWN: dict[str, tuple[Callable[[nn.Module], torch.optim.Optimizer], str, float | str]] = {
    "SGD": (lambda m: torch.optim.SGD(m.parameters(), lr=0.1), "SGD", 0.1),
    "groups": (
        lambda m: torch.optim.SGD([{"params": [p], "lr": 0.1 / (1 + i % 2)} for i, p in enumerate(m.parameters())]),
        "SGD",
        "0.1, 0.05",
    ),
    "planes": (
        lambda m: SubspaceOptimizer(adamw(m.parameters()), MatrixPlanes(4), ParameterSpace.trainable(m)),
        "SubspaceOptimizer of AdamW",
        3e-3,
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_an_optimizer_of_ones_own_is_named_and_not_that_of_the_arguments(case: str, tmp_path: Path) -> None:
    """Its step size is told as it was given, and not as a warm-up from 0 begins it."""
    make, name, lr = OWN[case]
    callback = LineamentCallback(tmp_path / "recording")
    model = tiny()
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 3)
    trainer(model, tmp_path, callback, max_steps=3, own=(optimizer, schedule)).train()
    about = callback.trajectory().about
    assert (about["optimizer"], about["lr"]) == (name, lr)


def test_a_run_that_resumes_keeps_the_step_sizes_of_both_parts(tmp_path: Path) -> None:
    schedule = {"lr_scheduler_type": "cosine", "save_strategy": "steps", "save_steps": 3}
    callback = LineamentCallback(tmp_path / "recording")
    trainer(tiny(), tmp_path, callback, **schedule).train()
    wanted = callback.trajectory().optimizer
    again = LineamentCallback(tmp_path / "recording")
    resumed = trainer(tiny(), tmp_path, again, **schedule)
    resumed.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-3"))
    found = again.trajectory().optimizer
    assert found.groups[0].rule.step_sizes == pytest.approx(wanted.groups[0].rule.step_sizes)
    assert len(set(wanted.groups[0].rule.step_sizes)) == 6


@pytest.mark.parametrize("silent", [True, False])
def test_a_training_ends_with_what_to_do_next(silent: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my recording"
    trainer(tiny(), tmp_path, LineamentCallback(folder), max_steps=3, disable_tqdm=silent).train()
    said = f"3 updates recorded: {folder}\nnext:\n  lineament advise '{folder}'\n"
    assert (said in capsys.readouterr().err) is not silent


def test_every_second_step_holds_two_updates(tmp_path: Path) -> None:
    single, double = LineamentCallback(tmp_path / "all"), LineamentCallback(tmp_path / "second", every=2)
    for callback in (single, double):
        trainer(tiny(), tmp_path, callback).train()
    all_rows, second = single.trajectory().updates(1, 6).rows, double.trajectory()
    assert list(second.steps) == [2, 4, 6]
    torch.testing.assert_close(second.updates(1, 3).rows, all_rows.view(3, 2, -1).sum(dim=1), rtol=0, atol=1e-6)


def test_a_run_that_resumes_goes_on_with_its_recording(tmp_path: Path) -> None:
    whole = LineamentCallback(tmp_path / "whole")
    trainer(tiny(), tmp_path / "a", whole, save_strategy="steps", save_steps=3).train()
    cut = LineamentCallback(tmp_path / "cut")
    trainer(tiny(), tmp_path / "b", cut, max_steps=5, save_strategy="steps", save_steps=3).train()
    again = LineamentCallback(tmp_path / "cut")
    resumed = trainer(tiny(), tmp_path / "b", again, save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "trainer" / "checkpoint-3"))
    wanted, found = whole.trajectory(), again.trajectory()
    assert list(found.steps) == list(wanted.steps)
    torch.testing.assert_close(found.updates(1, 6).rows, wanted.updates(1, 6).rows, rtol=1e-4, atol=1e-7)


def test_resuming_where_nothing_fits_is_refused(tmp_path: Path) -> None:
    callback = LineamentCallback(tmp_path / "recording")
    trainer(tiny(), tmp_path / "a", callback, save_strategy="steps", save_steps=3).train()
    other = trainer(tiny(), tmp_path / "b", LineamentCallback(tmp_path / "other"), learning_rate=0.1,
                    save_strategy="steps", save_steps=3)  # fmt: skip
    other.train()
    again = trainer(tiny(), tmp_path / "b", LineamentCallback(tmp_path / "recording"))
    with pytest.raises(InputError, match="another run"):
        again.train(resume_from_checkpoint=str(tmp_path / "b" / "trainer" / "checkpoint-3"))


def test_mixed_precision_records_the_master_weights(tmp_path: Path) -> None:
    model = tiny()
    callback = LineamentCallback(tmp_path / "recording", dtype=torch.bfloat16)
    trainer(model, tmp_path, callback, bf16=True).train()
    end = ParameterSpace.trainable(model).read().cpu()
    moved = end - callback.trajectory().start()
    error = (callback.trajectory().position(6).float() - end).norm() / moved.norm()
    assert float(error) < 0.01


def test_adapters_are_recorded_as_factors_and_answered_in_dw(tmp_path: Path) -> None:
    model = adapted()
    callback = LineamentCallback(tmp_path / "recording")
    trainer(model, tmp_path, callback).train()
    recorded = callback.trajectory()
    assert recorded.space.kind == "lora_factors"
    assert {pair.scale for pair in recorded.pairs()} == {2.0}
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    flat = torch.cat([saved[name.replace(".default", "")].reshape(-1) for name, _ in recorded.tensors])
    torch.testing.assert_close(recorded.position(6).float(), flat, rtol=0, atol=1e-6)
    gram = effective_gram(recorded)
    assert gram.n_steps == 6
    assert gram.space.kind == "lora_effective"


def test_sft_trainer_of_trl(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = GPT2Config(
        vocab_size=len(tiny_tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    model = seeded(lambda: GPT2LMHeadModel(config))
    callback = LineamentCallback(tmp_path / "recording", gradients=True)
    arguments = SFTConfig(
        output_dir=str(tmp_path / "sft"), max_steps=3, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, max_length=32, bf16=False,
    )  # fmt: skip
    data = Dataset.from_dict({"text": ["a cat is an animal", "a dog is an animal", "red is a color"] * 4})
    sft = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tiny_tokenizer, callbacks=[callback],
        peft_config=LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True),
    )  # fmt: skip
    sft.train()
    recorded = callback.trajectory()
    assert (recorded.n_steps, recorded.space.kind) == (3, "lora_factors")
    assert float(recorded.updates(1, 3).rows.norm()) > 0
    assert cli.main(["analyze", str(tmp_path / "recording"), "--quiet"]) == 0


def test_sharded_parameters_are_refused(tmp_path: Path) -> None:
    callback = LineamentCallback(tmp_path / "recording")
    arguments = SimpleNamespace(fsdp=[], fp16=False, max_grad_norm=1.0, optim="sgd", learning_rate=0.1)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    model = nn.Linear(2, 2)
    model.weight.ds_id = 7  # as DeepSpeed ZeRO-3 marks its parameters
    with pytest.raises(InputError, match="ZeRO-3 shards"):
        callback.on_train_begin(arguments, state, None, model=model)
    arguments.fsdp = ["full_shard"]
    with pytest.raises(InputError, match="FSDP shards"):
        callback.on_train_begin(arguments, state, None, model=nn.Linear(2, 2))
    with pytest.raises(InputError, match="no trainable parameter"):
        arguments.fsdp = []
        callback.on_train_begin(arguments, state, None, model=nn.Linear(2, 2).requires_grad_(False))
    assert not (tmp_path / "recording").exists()


def test_scaled_gradients_are_refused(tmp_path: Path) -> None:
    callback = LineamentCallback(tmp_path / "recording", gradients=True)
    arguments = SimpleNamespace(fsdp=[], fp16=True, max_grad_norm=0.0, optim="sgd", learning_rate=0.1)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    with pytest.raises(InputError, match="loss scale"):
        callback.on_train_begin(arguments, state, None, model=nn.Linear(2, 2))


def test_a_training_that_fails_keeps_what_was_recorded(tmp_path: Path) -> None:
    class Failing(LineamentCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == 4:
                raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        trainer(tiny(), tmp_path, Failing(tmp_path / "recording"), save_strategy="steps", save_steps=2).train()
    left = Trajectory(tmp_path / "recording")
    assert not left.closed
    assert left.n_steps >= 2
