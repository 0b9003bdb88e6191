"""A user's labelled data from a file: true/false statements, or questions with a matching and a not-matching answer.

JSONL, a JSON list, or CSV with a header. Which shape it is tells the columns of the first row:

- `statement` (or `text`, or `question` with an optional `passage`) and `label`: true/false, yes/no or 1/0;
- `question` (or `prompt`), `answer_matching_behavior` and `answer_not_matching_behavior` (or `matching` and
  `not_matching`), as in the data of nrimsky/CAA.

An optional column `group` keeps rows together when data are split; by default rows of one passage stay together.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineament.errors import InputError
from lineament.problems.statements import Statement

TRUE_WORDS, FALSE_WORDS = ("true", "yes", "1"), ("false", "no", "0")
TEXT_COLUMNS = ("statement", "text", "question")
PROMPT_COLUMNS = ("question", "prompt")
PAIR_COLUMNS = (("answer_matching_behavior", "answer_not_matching_behavior"), ("matching", "not_matching"))
SHAPES = (
    "either a column 'statement', 'text' or 'question' with 'label', or 'question' or 'prompt' with "
    "'answer_matching_behavior' and 'answer_not_matching_behavior'"
)


@dataclass(frozen=True)
class Pair:
    """A question with two answers.

    Attributes:
        text: the question. matching, not_matching: the answer with the behaviour, and the one without.
        label: whether the matching answer is the later of the two in the alphabet; splits hold both kinds equally
            often.
        group: rows of one group are never divided between splits.
    """

    text: str
    matching: str
    not_matching: str
    group: str

    @property
    def label(self) -> bool:
        """See the class."""
        return self.matching > self.not_matching


Item = Statement | Pair


@dataclass(frozen=True)
class LabelledData:
    """Rows of one file, all of one shape.

    Attributes:
        name: the file's name without its suffix. lines: where each item stands in the file, from 1.
    """

    name: str
    path: Path
    items: tuple[Item, ...]
    lines: tuple[int, ...]

    @property
    def is_pairs(self) -> bool:
        """Whether rows are questions with two answers."""
        return isinstance(self.items[0], Pair)


def read_labelled(path: Path) -> LabelledData:
    """Rows of a labelled file.

    Raises:
        InputError: no such file, another format or shape, no rows, or a bad row: empty, without a label, or twice the
            same; names the file and the line.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} holds no rows; give {SHAPES}.")
    make = _maker(path, rows[0][1])
    items = tuple(make(line, row) for line, row in rows)
    found = LabelledData(path.stem, path, items, tuple(line for line, _ in rows))
    _require_distinct(found)
    return found


def _rows(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist.")
    readers: dict[str, Callable[[Path, str], list[tuple[int, Any]]]] = {
        ".jsonl": _json_lines,
        ".json": _json_list,
        ".csv": _csv_rows,
    }
    if path.suffix not in readers:
        raise InputError(f"{path} is of type {path.suffix or 'none'}; give {', '.join(readers)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}.") from None
    rows = readers[path.suffix](path, text)
    for line, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: a row must be an object with named columns, not {row!r:.60}.")
    return rows


def _json_lines(path: Path, text: str) -> list[tuple[int, Any]]:
    found = []
    # Not splitlines(): that would also break at separators that may stand inside a text.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                found.append((line, json.loads(content)))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {line} is not valid JSON: {error}.") from None
    return found


def _json_list(path: Path, text: str) -> list[tuple[int, Any]]:
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(body, list):
        raise InputError(f"{path} holds no list of rows.")
    return list(enumerate(body, start=1))  # rows of a list have no line of their own: counted instead


def _csv_rows(path: Path, text: str) -> list[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not valid CSV: {error}.") from None


def _maker(path: Path, first: Mapping[str, Any]) -> Callable[[int, Mapping[str, Any]], Item]:
    prompt = _one_of(first, PROMPT_COLUMNS)
    pair = next((columns for columns in PAIR_COLUMNS if all(c in first for c in columns)), None)
    if prompt and pair:
        return lambda line, row: _pair(path, line, row, prompt, pair)
    text = _one_of(first, TEXT_COLUMNS)
    if text and "label" in first:
        return lambda line, row: _statement(path, line, row, text)
    raise InputError(f"{path} has the columns {', '.join(map(str, first))}; give {SHAPES}.")


def _one_of(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _statement(path: Path, line: int, row: Mapping[str, Any], column: str) -> Statement:
    text, passage = _text(path, line, row, column), row.get("passage")
    label = str(row.get("label", "")).strip().lower()
    if label not in (*TRUE_WORDS, *FALSE_WORDS):
        raise InputError(f"{path}, line {line}: label {row.get('label')!r}; give true or false (yes or no, 1 or 0).")
    if column == "question":
        text = f"Question: {text.rstrip('?')}?"
    shown = f"{str(passage).strip()}\n{text}" if passage else text
    return Statement(shown, label in TRUE_WORDS, _group(row, str(passage or text)))


def _pair(path: Path, line: int, row: Mapping[str, Any], prompt: str, columns: tuple[str, str]) -> Pair:
    text = _text(path, line, row, prompt)
    matching, other = (_text(path, line, row, column) for column in columns)
    if matching == other:
        raise InputError(f"{path}, line {line}: both answers are {matching!r}; they must differ.")
    return Pair(text, matching, other, _group(row, text))


def _group(row: Mapping[str, Any], default: str) -> str:
    given = row.get("group")
    return default if given is None or given == "" else str(given)


def _text(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}, line {line}: {column!r} is {value!r}; give a text that is not empty.")
    return value.strip()


def _require_distinct(found: LabelledData) -> None:
    lines: dict[str, list[int]] = {}
    for item, line in zip(found.items, found.lines, strict=True):
        lines.setdefault(item.text, []).append(line)
    twice = [where for where in lines.values() if len(where) > 1]
    if twice:
        raise InputError(
            f"{found.path}: {len(twice)} texts come more than once, the first on lines {_listed(twice[0])}. "
            "Remove all but one of each."
        )


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5]))
