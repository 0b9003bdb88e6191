"""Vectors in files of other tools: bit for bit there and back, at the right layer; everything else is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lineament.errors import InputError, LineamentError
from lineament.steering.formats import TAGS_KEY, from_layer_activations, read_gguf, read_pt, read_vector, write_gguf
from lineament.steering.vector import SteeringVector, VectorTags, save_vector

TAGS = VectorTags("tiny", "ab12", 6, "caa", "answer", "block", "answer", "unit", "cd34", 7, ("01", "02"))
WIDTH = 8  # 32 bytes: the last tensor is not padded, so that every cut of a file tears it
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def directions(*layers: int) -> dict[int, Tensor]:
    return {layer: torch.linspace(-1, layer, WIDTH) for layer in layers}


def vector(*layers: int, tags: VectorTags = TAGS) -> SteeringVector:
    return SteeringVector(directions(*layers), tags)


def same(first: SteeringVector, second: SteeringVector) -> bool:
    """Same tags, layers and float32 bits."""
    return (first.tags, first.layers) == (second.tags, second.layers) and all(
        torch.equal(first.directions[n].view(torch.int32), second.directions[n].view(torch.int32)) for n in first.layers
    )


def write_foreign(path: Path, tensors: dict[str, np.ndarray], **texts: str) -> None:
    """A GGUF file as another tool may write it."""
    writer = GGUFWriter(path, texts.pop("architecture", "controlvector"))
    for key, text in texts.items():
        writer.add_string(key, text)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TestWriteGguf:
    def test_what_llama_cpp_and_repeng_look_for(self, tmp_path: Path) -> None:
        write_gguf(vector(2, 6), tmp_path / "v.gguf", "llama")
        reader = GGUFReader(tmp_path / "v.gguf")
        fields = {name: field.contents() for name, field in reader.fields.items()}
        assert fields["general.architecture"] == "controlvector"
        assert fields["controlvector.model_hint"] == "llama"
        assert fields["controlvector.layer_count"] == 2
        assert {tensor.name: tensor.tensor_type.name for tensor in reader.tensors} == {
            "direction.1": "F32",
            "direction.5": "F32",
        }
        assert np.array_equal(reader.tensors[1].data, directions(6)[6].numpy())

    @given(
        st.integers(1, 9).flatmap(
            lambda width: st.dictionaries(
                st.integers(2, 99), st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=5
            )
        ),
        st.text(),
    )
    def test_round_trip_bit_for_bit(
        self, tmp_path_factory: pytest.TempPathFactory, values: dict[int, list[float]], text: str
    ) -> None:
        made = SteeringVector(
            {layer: torch.tensor(row) for layer, row in values.items()}, VectorTags(model=text, n_layers=99)
        )
        path = tmp_path_factory.getbasetemp() / "vector.gguf"
        write_gguf(made, path, "llama")
        assert same(read_gguf(path), made)

    def test_a_view_in_another_type_is_written_as_float32(self, tmp_path: Path) -> None:
        table = torch.arange(6, dtype=torch.float64).reshape(3, 2)
        write_gguf(SteeringVector({2: table[:, 0], 3: table[:, 1]}), tmp_path / "v.gguf", "llama")
        wanted = SteeringVector({2: table[:, 0].float(), 3: table[:, 1].float()})
        assert same(read_gguf(tmp_path / "v.gguf"), wanted)

    def test_layer_1_is_refused_or_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "v.gguf"
        with pytest.raises(InputError, match=r"has layer 1,.*direction\.0.*skip_first"):
            write_gguf(vector(1, 2), path, "llama")
        assert not path.exists()
        write_gguf(vector(1, 2, 3), path, "llama", skip_first=True)
        assert same(read_gguf(path), vector(2, 3))

    @pytest.mark.parametrize("skip_first", [False, True])
    def test_layer_1_alone_cannot_be_written(self, tmp_path: Path, skip_first: bool) -> None:
        with pytest.raises(InputError, match="layer 1 only"):
            write_gguf(vector(1), tmp_path / "v.gguf", "llama", skip_first)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("site", ["attention", "mlp"])
    def test_only_block_outputs(self, tmp_path: Path, site: Any) -> None:
        with pytest.raises(InputError, match=f"each block's {site}"):
            write_gguf(vector(2, tags=VectorTags(site=site)), tmp_path / "v.gguf", "llama")

    def test_without_a_model_type_repeng_would_refuse_it(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="needs a model type"):
            write_gguf(vector(2), tmp_path / "v.gguf", "")

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "v.gguf"
        write_gguf(vector(2), path, "llama")

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(LineamentError, match=r"could not write .*v\.gguf: No space left"):
            write_gguf(vector(3), path, "llama")
        assert list(tmp_path.iterdir()) == [path]
        assert same(read_gguf(path), vector(2))

    def test_no_room_for_the_temporary_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: object, **named: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lineament.steering.formats.tempfile.TemporaryDirectory", full)
        with pytest.raises(LineamentError, match=r"could not write .*v\.gguf: No space left"):
            write_gguf(vector(3), tmp_path / "v.gguf", "llama")


class TestReadGguf:
    def test_a_file_from_elsewhere_has_no_tags(self, tmp_path: Path) -> None:
        tensors = {f"direction.{block}": np.full(3, block, np.float32) for block in (0, 10, 9)}
        write_foreign(tmp_path / "v.gguf", tensors)
        wanted = {1: torch.full((3,), 0.0), 11: torch.full((3,), 10.0), 10: torch.full((3,), 9.0)}
        assert same(read_gguf(tmp_path / "v.gguf"), SteeringVector(wanted))

    def test_what_was_read_does_not_hang_on_the_file(self, tmp_path: Path) -> None:
        write_gguf(vector(2), tmp_path / "v.gguf", "llama")
        found = read_gguf(tmp_path / "v.gguf")
        with (tmp_path / "v.gguf").open("r+b") as stream:
            stream.write(bytes(stream.seek(0, os.SEEK_END)))
        found.directions[2].mul_(1)  # writable, and not the file's memory
        assert same(found, vector(2))

    @pytest.mark.usefixtures("own_shape_errors")
    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({"token_embd.weight": np.ones((2, 4), np.float32)}, "is no control vector: it holds 'token_embd.weight'"),
            ({"direction.1": np.ones(4, np.float32), "output": np.ones(4, np.float32)}, "it holds 'output'"),
            ({"direction.-1": np.ones(4, np.float32)}, "only tensors direction.N"),
            ({"direction.01": np.ones(4, np.float32)}, "only tensors direction.N"),
            ({"direction.1.bias": np.ones(4, np.float32)}, "only tensors direction.N"),
            ({"direction": np.ones(4, np.float32)}, "only tensors direction.N"),
            ({"direction.1": np.ones(4, np.float16)}, "direction.1 is not float32"),
            ({"direction.1": np.ones(4, np.float64)}, "direction.1 is not float32"),
            ({"direction.1": np.ones((2, 2), np.float32)}, "vectors of one width"),
            ({"direction.1": np.ones(4, np.float32), "direction.2": np.ones(5, np.float32)}, "vectors of one width"),
            ({"direction.1": np.array([1, np.nan], np.float32)}, "not finite"),
            ({}, "at least one layer"),
        ],
    )
    def test_other_tensors_are_refused(self, tmp_path: Path, tensors: dict[str, np.ndarray], said: str) -> None:
        write_foreign(tmp_path / "v.gguf", tensors)
        with pytest.raises(InputError, match=said):
            read_gguf(tmp_path / "v.gguf")

    @pytest.mark.parametrize("text", ["{", "[1]", '{"schema": 1, "tags": {"site": "head"}}'])
    def test_damaged_tags_are_refused(self, tmp_path: Path, text: str) -> None:
        write_foreign(tmp_path / "v.gguf", {"direction.1": np.ones(4, np.float32)}, **{TAGS_KEY: text})
        with pytest.raises(InputError, match=r"v\.gguf(:| holds)"):
            read_gguf(tmp_path / "v.gguf")

    def test_tags_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
        writer.add_uint32(TAGS_KEY, 0xFFFFFFFF)
        writer.add_tensor("direction.1", np.ones(4, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(InputError, match=r"v\.gguf"):
            read_gguf(tmp_path / "v.gguf")

    def test_every_torn_file_is_refused(self, tmp_path: Path) -> None:
        write_gguf(vector(2, 3), tmp_path / "v.gguf", "llama")
        whole = (tmp_path / "v.gguf").read_bytes()
        for end in range(len(whole)):
            (tmp_path / "torn.gguf").write_bytes(whole[:end])
            with pytest.raises(InputError, match=r"torn\.gguf is no whole GGUF file"):
                read_gguf(tmp_path / "torn.gguf")

    @given(st.data())
    def test_a_damaged_byte_is_refused_or_read_never_a_crash(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "damaged.gguf"
        write_gguf(vector(2, 3), path, "llama")
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(content))
        try:
            found = read_gguf(path)
        except InputError:
            return
        assert all(torch.isfinite(direction).all() for direction in found.directions.values())

    def test_a_length_without_end_does_not_hang(self, tmp_path: Path) -> None:
        writer = GGUFWriter(tmp_path / "v.gguf", "controlvector")
        writer.add_array("some.numbers", [0x51, 0x52, 0x53])
        writer.add_tensor("direction.1", np.ones(8, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        content = (tmp_path / "v.gguf").read_bytes()
        length = (3).to_bytes(8, "little")
        assert content.count(length + (0x51).to_bytes(4, "little")) == 1
        (tmp_path / "v.gguf").write_bytes(content.replace(length, (2**63).to_bytes(8, "little")))
        with pytest.raises(InputError, match="ends too early"):
            read_gguf(tmp_path / "v.gguf")


class Runs:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


class TestReadPt:
    @pytest.mark.parametrize("nested", [False, True])
    def test_blocks_from_0_become_layers_from_1(self, tmp_path: Path, nested: bool) -> None:
        blocks = {0: torch.tensor([1.0, -0.0]), 4: torch.tensor([2.0, 1e-42])}
        content = {"layer_activations": blocks, "layer_type": "decoder_block"} if nested else blocks
        torch.save(content, tmp_path / "v.pt")
        assert same(read_pt(tmp_path / "v.pt"), SteeringVector({1: blocks[0], 5: blocks[4]}))

    def test_one_tensor_needs_its_layer(self, tmp_path: Path) -> None:
        torch.save(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), tmp_path / "v.pt")
        assert same(read_pt(tmp_path / "v.pt", layer=3), SteeringVector({3: torch.tensor([1.0, 2.0])}))
        for layer in (None, 0, -1):
            with pytest.raises(InputError, match=r"holds one tensor.* Give its layer"):
                read_pt(tmp_path / "v.pt", layer)

    def test_a_parameter_is_read_without_its_graph(self, tmp_path: Path) -> None:
        torch.save({1: torch.nn.Parameter(torch.ones(2))}, tmp_path / "v.pt")
        found = read_pt(tmp_path / "v.pt").directions[2]
        assert not found.requires_grad
        assert torch.equal(found, torch.ones(2))

    def test_a_layer_that_the_file_names_itself(self, tmp_path: Path) -> None:
        torch.save({1: torch.ones(2)}, tmp_path / "v.pt")
        with pytest.raises(InputError, match="layer 2 was given, but"):
            read_pt(tmp_path / "v.pt", layer=2)

    @pytest.mark.usefixtures("own_shape_errors")
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ([torch.ones(2)], "holds a list; allowed: a dict"),
            (1.5, "holds a float; allowed"),
            ("text", "holds a str; allowed"),
            ({}, "at least one layer"),
            ({"model.norm": torch.ones(2)}, "key 'model.norm' is no block"),
            ({-1: torch.ones(2)}, "key -1 is no block"),
            ({True: torch.ones(2)}, "key True is no block"),
            ({0: [1.0, 2.0]}, "block 0 holds no dense .* but a list"),
            ({0: torch.ones(2, dtype=torch.int64)}, "but a torch.int64 tensor"),
            ({0: torch.ones(2, dtype=torch.complex64)}, "but a torch.complex64 tensor"),
            ({0: torch.ones(2).to_sparse()}, "block 0 holds no dense"),
            ({0: torch.ones(2, device="meta")}, "block 0 holds no dense"),
            ({0: torch.ones(1, 2)}, "vectors of one width"),
            ({0: torch.tensor([float("inf")])}, "not finite"),
            ({"layer_activations": [torch.ones(2)]}, "layer_activations is a list"),
            ({"layer_activations": torch.ones(2)}, "layer_activations is a Tensor"),
        ],
    )
    def test_other_content_is_refused(self, tmp_path: Path, content: object, said: str) -> None:
        torch.save(content, tmp_path / "v.pt")
        with pytest.raises(InputError, match=said):
            read_pt(tmp_path / "v.pt")

    def test_an_integer_tensor_is_refused_at_a_layer_too(self, tmp_path: Path) -> None:
        torch.save(torch.ones(2, dtype=torch.int32), tmp_path / "v.pt")
        with pytest.raises(InputError, match=r"torch\.int32 tensor"):
            read_pt(tmp_path / "v.pt", layer=1)

    def test_code_is_never_run(self, tmp_path: Path) -> None:
        trap = tmp_path / "was_run"
        torch.save({0: torch.ones(2), 1: Runs(trap)}, tmp_path / "v.pt")
        (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs(trap), protocol=2))
        for name in ("v.pt", "plain.pt"):
            with pytest.raises(InputError, match="would run code, which Lineament never does"):
                read_pt(tmp_path / name)
        assert not trap.exists()
        pickle.loads((tmp_path / "plain.pt").read_bytes())
        assert trap.exists()  # the trap works: only not unpickling kept it shut

    def test_an_object_of_another_tool_is_refused(self, tmp_path: Path) -> None:
        torch.save(SimpleNamespace(layer_activations={0: torch.ones(2)}), tmp_path / "v.pt")
        with pytest.raises(InputError, match=r"could not be read.*Allowed: a dict from block"):
            read_pt(tmp_path / "v.pt")

    def test_torn_and_foreign_files(self, tmp_path: Path) -> None:
        torch.save({1: torch.ones(64)}, tmp_path / "v.pt")
        whole = (tmp_path / "v.pt").read_bytes()
        for content in (b"", b"PK", b"no archive", whole[: len(whole) // 2], whole[:-1]):
            (tmp_path / "torn.pt").write_bytes(content)
            with pytest.raises(InputError, match="could not be read"):
                read_pt(tmp_path / "torn.pt")


class TestFromLayerActivations:
    def test_an_object_of_another_tool(self) -> None:
        blocks = {1: torch.tensor([1.0, 2.0], dtype=torch.float16), 0: torch.tensor([3.0, 4.0])}
        found = from_layer_activations(SimpleNamespace(layer_activations=blocks), TAGS)
        assert same(found, SteeringVector({2: torch.tensor([1.0, 2.0]), 1: torch.tensor([3.0, 4.0])}, TAGS))
        blocks[0].zero_()
        assert torch.equal(found.directions[1], torch.tensor([3.0, 4.0]))  # a copy

    def test_there_and_back(self) -> None:
        assert same(from_layer_activations(vector(1, 6), TAGS), vector(1, 6))
        assert from_layer_activations(vector(1)).tags == VectorTags()

    def test_more_blocks_than_the_model_has(self) -> None:
        with pytest.raises(InputError, match=r"layers \[7\] do not exist.* 1 to 6"):
            from_layer_activations(SimpleNamespace(layer_activations={6: torch.ones(2)}), TAGS)


class TestReadVector:
    def test_the_suffix_says_the_format(self, tmp_path: Path) -> None:
        made = vector(2, 3)
        save_vector(made, tmp_path / "v.safetensors")
        write_gguf(made, tmp_path / "v.GGUF", "llama")
        torch.save(made.layer_activations, tmp_path / "v.pt")
        torch.save(made.directions[2], tmp_path / "one.pt")
        assert same(read_vector(tmp_path / "v.safetensors"), made)
        assert same(read_vector(tmp_path / "v.GGUF"), made)
        assert same(read_vector(tmp_path / "v.pt"), vector(2, 3, tags=VectorTags()))
        assert same(read_vector(tmp_path / "one.pt", layer=2), vector(2, tags=VectorTags()))

    @pytest.mark.parametrize("name", ["v.bin", "v", "v.pt.zip"])
    def test_another_suffix(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"content")
        with pytest.raises(InputError, match=r"has suffix '.*'; vectors are read from \.safetensors, \.gguf, \.pt"):
            read_vector(tmp_path / name)

    @pytest.mark.parametrize("suffix", ["safetensors", "gguf", "pt"])
    def test_no_file_or_not_what_its_name_says(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"v.{suffix}"
        with pytest.raises(InputError, match=f"v.{suffix} does not exist"):
            read_vector(path)
        path.write_bytes(b"something else entirely, long enough to hold a header of any kind")
        with pytest.raises(InputError, match=f"v.{suffix}"):
            read_vector(path)

    @pytest.mark.parametrize("suffix", ["safetensors", "gguf"])
    def test_a_layer_for_a_file_that_names_its_own(self, tmp_path: Path, suffix: str) -> None:
        with pytest.raises(InputError, match=r"layer 2 was given, but .* Leave the layer out"):
            read_vector(tmp_path / f"v.{suffix}", layer=2)
