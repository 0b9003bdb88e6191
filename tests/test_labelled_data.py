"""Labelled files: both shapes in three formats, and a message with file and line for everything that is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lineament.errors import InputError
from lineament.problems.labelled_data import Pair, read_labelled
from lineament.problems.statements import Statement

STATEMENTS = [{"statement": f"{i} is even.", "label": i % 2 == 0} for i in range(6)]
PAIRS = [
    {"question": f"Is {i} nice?", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    for i in range(4)
]


def written(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_both_shapes_in_every_format(tmp_path: Path, suffix: str) -> None:
    found = read_labelled(written(tmp_path, f"a{suffix}", STATEMENTS))
    assert found.items[1] == Statement("1 is even.", False, "1 is even.")
    assert [item.label for item in found.items] == [True, False] * 3
    assert not found.is_pairs
    pairs = read_labelled(written(tmp_path, f"b{suffix}", PAIRS))
    assert pairs.items[0] == Pair("Is 0 nice?", "(A)", "(B)", "Is 0 nice?")
    assert pairs.is_pairs
    assert pairs.name == "b"


def test_passages_stand_before_questions_and_keep_their_rows_together(tmp_path: Path) -> None:
    rows = [{"question": f"is it {x}", "passage": "It rained.", "label": x == "wet"} for x in ("wet", "dry")]
    found = read_labelled(written(tmp_path, "boolq.jsonl", rows)).items
    assert found[0].text == "It rained.\nQuestion: is it wet?"
    assert found[0].group == found[1].group == "It rained."


@pytest.mark.parametrize(
    ("label", "expected"), [("True", True), ("no", False), (1, True), ("0", False), (False, False), (" YES ", True)]
)
def test_labels_in_many_words(tmp_path: Path, label: object, expected: bool) -> None:
    rows = [{"text": "a", "label": label}, {"text": "b", "label": True}]
    assert read_labelled(written(tmp_path, "a.jsonl", rows)).items[0].label is expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x", "label": true}\n{"text": "x"', "line 2 is not valid JSON"),
        ("a.jsonl", '{"text": "x", "label": "maybe"}', "line 1: label 'maybe'"),
        ("a.jsonl", '{"text": "x", "label": true}\n\n{"text": " ", "label": true}', "line 3: 'text' is ' '"),
        ("a.jsonl", '{"text": "x", "label": true}\n{"text": "x", "label": false}', "lines 1, 2"),
        ("a.jsonl", '{"sentence": "x", "label": true}', "columns sentence, label"),
        ("a.jsonl", "[1]", "line 1: a row must be an object"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", '{"text": "x"}', "holds no list"),
        ("a.json", "[", "not valid JSON"),
        ("a.csv", "text,label\n,true\n", "line 2: 'text' is ''"),
        ("a.parquet", "x", "not valid Parquet"),
        ("a.xlsx", "x", "of type .xlsx"),
        ("a.jsonl", '{"prompt": "x", "matching": "A", "not_matching": "A"}', "both answers are 'A'"),
        ("a.jsonl", '{"prompt": "x", "matching": "A", "not_matching": 3}', "'not_matching' is 3"),
    ],
)
def test_bad_files_are_refused_with_their_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_labelled(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_labelled(tmp_path / "no.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_labelled(tmp_path / "a.jsonl")


def test_separators_inside_a_text_do_not_end_a_row(tmp_path: Path) -> None:
    text = "a\u2028b\x0cc\x85d"
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": text, "label": True}, ensure_ascii=False) + "\r\n", newline="")
    assert read_labelled(path).items[0].text == text
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\n"{text}",true\n"two\nlines",false\n')
    assert [item.text for item in read_labelled(path).items] == [text, "two\nlines"]
    path.write_text("text,label\n" + "x" * 200_000 + ",true\n")  # more than the csv module takes by itself
    assert len(read_labelled(path).items[0].text) == 200_000


def test_groups_may_be_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": True, "group": i // 2} for i in range(4)]
    assert [i.group for i in read_labelled(written(tmp_path, "a.jsonl", rows)).items] == ["0", "0", "1", "1"]
