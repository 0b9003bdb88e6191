"""Steering vectors: what they refuse, how they fit a model, and our own file, kept bit for bit or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from lineament.errors import InputError
from lineament.steering.vector import (
    METADATA_KEY,
    SteeringVector,
    VectorTags,
    load_vector,
    parsed_tags,
    save_vector,
    tags_json,
)

TAGS = VectorTags(
    model="tiny",
    model_hash="ab12",
    n_layers=4,
    method="caa",
    contrast="answer",
    site="mlp",
    position="answer",
    normalisation="unit",
    data_hash="cd34",
    n_examples=7,
    row_hashes=("01", "02"),
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vector(tags: VectorTags = TAGS, layers: tuple[int, ...] = (3, 1)) -> SteeringVector:
    return SteeringVector({layer: torch.tensor([3.0 * layer, -4.0 * layer]) for layer in layers}, tags)


def same_bits(first: Mapping[int, Tensor], second: Mapping[int, Tensor]) -> bool:
    """Whether both hold the same layers and the same float32 bits, signs of zeros included."""
    pairs = [(first[layer], second[layer]) for layer in first]
    return set(first) == set(second) and all(
        a.dtype == b.dtype == torch.float32 and torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in pairs
    )


class TestVector:
    @pytest.mark.usefixtures("own_shape_errors")
    @pytest.mark.parametrize(
        ("directions", "tags", "said"),
        [
            ({}, VectorTags(), "at least one layer"),
            ({1: torch.ones(2), 2: torch.ones(3)}, VectorTags(), r"one width; given shapes: \[\(2,\), \(3,\)\]"),
            ({1: torch.ones(2, 2)}, VectorTags(), "one width"),
            ({1: torch.tensor(1.0)}, VectorTags(), "one width"),
            ({0: torch.ones(2), 1: torch.ones(2)}, VectorTags(), r"layers \[0\] do not exist.* from 1 to 1"),
            ({5: torch.ones(2)}, VectorTags(n_layers=4), r"layers \[5\] do not exist.* from 1 to 4"),
            ({1: torch.ones(2), 2: torch.tensor([1.0, math.nan])}, VectorTags(), r"layers \[2\] hold values"),
            ({1: torch.tensor([math.inf, 0.0])}, VectorTags(), r"layers \[1\] hold values"),
        ],
    )
    def test_what_is_no_vector_is_refused(self, directions: dict[int, Tensor], tags: VectorTags, said: str) -> None:
        with pytest.raises(InputError, match=said):
            SteeringVector(directions, tags)

    def test_layers_are_ascending_and_other_tools_count_them_from_0(self) -> None:
        made = vector()
        assert made.layers == (1, 3)
        assert made.width == 2
        assert list(made.layer_activations) == [0, 2]
        assert torch.equal(made.layer_activations[2], made.directions[3])

    def test_some_of_its_layers(self) -> None:
        only = vector().only(3)
        assert only.layers == (3,)
        assert only.tags == TAGS
        with pytest.raises(InputError, match="no layer 2; choose among 1, 3"):
            vector().only(3, 2)

    def test_unit_directions_keep_their_way(self) -> None:
        made = vector(replace(TAGS, normalisation="none")).unit()
        assert made.tags == TAGS
        assert torch.allclose(made.directions[3], torch.tensor([0.6, -0.8]))
        assert torch.allclose(made.directions[1], torch.tensor([0.6, -0.8]))

    def test_a_zero_direction_has_no_unit(self) -> None:
        with pytest.raises(InputError, match=r"layers \[2\] are zero"):
            SteeringVector({1: torch.ones(2), 2: torch.zeros(2)}).unit()


class TestFit:
    def test_the_model_it_was_made_on(self) -> None:
        vector().require_fit("tiny", "ab12", n_layers=4, width=2)

    def test_where_nothing_is_known_width_and_layers_decide(self) -> None:
        vector(VectorTags()).require_fit("any", "any hash", n_layers=3, width=2)
        with pytest.raises(InputError, match="of at least 3 layers, but any has 2"):
            vector(VectorTags()).require_fit("any", "any hash", n_layers=2, width=2)

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"width": 3}, "width 2, but tiny has 3"),
            ({"n_layers": 5}, "of 4 layers, but tiny has 5"),
            ({"n_layers": 3}, "of 4 layers, but tiny has 3"),
            ({"model_hash": "ef56"}, "made on tiny .weights ab12.*this is tiny .weights ef56"),
        ],
    )
    def test_another_model_is_refused(self, changed: dict[str, object], said: str) -> None:
        model = {"model": "tiny", "model_hash": "ab12", "n_layers": 4, "width": 2}
        with pytest.raises(InputError, match=said):
            vector().require_fit(**{**model, **changed})


class TestFile:
    @given(
        st.integers(1, 5).flatmap(
            lambda width: st.dictionaries(
                st.integers(1, 40), st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=4
            )
        ),
        st.text(),
        st.sampled_from(["block", "attention", "mlp"]),
        st.sampled_from(["last", "answer", "mean"]),
        st.integers(0, 9),
    )
    def test_round_trip_bit_for_bit(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        values: dict[int, list[float]],
        text: str,
        site: str,
        position: str,
        n: int,
    ) -> None:
        tags = VectorTags(model=text, method=text, site=site, position=position, n_examples=n)
        saved = SteeringVector({layer: torch.tensor(row) for layer, row in values.items()}, tags)
        path = tmp_path_factory.getbasetemp() / "vector.safetensors"
        save_vector(saved, path)
        loaded = load_vector(path)
        assert loaded.tags == tags
        assert same_bits(loaded.directions, saved.directions)

    def test_views_and_other_types_are_written_as_whole_float32(self, tmp_path: Path) -> None:
        table = torch.arange(6, dtype=torch.float64).reshape(3, 2)
        save_vector(SteeringVector({1: table[:, 0], 2: table[:, 1]}), tmp_path / "v.safetensors")
        loaded = load_vector(tmp_path / "v.safetensors")
        assert same_bits(loaded.directions, {1: table[:, 0].float(), 2: table[:, 1].float()})

    def test_every_tag_comes_back(self, tmp_path: Path) -> None:
        save_vector(vector(), tmp_path / "deep" / "v.safetensors")
        assert load_vector(tmp_path / "deep" / "v.safetensors").tags == TAGS

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"v\.safetensors does not exist"):
            load_vector(tmp_path / "v.safetensors")
        with pytest.raises(InputError, match="is a folder"):
            load_vector(tmp_path)

    def test_every_torn_file_is_refused(self, tmp_path: Path) -> None:
        save_vector(vector(), tmp_path / "v.safetensors")
        whole = (tmp_path / "v.safetensors").read_bytes()
        for end in range(len(whole)):
            (tmp_path / "torn.safetensors").write_bytes(whole[:end])
            with pytest.raises(InputError, match=r"torn\.safetensors cannot be read"):
                load_vector(tmp_path / "torn.safetensors")

    def test_another_safetensors_file(self, tmp_path: Path) -> None:
        save_file({"layer.1": torch.ones(2)}, tmp_path / "weights.safetensors")
        with pytest.raises(InputError, match=f"holds no steering vector: its metadata lacks {METADATA_KEY!r}"):
            load_vector(tmp_path / "weights.safetensors")

    @pytest.mark.parametrize(
        ("names", "text", "said"),
        [
            (["layer.1"], "{", "damaged"),
            (["layer.1"], "[]", "damaged"),
            (["layer.1"], "{}", "damaged.*schema"),
            (["layer.1"], json.dumps({"schema": 1}), "damaged.*tags"),
            (["layer.1"], json.dumps({"schema": 1, "tags": []}), "damaged"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"colour": "red"}}), "damaged.*colour"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"n_layers": "4"}}), "damaged.*n_layers is '4'"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"n_examples": True}}), "damaged.*n_examples is True"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"model": None}}), "damaged.*model is None"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"site": ["mlp"]}}), "damaged.*site is"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"row_hashes": [1]}}), "damaged.*row_hashes is"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"row_hashes": "01"}}), "damaged.*row_hashes is '01'"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"site": "head"}}), "site is 'head'; allowed: block, att"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"position": "first"}}), "position is 'first'; allowed"),
            (["layer.1"], json.dumps({"schema": 1, "tags": {"normalisation": "l1"}}), "normalisation is 'l1'; allowed"),
            (["layer.1", "norm"], tags_json(TAGS), "damaged.*norm"),
            (["whatever"], json.dumps({"schema": 2}), r"^\S+ has schema 2; this version reads 1\.$"),
        ],
    )
    def test_damaged_content_is_refused(self, tmp_path: Path, names: list[str], text: str, said: str) -> None:
        path = tmp_path / "v.safetensors"
        save_file({name: torch.ones(2) for name in names}, path, metadata={METADATA_KEY: text})
        with pytest.raises(InputError, match=said) as caught:
            load_vector(path)
        assert str(path) in str(caught.value)

    def test_tags_as_text(self) -> None:
        assert parsed_tags(Path("v"), tags_json(TAGS)) == TAGS


def test_one_tensor_may_stand_at_several_layers(tmp_path: Path) -> None:
    direction = torch.tensor([3.0, -4.0])
    save_vector(SteeringVector({1: direction, 2: direction}), tmp_path / "v.safetensors")
    assert all(torch.equal(load_vector(tmp_path / "v.safetensors").directions[layer], direction) for layer in (1, 2))
