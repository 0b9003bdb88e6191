"""Data as hubs have them: BoolQ's columns, conversations of three kinds, and preferences between two answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from families import WORDS, write_family
from transformers import AutoTokenizer

from lineament.errors import InputError
from lineament.problems.conversations import Turn
from lineament.problems.encoding import Encoder
from lineament.problems.labelled_data import Completion, Pair, read_contrast, read_labelled, read_task
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.statements import Statement
from lineament.problems.token_rows import TokenRows
from lineament.settings.presets import resolve

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "And now?"},
]
TURNS = tuple(Turn(one["role"], one["content"]) for one in TALK)
TEXT = "System: Be kind.\n\nUser: Hello\n\nAssistant: Hi\n\nUser: And now?\n\nAssistant: "
SHARED = {"system": "system", "user": "human", "assistant": "gpt"}


def answer(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("gpt2", tmp_path_factory.mktemp("model") / "gpt2")


def problem_on(model: Path, data: Path) -> LanguageModelProblem:
    keys = {"model.name": str(model), "task.data": str(data), "task.names": [data.stem]}
    return LanguageModelProblem(resolve("lm", "quick", [("test", {**keys, "task.evaluation_examples": 8})]), seed=0)


def encoder(model: Path, template: str | None) -> Encoder:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    return Encoder(TokenRows(tokenizer, 320, "tiny"), 320, None)


def test_boolq_is_read_by_its_own_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"is it {i}", "answer": i % 2 == 0, "passage": f"It is {i // 4}."} for i in range(8)]
    asked: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None, split: str) -> Dataset:
        asked.append((name, config, split))
        return Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = read_labelled("hf:boolq")
    assert asked == [("boolq", None, "train")]
    assert found.items[5] == Statement("It is 1.\nQuestion: is it 5?", False, "It is 1.")
    assert [item.label for item in found.items] == [True, False] * 4  # type: ignore[union-attr]
    Dataset.from_list(rows).save_to_disk(tmp_path / "boolq")
    assert read_contrast(tmp_path / "boolq").items == found.items
    with pytest.raises(InputError, match="line 2: answer 'maybe'; give true or false"):
        read_labelled(write(tmp_path / "b.jsonl", rows[0], {**rows[1], "answer": "maybe"}))
    with pytest.raises(InputError, match=r"columns question, answer; give .*'messages'"):
        read_labelled(write(tmp_path / "c.jsonl", {"question": "How many?", "answer": "There are 12."}))


def test_boolq_becomes_a_task(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"is it {i}", "answer": i % 2 == 0, "passage": WORDS[i % 2] + f" {i}"} for i in range(280)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Dataset.from_list([*rows, rows[3]]))
    keys = {"model.name": str(model), "task.data": "hf:boolq", "task.names": ["boolq"], "task.evaluation_examples": 8}
    problem = LanguageModelProblem(resolve("lm", "quick", [("test", keys)]), seed=0)
    assert problem.tasks == ("boolq",)
    assert len(problem.fixed("boolq", "held_out")) == 8
    assert any("1 rows that repeat an earlier one" in note for note in problem.notes)


@pytest.mark.parametrize("column", ["messages", "conversations"])
@pytest.mark.parametrize("kind", ["role", "from"])
def test_conversations_end_with_what_is_predicted(column: str, kind: str, tmp_path: Path) -> None:
    talk: list[dict[str, str]] = [*TALK, *answer("Now.")]
    if kind == "from":
        talk = [{"from": SHARED[one["role"]], "value": one["content"]} for one in talk]
    found = read_labelled(write(tmp_path / "a.jsonl", {"id": "x", "text": "unused", column: talk}))
    assert found.items == (Completion(TEXT, "Now.", TEXT, TURNS),)
    Dataset.from_list([{column: talk}]).save_to_disk(tmp_path / "saved")
    assert read_labelled(tmp_path / "saved").items == found.items
    with pytest.raises(InputError, match="no two labels"):
        read_contrast(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": TALK, "chosen": "Now.", "rejected": "Never."},
        {"prompt": TALK, "chosen": answer("Now."), "rejected": answer("Never.")},
        {"chosen": [*TALK, *answer("Now.")], "rejected": [*TALK, *answer("Never.")]},
        # the prompt is repeated, as in binarised UltraFeedback
        {"prompt": "And now?", "chosen": [*TALK, *answer("Now.")], "rejected": [*TALK, *answer("Never.")]},
        {"prompt": TALK[:2], "chosen": [*TALK[2:], *answer("Now.")], "rejected": [*TALK[2:], *answer("Never.")]},
    ],
)
def test_preferences_are_answer_pairs(row: dict[str, Any], tmp_path: Path) -> None:
    found = read_contrast(write(tmp_path / "a.jsonl", {"messages": [], **row}))
    assert found.items == (Pair(TEXT, "Now.", "Never.", TEXT, TURNS),)


def test_preferences_in_plain_text_are_as_any_answer_pair(tmp_path: Path) -> None:
    rows = [{"prompt": "Shall I?", "chosen": "Yes.", "rejected": other} for other in ("No.", "Never.")]
    found = read_contrast(write(tmp_path / "a.jsonl", *rows))
    assert found.items == tuple(Pair("Shall I?", "Yes.", other, "Shall I?") for other in ("No.", "Never."))
    with pytest.raises(InputError, match="lines 1, 2"):
        read_contrast(write(tmp_path / "b.jsonl", rows[0], {"prompt": "Shall I?", "chosen": "No.", "rejected": "Yes."}))
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nShall I?,Yes.,No.\n")
    assert read_contrast(tmp_path / "a.csv").items == found.items[:1]


@pytest.mark.parametrize("said", ["preference", "pair"])
def test_a_task_learns_the_chosen_of_many_answers(said: str, model: Path, tmp_path: Path) -> None:
    """What `run` makes of them: the same rows, splits and targets as completions of the chosen answers."""
    names = {"preference": ("chosen", "rejected"), "pair": ("matching", "not_matching")}[said]
    asked = [f"What is {i}?" for i in range(60)]
    rows = [dict(zip(("prompt", *names), (q, f"It is {i}.", "Nothing."), strict=True)) for i, q in enumerate(asked)]
    repeated = {**rows[0], names[1]: "Nobody knows."}
    one = write(tmp_path / "many" / "mine.jsonl", *rows, repeated)
    plain = [{"prompt": q, "completion": f"It is {i}."} for i, q in enumerate(asked)]
    problems = [problem_on(model, data) for data in (one, write(tmp_path / "plain" / "mine.jsonl", *plain))]
    for part in ("evaluation", "train"):
        own, wanted = (getattr(problem.statements("mine"), part) for problem in problems)
        assert own == wanted
    for field in ("input_ids", "targets", "positions"):
        own, wanted = (getattr(problem.fixed("mine", "evaluation"), field) for problem in problems)
        assert torch.equal(own, wanted)
    assert any("learns the 60 chosen" in note and str(one) in note for note in problems[0].notes)
    assert not any("chosen" in note for note in problems[1].notes)
    assert read_contrast(one).is_pairs, "steering takes them as they are"


def test_two_answers_for_all_rows_stay_a_choice(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Is it {i}?", "chosen": ("Yes.", "No.")[i % 2], "rejected": ("No.", "Yes.")[i % 2]}
        for i in range(80)
    ]
    found = read_task(write(tmp_path / "mine.jsonl", *rows))
    assert found.is_pairs
    assert found.notes == ()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": TALK}, "'messages' ends with a message of the user"),
        ({"messages": answer("Hi")}, "nothing before it"),
        ({"messages": "User: hello"}, "'messages' is 'User: hello'; give a list of messages"),
        ({"messages": []}, "'messages' is"),
        ({"messages": ["hello"]}, "message 1 of 'messages' is 'hello'"),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' is"),
        ({"messages": [*TALK, {"role": "tool", "content": "4"}]}, "message 5 of 'messages' has the role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "its 'content' is None"),
        ({"conversations": [{"from": "human", "value": " "}]}, "its 'value' is ' '"),
        ({"chosen": "a", "rejected": "b"}, "nothing before it"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "both answers are 'a'"),
        ({"prompt": "p", "chosen": answer("a"), "rejected": answer("a")}, "both answers are 'a'"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, "'chosen' is None"),
        ({"prompt": 3, "chosen": answer("a"), "rejected": answer("b")}, "'prompt' is 3"),
        ({"chosen": [*TALK, *answer("a")], "rejected": [*TALK[1:], *answer("b")]}, "differ before their last message"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_line(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match=words) as caught:
        read_labelled(path)
    assert f"{path}, line 1" in str(caught.value)


@pytest.mark.parametrize("template", [None, CHATML])
def test_conversations_are_encoded_as_the_model_was_trained_on_them(model: Path, template: str | None) -> None:
    made = encoder(model, template)
    batch = made.encode([Completion(TEXT, "Now.", TEXT, TURNS)])
    if template:
        start = (
            "<|system|>Be kind.<|end|><|user|>Hello<|end|><|assistant|>Hi<|end|><|user|>And now?<|end|><|assistant|>"
        )
    else:
        start = TEXT
    assert made.tokenizer.decode(batch.input_ids[0]) == start + "Now.<|end|>"
    assert made.tokenizer.decode(batch.targets[0]).strip() == "Now.<|end|>"
    pair = made.encode_pairs([Pair(TEXT, "Now.", "Later.", TEXT, TURNS)])
    shown = made.tokenizer.decode(pair.prompts.input_ids[0][pair.prompts.attention_mask[0] > 0])
    assert start.strip() == shown.strip()
    assert pair.prompts.targets[0, 0] != pair.others[0]
    assert any(("chat template" in note) for note in made.rows.notes)


def test_a_chat_template_that_refuses_a_role_is_named(model: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(InputError, match=r"takes no conversation of system, user, .*no system role"):
        encoder(model, template).encode([Completion(TEXT, "Now.", TEXT, TURNS)])
