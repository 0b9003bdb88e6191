"""Chat templates when vectors are made, judged and used, and which tokens are read and steered, as they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import lineament_here
from decoders import WIDTH, decoder, prompts
from families import write_family, write_tokenizer
from test_conversations import CHATML, encoder, write
from tokenizers.processors import TemplateProcessing

from lineament.activations.blocks import find_blocks
from lineament.errors import InputError
from lineament.problems.labelled_data import Pair
from lineament.problems.problem import Batch
from lineament.problems.statements import Statement
from lineament.steering.shown_tokens import MOST_TOKENS, marked_row, marked_rows, read_places, steered_places
from lineament.steering.steered import steered
from lineament.steering.vector import SteeringVector, VectorTags, load_vector, save_vector

STATEMENTS = [{"statement": f"{i} apple", "label": i % 2 == 0} for i in range(8)]
END = "<|end|>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose tokenizer has a chat template."""
    folder = write_family("gpt2", tmp_path_factory.mktemp("chat") / "gpt2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("gpt2", tmp_path_factory.mktemp("plain") / "gpt2")


def steer(*words: object) -> Any:
    return lineament_here("steer", *map(str, words), "--threads", "1", "--quiet")


def text_of(encoded: Batch, made: Any, row: int = 0) -> str:
    text: str = made.tokenizer.decode(encoded.input_ids[row][encoded.attention_mask[row] > 0])
    return text


def test_a_statement_is_the_user_s_message_and_its_answer_the_assistant_s(plain: Path) -> None:
    made = encoder(plain, CHATML)
    batch = made.encode([Statement("1 apple", True, "1 apple"), Statement("2 apple", False, "2 apple")], chat=True)
    assert text_of(batch, made) == "<|user|>1 apple\nTrue or False?<|end|><|assistant|>"
    bare = made.encode([Statement("1 apple", True, "1 apple")], "{statement}", chat=True)
    assert text_of(bare, made) == "<|user|>1 apple<|end|><|assistant|>"
    false, true = batch.choices
    assert batch.targets[:, 0].tolist() == [true, false]
    assert [made.tokenizer.decode([token])[0] for token in (false, true)] == ["F", "T"]


def test_a_question_is_the_user_s_message_and_both_answers_the_assistant_s(plain: Path) -> None:
    made = encoder(plain, CHATML)
    pair = Pair("1 apple?", "True", "False", "1 apple?")
    encoded = made.encode_pairs([pair], chat=True)
    assert text_of(encoded.prompts, made) == "<|user|>1 apple?<|end|><|assistant|>"
    assert made.tokenizer.decode(encoded.prompts.targets[0])[0] == "T"
    assert made.tokenizer.decode(encoded.others)[0] == "F"
    assert "Answer:" in text_of(made.encode_pairs([pair]).prompts, made)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("writes", [True, False])
def test_no_row_begins_twice(adds: bool, writes: bool, tmp_path: Path) -> None:
    """Whether the tokenizer puts a beginning before every text, the chat template writes it, or both do."""
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    number = tokenizer.convert_tokens_to_ids(END)
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{END} $A", special_tokens=[(END, number)]
        )
    tokenizer.save_pretrained(tmp_path)
    made = encoder(tmp_path, (END if writes else "") + "{% for m in messages %}{{ m.content }}{% endfor %}")
    rows = [
        made.encode([Statement("1 apple", True, "1 apple")], "{statement}", chat=True),
        made.encode_pairs([Pair("1 apple ", "True", "False", "")], chat=True).prompts,
    ]
    for batch in rows:
        assert batch.input_ids[0].tolist().count(number) == int(writes)


def test_a_tokenizer_without_a_template_is_refused_and_nothing_is_written(plain: Path, tmp_path: Path) -> None:
    data, out = write(tmp_path / "a.jsonl", *STATEMENTS), tmp_path / "v.safetensors"
    done = steer("make", data, "--out", out, "--model", plain, "--chat")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no chat template. Leave --chat out" in done.stderr
    assert not out.exists()
    with pytest.raises(InputError, match="no chat template"):
        encoder(plain, None).encode_pairs([Pair("q", "True", "False", "q")], chat=True)
    save_vector(SteeringVector({1: torch.ones(16)}, VectorTags(chat=True)), out)
    done = steer("generate", out, "1 apple", "--model", plain)
    assert done.returncode == 2
    assert "--no-chat" in done.stderr
    done = steer("generate", out, "1 apple", "--model", plain, "--chat", "--no-chat")
    assert "give one of them" in done.stderr


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    data, out = write(folder / "a.jsonl", *STATEMENTS), folder / "v.safetensors"
    done = steer("make", data, "--out", out, "--model", model, "--chat", "--show-tokens")
    assert done.returncode == 0, done.stderr
    assert "positive 1: <|user|>·0· apple·\\n·T" in done.stdout
    assert done.stdout.count("·<|end|>·«<|assistant|>»\n") == 6
    return out


