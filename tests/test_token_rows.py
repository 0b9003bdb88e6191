"""What tokenizers add to texts, tokens without an embedding, and models whose weights are no numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import N_WORDS, arguments, random_model, write_data, write_family, write_tokenizer
from tokenizers.processors import TemplateProcessing

from lineament import cli
from lineament.commands.steer.make import LEAST_DIRECTION, agreement_texts
from lineament.errors import InputError, NonFiniteError
from lineament.problems.encoding import Encoder
from lineament.problems.loading import load_model
from lineament.problems.token_rows import TokenRows
from lineament.steering.vector import SteeringVector, load_vector
from lineament.steering.weight_step import step_direction
from lineament.study.training import _why_not_finite

END = "<|end|>"


def tokenizer_adding(folder: Path, template: str) -> Any:
    """The small tokenizer, with an end of text where the template has one."""
    write_tokenizer(folder)
    made = transformers.AutoTokenizer.from_pretrained(folder)
    number = made.convert_tokens_to_ids(END)
    made.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[(END, number)])
    made.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", ["$A", f"{END} $A", f"$A {END}", f"{END} $A {END}"])
def test_a_row_ends_with_the_text_and_begins_once(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_adding(tmp_path, template)
    rows, end = TokenRows(tokenizer, N_WORDS, "tiny"), tokenizer.convert_tokens_to_ids(END)
    plain = tokenizer("1 apple apple", add_special_tokens=False)["input_ids"]
    start = [end] if template.startswith(END) else []
    assert rows.of("1 apple apple") == start + plain
    assert rows.of(f"{END}1 apple apple") == [end, *plain]
    notes = " ".join(rows.notes)
    assert ("appends <|end|>" in notes) is template.endswith(END)
    assert ("got no second one" in notes) is template.startswith(END)


def test_an_end_of_text_that_belongs_to_the_text_stays(tmp_path: Path) -> None:
    tokenizer = tokenizer_adding(tmp_path, "$A")
    assert TokenRows(tokenizer, N_WORDS, "tiny").of(f"1 apple{END}")[-1] == tokenizer.convert_tokens_to_ids(END)


def test_a_vector_is_read_at_the_text_s_last_token_whatever_is_appended(tmp_path: Path) -> None:
    data, vectors = write_data(tmp_path / "mine.jsonl"), []
    for name, template in (("plain", "$A"), ("appends", f"$A {END}")):
        folder = write_family("gpt2", tmp_path / name)
        tokenizer_adding(folder, template)
        out = tmp_path / f"{name}.safetensors"
        assert cli.main(["steer", "make", str(data), "--model", str(folder), "--out", str(out), "--threads", "1"]) == 0
        vectors.append(load_vector(out).directions[1])
    assert torch.equal(*vectors)


class PrependsSpace:
    """As SentencePiece: a space token before every text, so that a label alone is two tokens."""

    pad_token_id = eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        words = {"▁": 3, " True": 4, " False": 5}
        ids = [3]
        while text:
            word = next((w for w in words if text.startswith(w)), text[0])
            ids.append(words[word] if word in words else 10 + ord(word) % 50)
            text = text[len(word) :]
        return {"input_ids": ids}

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return str(ids)

    def decode(self, ids: Any) -> str:
        return str(ids)


def test_a_label_is_taken_as_it_follows_a_prompt() -> None:
    tokenizer = PrependsSpace()
    assert len(tokenizer(" True")["input_ids"]) == 2
    assert Encoder(TokenRows(tokenizer, 100, "tiny"), 100, None).labels == {False: 5, True: 4}


def test_a_label_of_several_tokens_is_still_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_adding(tmp_path, "$A")
    with pytest.raises(InputError, match="is 7 tokens of this tokenizer"):
        Encoder(TokenRows(tokenizer, N_WORDS, "tiny"), N_WORDS, None)._single_token(" QZXJKW")


def test_a_token_without_embedding_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens were added and the model was not resized: the embedding would raise IndexError in the middle of a run."""
    folder = write_family("gpt2", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"extra{i}" for i in range(N_WORDS)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    data = write_data(tmp_path / "mine.jsonl")
    # the padding token alone does no harm: the mask leaves it out, so that another fills rows up
    rows = TokenRows(transformers.AutoTokenizer.from_pretrained(folder), N_WORDS, "tiny")
    assert rows.padding == 0
    assert f"no row in the model's embedding of {N_WORDS}" in " ".join(rows.notes)
    data.write_text(data.read_text().replace("7 stone", f"7 extra{N_WORDS - 1}"))
    out = tmp_path / "out"
    assert cli.main(arguments(folder, data, out)) == 2
    printed = capsys.readouterr().err
    assert "resize_token_embeddings" in printed
    assert f"which has {N_WORDS}" in " ".join(printed.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("value", "words"), [(math.nan, "NaN or infinite in 1 tensors"), (1e38, "overflow on the way")]
)
def test_a_model_that_holds_no_numbers_is_named(value: float, words: str, tmp_path: Path) -> None:
    model = random_model("gpt2")
    weight = model.transformer.h[0].mlp.c_fc.weight
    if math.isnan(value):
        weight[0, 0] = value
    else:
        weight.fill_(value)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    if math.isnan(value):
        assert "h.0.mlp.c_fc.weight" in str(caught.value)


def test_a_gradient_that_is_no_number_is_not_called_zero() -> None:
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        step_direction(torch.tensor([1.0, math.nan]))
    with pytest.raises(InputError, match="zero"):
        step_direction(torch.zeros(2))


def test_a_vector_whose_norm_overflows_is_refused() -> None:
    with pytest.raises(InputError, match="norm"):
        SteeringVector({1: torch.full((4,), 1e25)}).require_finite_norms()


def test_before_the_first_update_no_step_size_is_to_blame() -> None:
    assert "No step size helps" in _why_not_finite(math.nan, 0)
    assert "Lower the step size" in _why_not_finite(math.inf, 3)


def test_agreement_is_explained_by_what_it_is() -> None:
    """0.94 and -0.26 are not the same advice."""
    found = list(agreement_texts("caa", {1: -0.26, 2: 0.2, 3: 0.94, 4: 0.99, 5: -0.1}))
    assert len(found) == 3
    apart, noise, noisy = found
    assert "do not point the same way" in apart
    assert "2 of 5 layers: 1 to 5" in apart
    assert "most of the vector is noise" in noise
    assert "more data would help" in noisy
    assert "layers: 3 to 3" in noisy


@pytest.mark.parametrize("agreement", [0.1, 0.5, 0.9])
def test_the_whole_vector_agrees_with_the_truth_as_the_halves_say(agreement: float) -> None:
    """Spearman and Brown: sqrt(2 a / (1 + a)), by simulation in many dimensions."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    truth, *noise = (torch.randn(n, generator=generator) for _ in range(3))
    scale = math.sqrt(1 / agreement - 1)
    halves = [truth + scale * part for part in noise]
    found = torch.nn.functional.cosine_similarity(halves[0], halves[1], dim=0)
    whole = torch.nn.functional.cosine_similarity(halves[0] + halves[1], truth, dim=0)
    assert float(found) == pytest.approx(agreement, abs=0.01)
    assert float(whole) == pytest.approx(math.sqrt(2 * agreement / (1 + agreement)), abs=0.01)
    assert math.sqrt(2 * LEAST_DIRECTION / (1 + LEAST_DIRECTION)) == pytest.approx(math.sqrt(0.5))
