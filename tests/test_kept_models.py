"""A GGUF model is made plain once: later loads read the cache, and give the same model, one that can be trained."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, Trainer, TrainingArguments

from lineament.cli import main
from lineament.errors import InputError
from lineament.problems import loading
from lineament.problems.kept_models import MARKER, content_hash, delete_kept, keep_model, kept_model, kept_models
from lineament.problems.loading import SMOLLM2, load_model, smollm2_file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINEAMENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


def write_half(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    raise OSError(28, "No space left on device")


def test_a_folder_is_kept_whole_or_not_at_all(cache: Path) -> None:
    assert kept_model("a") is None
    with pytest.raises(OSError, match="No space"):
        keep_model("a", {}, write_half)
    assert kept_models() == []
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    folder = keep_model("a", {"file": "x.gguf"}, write)
    assert kept_model("a") == folder
    assert kept_models() == [folder]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", MARKER, "model.safetensors"]


def test_a_killed_writer_leaves_no_model(cache: Path) -> None:
    (cache / "gguf-a").mkdir(parents=True)  # without a marker: not whole
    (cache / ".tmp-lineament-gguf-b").mkdir()
    (cache / ".tmp-lineament-gguf-b" / "config.json").write_text("half")
    assert kept_model("a") is None
    assert kept_model("b") is None
    folder = keep_model("b", {}, write)
    assert (folder / "config.json").read_text() == "{}"
    assert not (cache / ".tmp-lineament-gguf-b").exists()


def test_of_several_that_ask_at_once_one_writes(cache: Path) -> None:
    written = []

    def slow(folder: Path) -> None:
        written.append(folder)
        write(folder)

    threads = [threading.Thread(target=keep_model, args=("a", {}, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert kept_models() == [cache / "gguf-a"]


def test_only_files_that_the_marker_names_are_deleted(cache: Path) -> None:
    folder, other = (keep_model(name, {}, write) for name in ("a", "b"))
    (folder / "mine.safetensors").write_text("somebody's")
    delete_kept(folder)
    delete_kept(other)
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]
    assert sorted(path.name for path in cache.iterdir()) == ["gguf-a", "lineament.json"]
    assert kept_models() == []


def test_the_command_lists_and_clears_both_kinds_and_nothing_else(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_model("a", {}, write)
    (cache / "synthetic-0123456789abcdef.safetensors").write_bytes(b"base")
    (cache / "gguf-theirs").mkdir()
    (cache / "gguf-theirs" / "model.safetensors").write_bytes(b"theirs")
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert "gguf-a" in listed
    assert "synthetic-0123456789abcdef" in listed
    assert "theirs" not in listed
    assert main(["cache", "clear"]) == 0
    assert [str(path.relative_to(cache)) for path in sorted(cache.rglob("*.safetensors"))] == [
        "gguf-theirs/model.safetensors"
    ]
    assert kept_models() == []


def test_the_key_is_of_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (content_hash(tmp_path / name, "float32") for name in "abc")
    assert a == b != c
    assert content_hash(tmp_path / "a", "bfloat16") != a


@pytest.mark.lm
class TestSmolLM2:
    def test_logits_are_those_of_the_gguf_file_and_later_loads_leave_it_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load_model(SMOLLM2)
        monkeypatch.setattr(loading, "_load_gguf", lambda *given: pytest.fail("the GGUF file was read again"))
        model, tokenizer = load_model(SMOLLM2)
        file = smollm2_file()
        plain = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        own = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        text = "Being honest is good. Answer: True"
        rows = own(text, return_tensors="pt")
        assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
        assert tokenizer.special_tokens_map == own.special_tokens_map
        assert tokenizer.chat_template == own.chat_template
        with torch.no_grad():
            assert torch.equal(model(**rows).logits, plain(**rows).logits)

    def test_it_can_be_fine_tuned_and_saved(self, tmp_path: Path) -> None:
        model, _ = load_model(SMOLLM2)
        Trainer(model=model, args=TrainingArguments(str(tmp_path / "out"), report_to=[], use_cpu=True))
        model.save_pretrained(tmp_path / "saved")
        assert (tmp_path / "saved" / "model.safetensors").exists()

    def test_without_a_cache_the_model_is_the_same_and_plain(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept, _ = load_model(SMOLLM2)
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("LINEAMENT_CACHE", str(tmp_path / "file" / "cache"))
        model, _ = load_model(SMOLLM2)
        assert not getattr(model, "is_quantized", False)
        assert not getattr(model.config, "quantization_config", None)
        pairs = zip(kept.state_dict().items(), model.state_dict().items(), strict=True)
        assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)

    def test_a_damaged_copy_says_what_to_delete(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        key = content_hash(smollm2_file(), "float32", loading.transformers.__version__)
        folder = keep_model(key, {}, write)
        with pytest.raises(InputError, match=r"could not be loaded.*delete .*gguf-") as caught:
            load_model(SMOLLM2)
        assert str(folder) in str(caught.value)
