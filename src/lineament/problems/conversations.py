"""Conversations in rows of data: lists of messages by role, whatever a data set calls the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lineament.errors import InputError
from lineament.files.reading import shown

# Where a row has its conversation, and how a message names who speaks and what is said.
COLUMNS = ("messages", "conversations", "conversation")
KEYS = (("role", "content"), ("from", "value"))
ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


@dataclass(frozen=True)
class Turn:
    """A message: who speaks (`system`, `user` or `assistant`), and what is said."""

    role: str
    content: str


Turns = tuple[Turn, ...]


def read_turns(where: str, column: str, value: object) -> Turns:
    """Read a list of messages.

    Args:
        where: how errors name the row. column: where the list stands in it.

    Raises:
        InputError: no list, no messages, or one without a known role or a text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError(f"{where}: {column!r} is {shown(value)}; give a list of messages with 'role' and 'content'.")
    return tuple(_turn(f"{where}: message {number} of {column!r}", one) for number, one in enumerate(value, start=1))


def _turn(where: str, value: Any) -> Turn:
    keys = next((keys for keys in KEYS if isinstance(value, Mapping) and all(key in value for key in keys)), None)
    if keys is None:
        raise InputError(f"{where} is {shown(value)}; give an object with 'role' and 'content', or 'from' and 'value'.")
    role, content = (value[key] for key in keys)
    if str(role).lower() not in ROLES:
        raise InputError(f"{where} has the {keys[0]} {shown(role)}; give one of {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: its {keys[1]!r} is {shown(content)}; give a text that is not empty.")
    return Turn(ROLES[str(role).lower()], content.strip())


def last_answer(where: str, column: str, turns: Turns) -> tuple[Turns, str]:
    """Divide a conversation into what comes before its last message and that message, the assistant's answer.

    Raises:
        InputError: the last message is not the assistant's.
    """
    if turns[-1].role != "assistant":
        raise InputError(
            f"{where}: {column!r} ends with a message of the {turns[-1].role}; what is learned is the assistant's "
            "answer, so it must be the last one. Leave out what follows it."
        )
    return turns[:-1], turns[-1].content


def said(where: str, row: Mapping[str, Any], column: str) -> tuple[Turns, str]:
    """Read an answer: a text, or messages of which the last one is the answer; return what precedes it, and it.

    Raises:
        InputError: neither, or an empty one.
    """
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        return (), value.strip()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(
            f"{where}: {column!r} is {shown(value)}; give a text that is not empty, or a list of messages."
        )
    return last_answer(where, column, read_turns(where, column, value))


def asked(where: str, row: Mapping[str, Any], before: Turns) -> Turns:
    """Join the column `prompt`, a text, messages or nothing, with what precedes an answer, which may repeat it.

    Raises:
        InputError: there is neither.
    """
    value = row.get("prompt")
    if value is None or value == "":
        prompt: Turns = ()
    elif isinstance(value, str):
        prompt = (Turn("user", value.strip()),)
    else:
        prompt = read_turns(where, "prompt", value)
    joined = before if set(prompt) <= set(before) else (*prompt, *before)
    if not joined:
        raise InputError(f"{where} has an answer and nothing before it; give a 'prompt', or messages that lead to it.")
    return joined


def written(turns: Iterable[Turn]) -> str:
    """Write a conversation, up to where the assistant's answer begins, as lines of plain text."""
    lines = [f"{turn.role.capitalize()}: {turn.content}" for turn in turns]
    return "\n\n".join([*lines, "Assistant: "])
