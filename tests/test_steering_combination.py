"""Several steering vectors as one: against NumPy's QR, what is told of them, and which sums are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import lineament_here

from lineament import SteeringVector, combine_vectors
from lineament.errors import InputError
from lineament.steering.vector import VectorTags, load_vector, save_vector

TAGS = VectorTags(model="tiny", model_hash="ab", n_layers=4, contrast="statement", template="{statement}", n_examples=3)
WIDTH = 6


def vector(seed: int, tags: VectorTags = TAGS, layers: tuple[int, ...] = (1, 3)) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    return SteeringVector({layer: torch.randn(WIDTH, generator=generator) for layer in layers}, tags)


PARTS = {"joy": vector(1), "formal": vector(2), "calm": vector(3)}
WEIGHTS = (1.0, -0.5, 2.0)


def test_a_sum_is_the_weighted_sum_of_every_layer() -> None:
    made = combine_vectors(PARTS, WEIGHTS)
    for layer in (1, 3):
        rows = np.stack([part.directions[layer].numpy() for part in PARTS.values()]).astype(float)
        assert np.allclose(made.vector.directions[layer], np.array(WEIGHTS) @ rows, atol=1e-6)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert np.allclose(made.cosines[layer], unit @ unit.T)
        assert np.allclose(made.lengths[layer], np.abs(WEIGHTS) * np.linalg.norm(rows, axis=1))
        assert np.array_equal(made.left[layer], np.ones(3))


def test_orthogonal_parts_are_those_of_a_qr_decomposition_in_the_given_order() -> None:
    made = combine_vectors(PARTS, WEIGHTS, orthogonal=True)
    for layer in (1, 3):
        rows = np.stack([part.directions[layer].numpy() for part in PARTS.values()]).astype(float)
        q, r = np.linalg.qr(rows.T)
        parts = (q * np.diag(r)).T  # what each has outside the span of the earlier ones
        assert np.allclose(made.vector.directions[layer], np.array(WEIGHTS) @ parts, atol=1e-6)
        assert np.allclose(made.left[layer], np.linalg.norm(parts, axis=1) / np.linalg.norm(rows, axis=1))
    other_order = combine_vectors(dict(reversed(PARTS.items())), WEIGHTS[::-1], orthogonal=True)
    assert not torch.allclose(made.vector.directions[1], other_order.vector.directions[1], atol=0.01)
    assert "made orthogonal in this order" in made.vector.tags.made_of


def test_nearly_parallel_parts_stay_orthogonal_to_rounding() -> None:
    """In float32 the rounding of the sum would be as long as a part of what is left."""
    first = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    second = first + 0.01 * PARTS["calm"].directions[1]
    parts = {"a": SteeringVector({1: first}, TAGS), "b": SteeringVector({1: second}, TAGS)}
    rest = combine_vectors(parts, (1.0, 1.0), orthogonal=True).vector.directions[1] - first
    assert abs(float(torch.cosine_similarity(rest.double(), first.double(), dim=0))) < 1e-3
    inside = {"a": parts["a"], "b": SteeringVector({1: 3 * first}, TAGS)}
    with pytest.raises(InputError, match=r"layer 1 nothing of b is left .* orthogonal to a: they hold"):
        combine_vectors(inside, (1.0, 1.0), orthogonal=True)


def test_tags_keep_what_all_agree_in_and_every_row() -> None:
    first = vector(1, replace(TAGS, row_hashes=("a", "b"), position="last"))
    second = vector(2, replace(TAGS, row_hashes=("b", "c"), position="answer", template="", contrast="answer"))
    tags = combine_vectors({"joy": first, "formal": second}, (1, -0.5)).vector.tags
    assert (tags.model, tags.model_hash, tags.n_layers, tags.site) == ("tiny", "ab", 4, "block")
    assert (tags.method, tags.made_of) == ("combination", "+1 joy -0.5 formal")
    assert (tags.position, tags.template, tags.contrast, tags.normalisation) == ("various", "", "", "none")
    assert tags.row_hashes == ("a", "b", "c")
    assert tags.n_examples == 6
    unknown = vector(3, VectorTags())
    assert combine_vectors({"joy": first, "x": unknown}, (1, 1)).vector.tags.model_hash == "ab"


@pytest.mark.parametrize(
    ("other", "weights", "said"),
    [
        (
            vector(2, replace(TAGS, model_hash="cd")),
            (1, 1),
            "differ in the weights of the model: 'ab' and 'cd'",
        ),
        (vector(2, replace(TAGS, n_layers=5)), (1, 1), "differ in the number of the model's layers: 4 and 5"),
        (vector(2, replace(TAGS, site="mlp")), (1, 1), "differ in the site: 'block' and 'mlp'"),
        (SteeringVector({1: torch.ones(2), 3: torch.ones(2)}), (1, 1), "a has width 6 and b 2"),
        (vector(2, layers=(1, 2)), (1, 1), "a has layers 1, 3 and b 1-2; keep layers that both have \\(1\\)"),
        (vector(2, layers=(2, 4)), (1, 1), "make them at the same layers"),
        (vector(2), (1,), "2 vectors and 1 weights"),
        (vector(2), (0, 0), "the weights are 0, 0; they must be finite in float32, and not all 0"),
        (vector(2), (1, 1e39), "finite"),
        (vector(2), (1, float("nan")), "finite"),
        (vector(1), (1, -1), "at layer 1 the parts cancel each other"),
        (SteeringVector({1: torch.zeros(WIDTH), 3: torch.ones(WIDTH)}), (1, 1), "b is zero at layer 1"),
    ],
)
def test_sums_that_mean_nothing_are_refused(other: SteeringVector, weights: tuple[float, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        combine_vectors({"a": vector(1), "b": other}, weights)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two vectors with 0.6 of the second along the first, by construction."""
    first = torch.tensor([2.0, 0.0, 0.0])
    tags = replace(TAGS, n_layers=0, row_hashes=("a",))
    save_vector(SteeringVector({1: first, 2: first}, tags), tmp_path / "joy.safetensors")
    second = torch.tensor([0.6, 0.8, 0.0])
    save_vector(SteeringVector({1: second, 2: second}, replace(tags, row_hashes=())), tmp_path / "formal.safetensors")
    return [f"{tmp_path}/joy.safetensors=1", f"{tmp_path}/formal.safetensors=-0.5"]


