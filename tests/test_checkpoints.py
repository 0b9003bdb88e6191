"""Recordings made from saved checkpoints equal those that were made live."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
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
