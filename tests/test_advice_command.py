"""`lineament advise --check` on real runs: inside a run folder, and on a recording of transformers' Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from families import write_data, write_family
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments, default_data_collator

from lineament import cli
from lineament.files.reading import read_json
from lineament.files.schemas import FOLDER as SCHEMAS
from lineament.integrations.trainer_callback import LineamentCallback
from lineament.problems.labelled_data import read_labelled
from lineament.problems.language_model import LanguageModelProblem
from lineament.records import load_records
from lineament.settings.presets import resolve

pytestmark = pytest.mark.slow


def bodies(out: Path) -> list[dict[str, Any]]:
    body = json.loads((out / "advice.json").read_text())
    jsonschema.validate(body, read_json(SCHEMAS / "advice.schema.json"))
    lines: list[dict[str, Any]] = body["advice"]
    return lines


def test_a_run_folder_says_how_its_recordings_are_trained_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    one = str(finished / "recording" / "copy-seed1")
    checked = ["advise", one, "--check", "--out", str(out), "--quiet", "--threads", "1"]
    assert cli.main([*checked, "--tests", "rank,refresh"]) == 0
    refreshes = [line for line in bodies(out) if line["quantity"] == "refresh_lag"]
    assert not any("no gradients were recorded" in (line["reason"] or "") for line in refreshes)
    assert "made again at each recorded point" in " ".join(capsys.readouterr().out.split())
    assert cli.main([*checked, "--tests", "rank"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "cutting dW down to rank" in printed
    assert "made again at each recorded point" in printed  # of the first check
    tested = [line for line in bodies(out) if line["tested"]]
    assert {line["quantity"] for line in tested} >= {"mean_module_rank"}
    assert {line["standing"] for line in tested} <= {"passed", "failed"}
    (test,) = (record for record in load_records(out / "records") if record.measurement == "advice_check")
    start, end = (test.value("run_loss", point=point) for point in ("start", "end"))
    assert start is not None
    assert end is not None
    assert end < start
    assert "cutting dW down to rank" in (out / "report.html").read_text()
    written = (out / "advice.json").read_bytes()
    # what was tested stays, without --check too, until something else is analyzed there
    assert cli.main(["advise", one, "--out", str(out), "--quiet"]) == 0
    assert (out / "advice.json").read_bytes() == written
    assert cli.main(["advise", one, "--out", str(out), "--quiet", "--window", "4", "--plane-rank", "1"]) == 0
    assert not any(line["tested"] for line in bodies(out))
    assert not list((out / "records").glob("advice_check-*"))


def test_flags_that_a_run_folder_answers_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", str(finished), "--check", "--model", "m", "--quiet"]) == 2
    assert "leave --model out" in capsys.readouterr().err
    assert not (finished / "analysis").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA training by transformers' Trainer on a tiny random GPT-2, recorded with its gradients."""
    folder = tmp_path_factory.mktemp("trained")
    write_family("gpt2", folder / "model")
    write_data(folder / "mine.jsonl")
    model = GPT2LMHeadModel.from_pretrained(folder / "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn"], fan_in_fan_out=True)
        adapted = get_peft_model(model, config)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=60, per_device_train_batch_size=16, learning_rate=1e-2,
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        lr_scheduler_type="constant",
    )  # fmt: skip
    callback = LineamentCallback(folder / "recording", gradients=True, task="mine")
    Trainer(
        model=adapted,
        args=arguments,
        train_dataset=answered(folder),
        data_collator=default_data_collator,
        callbacks=[callback],
    ).train()
    adapted.save_pretrained(folder / "adapter")
    return folder


