"""`lineament model`: a plain folder that transformers can train, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import lineament_here
from test_language_model import tiny_gpt2
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from lineament.problems import loading
from lineament.problems.loading import SMOLLM2, load_model, write_model


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(number, number + 6) + 5
        return {"input_ids": ids, "labels": ids}


def trained(folder: Path, out: Path) -> float:
    """Train the model of a folder for one step as its owner would; return how far its weights went."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    args = TrainingArguments(
        str(out), max_steps=1, per_device_train_batch_size=2, learning_rate=1e-3, report_to=[], use_cpu=True
    )
    Trainer(model=model, args=args, train_dataset=Rows()).train()
    return sum(float((a.detach() - b).norm()) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.lm
@pytest.mark.slow
def test_smollm2_becomes_a_folder_that_a_trainer_trains(tmp_path: Path) -> None:
    folder = tmp_path / "plain" / "smollm2"
    done = lineament_here("model", SMOLLM2, "--out", str(folder), "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "134,515,008 parameters in float32" in done.stdout
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]
    own, tokenizer = load_model(SMOLLM2)
    rows = tokenizer("Being honest is good.", return_tensors="pt")
    again = AutoTokenizer.from_pretrained(folder)
    assert again("Being honest is good.")["input_ids"] == rows["input_ids"][0].tolist()
    assert again.chat_template == tokenizer.chat_template
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(**rows).logits, own(**rows).logits)
    assert trained(folder, tmp_path / "out") > 0


def test_a_folder_in_another_type(tmp_path: Path) -> None:
    source = tiny_gpt2(tmp_path / "gpt2")
    done = lineament_here("model", str(source), "--out", str(tmp_path / "half"), "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {file.stat().st_mode for file in (tmp_path / "half").iterdir()} == {(source / "config.json").stat().st_mode}
    assert "done in" in done.stderr


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(str(tiny_gpt2(tmp_path / "gpt2")))
    real = loading._writer(model, tokenizer)

    def half(folder: Path) -> None:
        real(folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loading, "_writer", lambda *_: half)
    with pytest.raises(OSError, match="No space"):
        write_model(model, tokenizer, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpt2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.gguf", "--out", "new"], "nowhere.gguf does not exist"),
        (["./nowhere", "--out", "new"], "does not exist"),
        (["./nowhere"], "needs --out"),
        (["./nowhere", "--out", "full"], "full is not empty"),
        (["./nowhere", "--out", "full/file"], "is a file"),
        (["./nowhere", "--out", "new", "--dtype", "float16"], "one of float32, bfloat16"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    done = lineament_here("model", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]
