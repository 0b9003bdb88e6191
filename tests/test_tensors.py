"""Safetensors files of ours: the same content gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from lineament.files.tensors import described_tensors, load_tensors

METADATA = {"kind": "full", "layout": "0" * 16, "label": 'prefix "é" \n', "model": "m", "a": ""}
TENSORS = {"columns": torch.arange(6.0).reshape(3, 2), "b": torch.tensor([1, 2, 3], dtype=torch.int8)}


def test_equal_content_gives_equal_bytes() -> None:
    made = {described_tensors(TENSORS, dict(sorted(METADATA.items(), reverse=i % 2 == 0))) for i in range(40)}
    assert len(made) == 1
    assert len({save(TENSORS, metadata=METADATA) for _ in range(40)}) > 1, "the library's own order is fixed now"


def test_such_a_file_is_an_ordinary_one(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(described_tensors(TENSORS, METADATA))
    with safe_open(file, framework="pt") as stored:
        assert stored.metadata() == METADATA
    for name, tensor in load_tensors(file).items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype


def test_nothing_else_writes_metadata_of_several_keys() -> None:
    """Whoever has more than one key must write it in a fixed order."""
    package = Path(__file__).parents[1] / "src" / "lineament"
    found = [p.relative_to(package).as_posix() for p in sorted(package.rglob("*.py")) if "metadata=" in p.read_text()]
    assert found == ["files/tensors.py", "problems/stored_adapters.py", "settings/fields.py", "steering/vector.py"]
