"""Recordings made from saved checkpoints equal those that were made live."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from problems_table import seeded
from safetensors.torch import save_file
from test_trainer_callback import adapted, tiny, trainer

from lineament import cli
from lineament.errors import InputError
from lineament.integrations.checkpoints import find_checkpoints, record_checkpoints
from lineament.integrations.trainer_callback import LineamentCallback


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's training of eight steps: step-0 factors, a checkpoint every second step, and a live recording."""
    folder = tmp_path_factory.mktemp("trained")
    model = adapted()
    model.save_pretrained(folder / "start")
    callback = LineamentCallback(folder / "live", every=2)
    trainer(model, folder, callback, max_steps=8, save_strategy="steps", save_steps=2).train()
    return folder


def test_adapters_of_a_training_give_its_recording(trained: Path, tmp_path: Path) -> None:
    made = record_checkpoints(trained / "trainer", tmp_path / "made", start=trained / "start")
    live = LineamentCallback(trained / "live").trajectory()
    assert made.space == live.space
    assert list(made.steps) == list(live.steps) == [2, 4, 6, 8]
    assert [(p.module, p.scale) for p in made.pairs()] == [(p.module, p.scale) for p in live.pairs()]
    torch.testing.assert_close(made.updates(1, 4).rows, live.updates(1, 4).rows, rtol=0, atol=1e-6)
    np.testing.assert_allclose(made.gram().gram, live.gram().gram, rtol=1e-4)


def test_without_a_start_it_begins_at_the_first_checkpoint(trained: Path, tmp_path: Path) -> None:
    made = record_checkpoints(trained / "trainer", tmp_path / "made")
    assert made.first_step == 2
    assert made.n_steps == 3


def test_whole_models(tmp_path: Path) -> None:
    model = tiny()
    callback = LineamentCallback(tmp_path / "live", every=2)
    trainer(model, tmp_path, callback, max_steps=6, save_strategy="steps", save_steps=2).train()
    made = record_checkpoints(tmp_path / "trainer", tmp_path / "made")
    live = callback.trajectory().updates(2, 3).rows
    assert made.space.kind == "full"
    np.testing.assert_allclose((made.updates(1, 2).rows ** 2).sum(), (live**2).sum(), rtol=1e-4)


def test_missing_steps_are_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "trainer", tmp_path / "gaps")
    shutil.rmtree(tmp_path / "gaps" / "checkpoint-4")
    arguments = ["record-from-checkpoints", str(tmp_path / "gaps"), "--out", str(tmp_path / "made"), "--quiet"]
    assert cli.main(arguments) == 2
    assert "4 is missing" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert cli.main([*arguments, "--allow-gaps"]) == 0
    assert cli.main(["analyze", str(tmp_path / "made"), "--quiet"]) == 0
    assert "equally many steps apart" in (tmp_path / "made" / "analysis" / "report.html").read_text()


def test_bad_folders(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_checkpoints(tmp_path / "nothing")
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match="Pickled weights are not loaded"):
        find_checkpoints(tmp_path)
    shutil.copytree(trained / "trainer", tmp_path / "torn")
    (tmp_path / "torn" / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        record_checkpoints(tmp_path / "torn", tmp_path / "made")
    shutil.copytree(trained / "trainer", tmp_path / "scaled")
    config = tmp_path / "scaled" / "checkpoint-6" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 32}))
    with pytest.raises(InputError, match="other LoRA scales"):
        record_checkpoints(tmp_path / "scaled", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_an_adapter_of_another_name_lies_in_a_folder_of_that_name(tmp_path: Path) -> None:
    """PEFT saves an adapter that is not called `default` below the checkpoint's folder."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True)
    model = seeded(lambda: get_peft_model(tiny(), config, adapter_name="mine"))
    model.save_pretrained(tmp_path / "start")
    callback = LineamentCallback(tmp_path / "live", every=2)
    trainer(model, tmp_path, callback, max_steps=8, save_strategy="steps", save_steps=2).train()
    assert (tmp_path / "trainer" / "checkpoint-2" / "mine" / "adapter_config.json").exists()
    live = callback.trajectory()
    made = record_checkpoints(tmp_path / "trainer", tmp_path / "made", start=tmp_path / "start")
    assert made.space == live.space
    assert [(p.module, p.scale) for p in made.pairs()] == [(p.module, p.scale) for p in live.pairs()]
    torch.testing.assert_close(made.updates(1, 4).rows, live.updates(1, 4).rows, rtol=0, atol=1e-6)
    end = str(tmp_path / "trainer" / "checkpoint-8" / "mine")
    assert cli.main(["analyze", str(tmp_path / "made"), "--end", end, "--quiet"]) == 0
    shutil.copytree(tmp_path / "trainer" / "checkpoint-2" / "mine", tmp_path / "trainer" / "checkpoint-2" / "another")
    with pytest.raises(InputError, match="another, mine; name one"):
        find_checkpoints(tmp_path / "trainer")
    assert [place.adapter for place in find_checkpoints(tmp_path / "trainer", "mine")] == ["mine"] * 4
    with pytest.raises(InputError, match="an adapter 'theirs'"):
        find_checkpoints(tmp_path / "trainer", "theirs")


def saved(folder: Path, names: list[str], values: list[float]) -> None:
    for name, value in zip(names, values, strict=True):
        (folder / name).mkdir(parents=True)
        save_file({"weight": torch.full((3,), float(value))}, folder / name / "model.safetensors")


def test_the_last_checkpoint_may_be_off_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "run", [f"checkpoint-{step}" for step in (500, 1000, 1500, 2000, 2187)], [0, 1, 2, 2, 3])
    arguments = ["record-from-checkpoints", str(tmp_path / "run"), "--out", str(tmp_path / "made"), "--quiet"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "the last update is of 187 steps, the others of 500" in printed
    assert "steps 1500 and 2000 are identical" in printed
    saved(tmp_path / "gap", [f"checkpoint-{step}" for step in (500, 1000, 2000, 2187)], [0, 1, 2, 3])
    with pytest.raises(InputError, match="1500 is missing"):
        record_checkpoints(tmp_path / "gap", tmp_path / "other")


@pytest.mark.parametrize("name", ["run-20241103", "run_2024-11-03", "final-20241103-101500", "x-2024_11_03_10_15"])
def test_names_that_end_in_a_date_are_no_steps(tmp_path: Path, name: str) -> None:
    """20241103 had been taken for a step, and the points between for twenty million missing ones."""
    saved(tmp_path, ["checkpoint-500", "checkpoint-1000", name], [0, 1, 2])
    with pytest.raises(InputError, match="ends in a date"):
        find_checkpoints(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint-20241399", "step_120000", "checkpoint-2024", "epoch3-step200"])
def test_other_numbers_are_steps(tmp_path: Path, name: str) -> None:
    saved(tmp_path, [name], [0])
    assert len(find_checkpoints(tmp_path)) == 1


def test_steps_that_are_far_apart_are_judged_at_once(tmp_path: Path) -> None:
    saved(tmp_path, ["checkpoint-1", "checkpoint-2", "checkpoint-5000000000"], [0, 1, 2])
    with pytest.raises(InputError, match="3, 4, 5, 6, 7 are missing"):
        record_checkpoints(tmp_path, tmp_path / "made")
