"""Our control vectors as repeng 0.4.0 reads and writes them: recorded by tests/data/make_repeng_fixture.py.

`python tests/test_steering_repeng.py` writes the file that repeng is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor

from lineament.steering.formats import TAGS_KEY, read_gguf, write_gguf
from lineament.steering.vector import SteeringVector, VectorTags

DATA = Path(__file__).parent / "data"
OURS, THEIRS = DATA / "control_vector.gguf", DATA / "control_vector_repeng.gguf"
MODEL_TYPE = "llama"


def vector() -> SteeringVector:
    """Every value has its own place and layer; among them a negative zero, a subnormal and the largest float32."""
    directions = {layer: torch.arange(10, dtype=torch.float32) + 100 * layer for layer in (2, 3, 30)}
    directions[3][:3] = torch.tensor([-0.0, 1e-45, 3.4028234663852886e38])
    return SteeringVector(directions, VectorTags(model="tiny", n_layers=30, method="caa", n_examples=3))


def bits(directions: dict[int, Tensor]) -> dict[int, list[int]]:
    return {key: direction.view(torch.int32).tolist() for key, direction in directions.items()}


def content(path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Metadata without the text of our tags, which repeng does not look at, and float32 bits of every tensor."""
    reader = GGUFReader(path)
    fields = {name: None if name == TAGS_KEY else field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor.data.view("int32").tolist() for tensor in reader.tensors}


def test_what_repeng_read_is_what_is_written_today(tmp_path: Path) -> None:
    write_gguf(vector(), tmp_path / "v.gguf", MODEL_TYPE)
    assert content(tmp_path / "v.gguf") == content(OURS)


def test_repeng_found_every_direction_at_its_block() -> None:
    fields, tensors = content(THEIRS)
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == MODEL_TYPE
    assert fields["controlvector.layer_count"] == 3
    assert tensors == {f"direction.{block}": row for block, row in bits(vector().layer_activations).items()}
    assert TAGS_KEY not in fields  # so it is repeng's file, not a copy of ours


def test_a_file_of_repeng_is_read_bit_for_bit() -> None:
    found = read_gguf(THEIRS)
    assert found.tags == VectorTags()
    assert bits(dict(found.directions)) == bits(dict(vector().directions))


if __name__ == "__main__":
    write_gguf(vector(), OURS, MODEL_TYPE)