def test_a_vector_remembers_its_chat_template(made: Path, model: Path, tmp_path: Path) -> None:
    tags = load_vector(made).tags
    assert (tags.chat, tags.template) == (True, "{statement}\nTrue or False?")
    data, out = write(tmp_path / "a.jsonl", *STATEMENTS), tmp_path / "v.safetensors"
    assert steer("make", data, "--out", out, "--model", model).returncode == 0
    assert not load_vector(out).tags.chat
    assert not torch.allclose(load_vector(out).directions[1], load_vector(made).directions[1])
    talk = [
        {"prompt": [{"role": "user", "content": f"{i} apple"}], "chosen": "True", "rejected": "False"} for i in range(4)
    ]
    out = tmp_path / "talk.safetensors"
    assert steer("make", write(tmp_path / "t.jsonl", *talk), "--out", out, "--model", model).returncode == 0
    assert load_vector(out).tags.chat, "conversations are written with the template in any case"


def test_a_vector_is_judged_and_used_as_it_was_made(made: Path, model: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "b.jsonl", *({**row, "statement": f"{row['statement']} stone"} for row in STATEMENTS))
    common = (held, "--model", model, "--doses", "1", "--neutral", "2", "--no-collateral", "--show-tokens")
    by_default = steer("eval", made, *common)
    assert by_default.returncode == 0, by_default.stderr
    assert "row 1: «<|user|>·" in by_default.stdout
    assert "chat template" in by_default.stdout
    assert steer("eval", made, *common, "--chat").stdout == by_default.stdout
    without = steer("eval", made, *common, "--no-chat")
    assert "<|user|>" not in without.stdout
    text = steer("generate", made, "1 apple", "--model", model, "--tokens", "3", "--show-tokens", "--where", "answer")
    assert "row 1: <|user|>·1· apple·<|end|>·«<|assistant|>»" in text.stdout
    assert "as the vector's were" in text.stdout
    bare = steer("generate", made, "1 apple", "--model", model, "--tokens", "3", "--show-tokens", "--no-chat")
    assert "row 1: «1· apple»" in bare.stdout


@pytest.mark.parametrize("where", ["all", "answer"])
def test_shown_as_steered_are_the_tokens_that_move(where: Any) -> None:
    model, batch = decoder("llama"), prompts(4)
    vector = SteeringVector({2: torch.ones(WIDTH)})

    def after() -> torch.Tensor:
        kept: list[torch.Tensor] = []
        handle = (
            find_blocks(model)
            .at(3)
            .register_forward_pre_hook(
                lambda m, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
        )
        with torch.no_grad():
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        handle.remove()
        return kept[0]

    before = after()
    with steered(model, vector, 1.0, where):
        moved = (after() - before).abs().sum(dim=-1) > 1e-4
    real = batch.attention_mask.bool()
    assert torch.equal(steered_places(batch, where) & real, moved & real)
    assert steered_places(batch, where).any(dim=1).all()


def test_shown_as_read_are_the_tokens_at_the_targets() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    mask, last = (ids > 0).long(), torch.tensor([[2, 0], [1, 3]])
    batch = Batch(ids, mask, last, torch.tensor([[1, -100], [1, 1]]))
    assert read_places(batch, mean=False).tolist() == [[False, False, True, False], [False, False, False, True]]
    assert read_places(batch, mean=True).tolist() == [[False, True, True, False], [False, True, True, True]]


def test_tokens_are_written_so_that_they_can_be_printed(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("a\x1b[31m\n\u00e9", add_special_tokens=False)["input_ids"]
    shown = marked_row(tokenizer, ids, [True] * len(ids))
    assert shown.isprintable()
    assert "\\x1b" in shown
    assert (shown[0], shown[-1]) == ("«", "»")
    assert "»" not in shown[:-1], "a run of marked tokens has one pair of marks"
    long = marked_row(tokenizer, ids[:1] * 100, [False] * 99 + [True])
    assert f"... {100 - MOST_TOKENS} more ..." in long
    assert long.endswith("·«a»")
    batch = Batch(torch.tensor([ids[:2]]), torch.tensor([[1, 0]]), torch.tensor([[0]]), torch.tensor([[0]]))
    assert marked_rows(tokenizer, batch, torch.ones(1, 2, dtype=torch.bool)) == ["«a»"]
