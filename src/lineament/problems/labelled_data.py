"""A user's examples: rows of a file or data set in one of several shapes, one adapter function each.

Which shape it is tells the columns of the first row:

- `statement` (or `text`, or `question` with an optional `passage`) and `label`: true/false, yes/no or 1/0; of a
  `question`, the label may be named `answer`, as in BoolQ;
- `question` (or `prompt`), `answer_matching_behavior` and `answer_not_matching_behavior` (or `matching` and
  `not_matching`), as in the data of nrimsky/CAA;
- `chosen` and `rejected`, each a text after `prompt` or a list of messages, as preference data have them;
- `question`, `choices` (a list of texts, or columns `A`, `B`, ...) and `answer` (a letter, a number from 0, or the
  text);
- `messages` (each with `role` and `content`) or `conversations` (`from` and `value`) that end with an answer;
- `prompt` and `completion`, or `instruction`, an optional `input`, and `output`;
- `text` alone: running text.

An optional column `group` keeps rows together when data are split; by default rows of one passage stay together.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lineament.errors import InputError
from lineament.files.reading import shown
from lineament.problems import conversations
from lineament.problems.conversations import Turns
from lineament.problems.data_files import DataRows, Row, read_rows
from lineament.problems.statements import Statement

TRUE_WORDS, FALSE_WORDS = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0")
TEXT_COLUMNS = ("statement", "text", "question")
PROMPT_COLUMNS = ("question", "prompt")
PAIR_COLUMNS = (("answer_matching_behavior", "answer_not_matching_behavior"), ("matching", "not_matching"))
LETTERS = string.ascii_uppercase
SHAPES = (
    "'statement', 'text' or 'question' with 'label'; 'question' with 'answer' (true or false); 'question' or 'prompt' "
    "with 'answer_matching_behavior' and 'answer_not_matching_behavior'; 'question' with 'choices' (or 'A', 'B', ...) "
    "and 'answer'; 'chosen' and 'rejected'; 'messages' or 'conversations'; 'prompt' with 'completion'; 'instruction' "
    "with 'output'; or 'text' alone"
)


@dataclass(frozen=True)
class Pair:
    """A question with two answers.

    Attributes:
        text: the question. matching, not_matching: the answer with the behaviour, and the one without.
        turns: the messages that `text` was written from, where the answers are an assistant's.
        label: whether the matching answer is the later of the two in the alphabet; splits hold both kinds equally
            often.
        group: rows of one group are never divided between splits.
    """

    text: str
    matching: str
    not_matching: str
    group: str
    turns: Turns = ()

    @property
    def label(self) -> bool:
        """See the class."""
        return self.matching > self.not_matching


@dataclass(frozen=True)
class Choice:
    """A question with lettered options, one of which is right.

    Attributes:
        text: the question. options: their texts, (A) first. answer: index of the right one.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    group: str


@dataclass(frozen=True)
class Completion:
    """A prompt (`text`), what should follow it, and the messages that the prompt was written from, if any."""

    text: str
    completion: str
    group: str
    turns: Turns = ()


@dataclass(frozen=True)
class Passage:
    """Running text, of any length."""

    text: str
    group: str


Item = Statement | Pair | Choice | Completion | Passage