def answered(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The statements of the data file as the package asks them, each with its answer as the one label."""
    settings = resolve("lm", "quick", [("here", {"model.name": str(folder / "model"), "task.names": ("words",)})])
    problem = LanguageModelProblem(settings, 0, for_study=False)
    batch = problem.encode(list(read_labelled(str(folder / "mine.jsonl")).items))
    ids = torch.nn.functional.pad(batch.input_ids, (0, 1))
    rows = torch.arange(len(ids))
    answers = torch.full_like(ids, -100)
    answers[rows, batch.positions[:, 0] + 1] = batch.targets[:, 0]
    ids[rows, batch.positions[:, 0] + 1] = batch.targets[:, 0]
    return [{"input_ids": i, "labels": a} for i, a in zip(ids, answers, strict=True)]


def advice_of(folder: Path, out: Path, *more: str) -> int:
    command = ["advise", str(folder / "recording"), "--check", "--out", str(out), "--quiet", "--threads", "1"]
    return cli.main([*command, "--window", "4", "--plane-rank", "2", "--examples", "16", *more])


def test_a_recording_of_the_trainer_is_tested_on_the_model_and_data_that_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--model", str(trained / "model"), "--data", str(trained / "mine.jsonl"))
    assert advice_of(trained, tmp_path / "out", *given) == 2
    assert "--adapter is missing" in capsys.readouterr().err
    wrong = tmp_path / "wrong"
    write_family("llama", wrong)
    adapter = ("--adapter", str(trained / "adapter"))
    assert advice_of(trained, tmp_path / "out", "--model", str(wrong), *given[2:], *adapter) == 2
    assert "does not fit" in capsys.readouterr().err
    assert advice_of(trained, tmp_path / "out", *given, *adapter, "--examples", "90") == 2
    assert "--examples 17" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert advice_of(trained, tmp_path / "out", *given, *adapter) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "below 1: on other batches" in printed
    (record,) = (r for r in load_records(tmp_path / "out" / "records") if r.measurement == "advice_check")
    assert (record.value("run_drop") or 0) > 0.1
    lines = [line for line in bodies(tmp_path / "out") if line["testable"]]
    lines = [line for line in lines if line["labels"].get("space_of") != "lora_effective"]
    assert {line["standing"] for line in lines if line["quantity"] == "steps_to_span"} <= {"passed", "failed"}
    for line in lines:
        assert (line["standing"] in ("passed", "failed")) == (line["tested"] is not None)
        if line["tested"]:
            assert all(part["holds"] is not None for part in line["tested"]["conditions"])
    assert "training only these" in printed
    assert "untested: a sum of dW is no sum of its factors" in printed
    assert "random directions" in printed


def test_tests_are_judged_on_the_data_that_are_named_for_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where every answer of the held-out data is the other one, training makes its loss rise: no drop, no test."""
    rows = [json.loads(line) for line in (trained / "mine.jsonl").read_text().splitlines()]
    wrong = [{**row, "label": not row["label"]} for row in rows if row["label"] in (True, False)][:40]
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    given = ("--model", str(trained / "model"), "--data", str(trained / "mine.jsonl"))
    judged = (*given, "--adapter", str(trained / "adapter"), "--held-out", str(foreign), "--tests", "rank")
    assert advice_of(trained, tmp_path / "out", *judged) == 0
    (record,) = (r for r in load_records(tmp_path / "out" / "records") if r.measurement == "advice_check")
    drop = next(record.select("run_drop"))
    assert drop.value is not None
    assert drop.value < -0.1
    assert "did not fall by more than 3 standard errors" in " ".join(capsys.readouterr().out.split())


def test_data_that_tests_cannot_be_judged_on_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--model", str(trained / "model"), "--data", str(trained / "mine.jsonl"))
    judged = (*given, "--adapter", str(trained / "adapter"), "--held-out", str(tmp_path / "foreign.jsonl"))
    rows = (trained / "mine.jsonl").read_text().splitlines(keepends=True)
    new = [row.replace('": "', '": "999', 1) for row in rows[:3]]
    for text, said in (
        ("{", "foreign.jsonl, line 1"),
        (new[0], "1 row; give at least 2"),
        ("".join([new[0], *rows[4:6]]), "2 of its 3 rows in --data"),
        ("".join([*new, json.dumps({"statement": "9 " * 4000, "label": True})]), "foreign.jsonl, line 4"),
    ):
        (tmp_path / "foreign.jsonl").write_text(text)
        assert advice_of(trained, tmp_path / "out", *judged) == 2
        assert said in " ".join(capsys.readouterr().err.split()), text
    assert not (tmp_path / "out").exists()
    assert cli.main(["advise", str(trained / "recording"), "--held-out", "x.jsonl", "--quiet"]) == 2
    assert "--held-out says how a training is made again" in capsys.readouterr().err