def test_the_command_tells_lengths_and_cosines(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    done = lineament_here("steer", "combine", *files, "--out", str(out))
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    assert "+1 joy -0.5 formal: 2 layer(s) of tiny" in text
    assert "1 2 0.5 1.75 0.60" in text
    assert "Not said of what it was made: formal." in text
    assert f"vector: {out}" in text
    assert "steer generate" in done.stderr
    assert torch.allclose(load_vector(out).directions[2], torch.tensor([1.7, -0.4, 0.0]))


def test_the_command_makes_orthogonal_on_request(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    options = ("--out", str(out), "--orthogonal", "--layers", "2", "--unit", "--quiet")
    done = lineament_here("steer", "combine", *files, *options)
    assert done.returncode == 0
    assert done.stderr == ""
    text = " ".join(done.stdout.split())
    assert "2 2 (100%) 0.4 (80%) 1 0.60" in text
    assert "in the order joy, formal" in text
    made = load_vector(out)
    assert made.layers == (2,)
    assert torch.allclose(made.directions[2], torch.tensor([2.0, -0.4, 0.0]) / 4.16**0.5)


def test_prompts_that_differ_are_said(files: list[str], tmp_path: Path) -> None:
    same = lineament_here("steer", "combine", *files, "--out", str(tmp_path / "a.safetensors")).stdout
    assert "plain unless" not in same
    assert "different prompts" not in same
    talked = load_vector(tmp_path / "joy.safetensors")
    save_vector(replace(talked, tags=replace(talked.tags, chat=True, template="")), tmp_path / "joy.safetensors")
    done = lineament_here("steer", "combine", *files, "--out", str(tmp_path / "b.safetensors"))
    text = " ".join(done.stdout.split())
    assert "prompts will be plain unless --chat is given" in text
    assert "give --template when the sum is judged" in text
    assert not load_vector(tmp_path / "b.safetensors").tags.chat


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "two or more vectors, each as FILE=WEIGHT"),
        (["joy=1"], "two or more"),
        (["joy.safetensors", "b=1"], "'joy.safetensors' is no part of a sum; give FILE=WEIGHT"),
        (["=1", "b=1"], "'=1' is no part"),
        (["a=1", "b=[bold]"], "'b=[bold]' is no part"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1", "b=2", "--out", "c.gguf"], "`lineament steer export` writes GGUF"),
        (["a=1", "b=2", "--layers", "x"], "--layers 'x'"),
        (["a.safetensors=1", "b.safetensors=2"], "does not exist"),
    ],
)
def test_bad_sums_are_one_message(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = lineament_here("steer", "combine", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_vector_is_not_replaced(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_text("mine")
    for options in ([], ["--overwrite"]):
        done = lineament_here("steer", "combine", *files, "--out", str(out), *options)
        assert done.returncode == 2
        assert out.read_text() == "mine"