@dataclass(frozen=True)
class LabelledData:
    """Rows of one source, all of one shape.

    Attributes:
        name: the file's name without its suffix. lines: where each item stands in the file, from 1.
        n_repeated: rows that are left out, since an earlier one is the same in all that is read of them.
        reading: how a task reads the rows, where that is not as they stand.
    """

    name: str
    path: Path
    items: tuple[Item, ...]
    lines: tuple[int, ...]
    n_repeated: int = 0
    reading: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done with the rows that a user may not expect, one sentence each."""
        repeated = f"{self.n_repeated} rows that repeat an earlier one word by word are counted once"
        said = ((repeated if self.n_repeated else ""), self.reading)
        return tuple(f"{self.path}: {words}" for words in said if words)

    @property
    def is_pairs(self) -> bool:
        """Whether rows are questions with two answers."""
        return isinstance(self.items[0], Pair)

    @property
    def is_labelled(self) -> bool:
        """Whether rows have one of two labels, as steering vectors need."""
        return isinstance(self.items[0], Statement | Pair)


def read_labelled(source: Path | str) -> LabelledData:
    """Read the rows of a source, whatever its shape.

    Raises:
        InputError: no such file, another format or shape, no rows, or a bad row: empty, without a label, or with
            another answer than an earlier one has; names the file and the line.
    """
    data = read_rows(source)
    make, lines = _maker(data), dict[Item, int]()
    for number, row in data.rows:
        lines.setdefault(make(number, row), number)
    n_repeated = len(data.rows) - len(lines)
    found = LabelledData(data.name, Path(data.source), tuple(lines), tuple(lines.values()), n_repeated)
    _require_distinct(found, data)
    return found


def read_task(source: Path | str) -> LabelledData:
    """Read rows as a task learns them: pairs with more than two answers in all as completions by the matching answer.

    A task is judged between two answers for all rows; preferences with an answer of their own in each row have none.

    Raises:
        InputError: see `read_labelled`.
    """
    data = read_labelled(source)
    pairs = {item: line for item, line in zip(data.items, data.lines, strict=True) if isinstance(item, Pair)}
    n_answers = len({answer for pair in pairs for answer in (pair.matching, pair.not_matching)})
    if n_answers <= 2:
        return data
    lines: dict[Item, int] = {}
    for pair, line in pairs.items():
        lines.setdefault(Completion(pair.text, pair.matching, pair.group, pair.turns), line)
    reading = (
        f"{n_answers} different answers are more than a task can be judged between, so it learns the {len(lines)} "
        "chosen (matching) ones, as completions, and leaves the others out"
    )
    return replace(data, items=tuple(lines), lines=tuple(lines.values()), reading=reading)


def read_contrast(source: Path | str) -> LabelledData:
    """Read statements or answer pairs only; `InputError` for data without two labels."""
    found = read_labelled(source)
    if not found.is_labelled:
        raise InputError(
            f"{source} holds {type(found.items[0]).__name__.lower()}s, which have no two labels to contrast. A "
            "steering vector needs statements with labels, or questions with a matching and a not-matching answer."
        )
    return found


def _maker(data: DataRows) -> Callable[[int, Row], Item]:
    """Return the adapter function that fits the columns of the first row."""
    first = data.rows[0][1]
    prompt, text = _one_of(first, PROMPT_COLUMNS), _one_of(first, TEXT_COLUMNS)
    pair = next((columns for columns in PAIR_COLUMNS if all(c in first for c in columns)), None)
    if prompt and pair:
        return lambda number, row: _pair(data.where(number), row, prompt, pair)
    if "chosen" in first and "rejected" in first:
        return lambda number, row: _preference(data.where(number), row)
    if prompt and "answer" in first and ("choices" in first or "A" in first):
        return lambda number, row: _choice(data.where(number), row, prompt)
    if text and "label" in first:
        return lambda number, row: _statement(data.where(number), row, text)
    if "question" in first and _is_label(first.get("answer")):
        return lambda number, row: _statement(data.where(number), row, "question", "answer")
    if talk := _one_of(first, conversations.COLUMNS):
        return lambda number, row: _conversation(data.where(number), row, talk)
    if "prompt" in first and "completion" in first:
        return lambda number, row: _completion(data.where(number), row)
    if "instruction" in first and "output" in first:
        return lambda number, row: _instruction(data.where(number), row)
    if "text" in first:
        return lambda number, row: _passage(data.where(number), row)
    raise InputError(f"{data.source} has the columns {', '.join(map(str, first))}; give {SHAPES}.")


def _one_of(row: Row, names: Iterable[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _is_label(value: object) -> bool:
    return str(value).strip().lower() in (*TRUE_WORDS, *FALSE_WORDS)


def _statement(where: str, row: Row, column: str, label_column: str = "label") -> Statement:
    text, passage, label = _text(where, row, column), row.get("passage"), row.get(label_column)
    if not _is_label(label):
        raise InputError(f"{where}: {label_column} {shown(label)}; give true or false (yes or no, 1 or 0).")
    if column == "question":
        text = f"Question: {text.rstrip('?')}?"
    said = f"{str(passage).strip()}\n{text}" if passage else text
    return Statement(said, str(label).strip().lower() in TRUE_WORDS, _group(row, str(passage or text)))


def _pair(where: str, row: Row, prompt: str, columns: tuple[str, str]) -> Pair:
    text = _text(where, row, prompt)
    matching, other = (_text(where, row, column) for column in columns)
    _require_different(where, matching, other)
    return Pair(text, matching, other, _group(row, text))


def _preference(where: str, row: Row) -> Pair:
    if all(isinstance(row.get(column), str) for column in ("prompt", "chosen", "rejected")):
        return _pair(where, row, "prompt", ("chosen", "rejected"))
    (before, chosen), (before_other, rejected) = (
        conversations.said(where, row, column) for column in ("chosen", "rejected")
    )
    if before != before_other:
        raise InputError(f"{where}: 'chosen' and 'rejected' differ before their last message; only that one may.")
    _require_different(where, chosen, rejected)
    turns = conversations.asked(where, row, before)
    text = conversations.written(turns)
    return Pair(text, chosen, rejected, _group(row, text), turns)


def _require_different(where: str, first: str, second: str) -> None:
    if first == second:
        raise InputError(f"{where}: both answers are {shown(first)}; they must differ.")


def _choice(where: str, row: Row, prompt: str) -> Choice:
    text = _text(where, row, prompt)
    listed = row["choices"] if "choices" in row else [row[letter] for letter in LETTERS if row.get(letter)]
    if isinstance(listed, dict):  # as data sets of the hub have it: {"text": [...], "label": [...]}
        listed = listed.get("text", [])
    if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
        raise InputError(f"{where}: choices {shown(listed)}; give a list of 2 to {len(LETTERS)} texts.")
    options = tuple(str(option).strip() for option in listed)
    if not all(options) or len(set(options)) < len(options):
        raise InputError(f"{where}: choices {shown(list(options))}; they must differ, and none may be empty.")
    return Choice(text, options, _answer(where, row.get("answer"), options), _group(row, text))


def _answer(where: str, given: object, options: Sequence[str]) -> int:
    letters, said = LETTERS[: len(options)], str(given).strip()
    letter = said.strip("().").upper()
    if letter and letter in letters and len(letter) == 1:
        return letters.index(letter)
    if said in options:
        return options.index(said)
    if said.isascii() and said.isdecimal() and len(said) < 3 and int(said) < len(options):
        return int(said)
    raise InputError(
        f"{where}: answer {shown(given)}; give a letter from A to {letters[-1]}, a number from 0 to "
        f"{len(options) - 1}, or the text of a choice."
    )


def _conversation(where: str, row: Row, column: str) -> Completion:
    turns, answer = conversations.last_answer(where, column, conversations.read_turns(where, column, row.get(column)))
    return _answered(where, row, turns, answer)


def _answered(where: str, row: Row, turns: Turns, answer: str) -> Completion:
    if not turns:
        raise InputError(f"{where} has an answer and nothing before it; give the messages that lead to it.")
    text = conversations.written(turns)
    return Completion(text, answer, _group(row, text), turns)


def _completion(where: str, row: Row) -> Completion:
    if isinstance(row.get("completion"), list):
        before, answer = conversations.said(where, row, "completion")
        return _answered(where, row, conversations.asked(where, row, before), answer)
    prompt = _text(where, row, "prompt", stripped=False)
    return Completion(prompt, _text(where, row, "completion", stripped=False), _group(row, prompt))


def _instruction(where: str, row: Row) -> Completion:
    asked, given = _text(where, row, "instruction"), str(row.get("input") or "").strip()
    prompt = "\n".join([asked, *([given] if given else []), ""])
    return Completion(prompt, _text(where, row, "output"), _group(row, prompt))


def _passage(where: str, row: Row) -> Passage:
    text = _text(where, row, "text", stripped=False)
    # Every block that the text is cut into carries the group: not the text itself, which may be a book.
    return Passage(text, _group(row, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()))


def _group(row: Row, default: str) -> str:
    given = row.get("group")
    return default if given is None or given == "" else str(given)


def _text(where: str, row: Row, column: str, *, stripped: bool = True) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {column!r} is {shown(value)}; give a text that is not empty.")
    return value.strip() if stripped else value


def _require_distinct(found: LabelledData, data: DataRows) -> None:
    """Refuse texts that come again with another label or answer; two pairs may ask the same of different answers."""
    lines: dict[object, list[int]] = {}
    for item, line in zip(found.items, found.lines, strict=True):
        match item:
            case Completion():
                key: object = (item.text, item.completion)
            case Pair():
                key = (item.text, frozenset((item.matching, item.not_matching)))
            case _:
                key = item.text
        lines.setdefault(key, []).append(line)
    twice = [where for where in lines.values() if len(where) > 1]
    if twice:
        raise InputError(
            f"{found.path}: {len(twice)} texts come more than once with different answers, the first on {data.unit}s "
            f"{_listed(twice[0])}. Remove all but one of each."
        )


def _listed(lines: Sequence[int]) -> str:
    return ", ".join(map(str, lines[:5]))
