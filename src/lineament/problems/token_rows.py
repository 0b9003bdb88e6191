"""Texts to token rows that end with the text and that the model has embeddings for.

Tokenizers add tokens of their own at either end. What each adds is found once, on a text: an end of text that is
appended to every prompt would be what is read, and a prompt that already begins with the beginning of text would get a
second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from lineament.errors import InputError
from lineament.problems.conversations import Turn, written

_EXAMPLE = "The sky is blue"


@dataclass
class TokenRows:
    """Token rows of one tokenizer for one model.

    Attributes:
        tokenizer: of transformers.
        n_embeddings: rows of the model's input embedding; every token id must be below.
        model_name: for errors.
        had_start: whether a text began with the tokenizer's own beginning of text, and got no second one.
        talked: whether a conversation was written, with the tokenizer's chat template or without one.
    """

    tokenizer: Any
    n_embeddings: int
    model_name: str
    had_start: bool = field(default=False, init=False)
    talked: bool = field(default=False, init=False)

    @cached_property
    def added(self) -> tuple[list[int], list[int]]:
        """Tokens that the tokenizer puts before and after every text."""
        plain = self.tokenizer(_EXAMPLE, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(_EXAMPLE)["input_ids"]
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return list(whole[:start]), list(whole[start + len(plain) :])
        return [], []

    def of(self, text: str) -> list[int]:
        """Return the text's tokens, with what the tokenizer puts before it once and without what it puts after it.

        Raises:
            InputError: a token that the model has no embedding for.
        """
        before, after = self.added
        ids: list[int] = list(self.tokenizer(text)["input_ids"])
        if after and ids[-len(after) :] == after:
            ids = ids[: -len(after)]
        if before and ids[: 2 * len(before)] == before + before:
            ids = ids[len(before) :]
            self.had_start = True
        self.require_embedded(ids)
        return ids

    def conversation(self, turns: Sequence[Turn]) -> tuple[str, Callable[[str], list[int]]]:
        """Write a conversation up to where the assistant's answer begins; return it and what makes its tokens.

        The tokenizer's chat template writes it, with all special tokens that it needs; without one it is plain text.

        Raises:
            InputError: the chat template refuses it.
        """
        self.talked = True
        if not self.tokenizer.chat_template:
            return written(turns), self.of
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns)
            raise InputError(
                f"the chat template of {self.model_name} takes no conversation of {roles}: {str(error).rstrip('.')}."
            ) from None
        return text, self._as_written

    def require_chat_template(self) -> None:
        """Raise `InputError` where the tokenizer cannot write conversations in its model's own form."""
        if not self.tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {self.model_name} has no chat template. Leave --chat out (--no-chat, where a vector "
                "was made with one), or take a model that was trained to chat."
            )

    def _as_written(self, text: str) -> list[int]:
        """Return the tokens of a text that holds its special tokens already."""
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        self.require_embedded(ids)
        return ids

    def require_embedded(self, ids: Sequence[int]) -> None:
        """Raise `InputError` for a token id outside the embedding: its tokenizer grew and the model did not."""
        highest = max(ids, default=0)
        if highest >= self.n_embeddings:
            name = self.tokenizer.convert_ids_to_tokens(highest)
            raise InputError(
                f"token {highest} ({name!r}) of the tokenizer has no row in the embedding of {self.model_name}, which "
                f"has {self.n_embeddings}. The tokenizer was extended and the model was not: call "
                "model.resize_token_embeddings(len(tokenizer)) and save both, or take the tokenizer of the model."
            )

    @property
    def padding(self) -> int:
        """Token that fills rows up: the tokenizer's, or 0 where it has none or the model has no embedding for it."""
        found = self.tokenizer.pad_token_id
        return int(found) if found is not None and found < self.n_embeddings else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done that a user may not expect, one sentence each."""
        (before, after), pad = self.added, self.tokenizer.pad_token_id
        found = []
        if after:
            found.append(
                f"the tokenizer appends {self._names(after)} to every text: it is left off, texts end as given"
            )
        if self.had_start:
            found.append(f"texts that begin with {self._names(before)} themselves got no second one")
        if self.talked and self.tokenizer.chat_template:
            found.append("conversations are written with the tokenizer's chat template")
        elif self.talked:
            found.append("the tokenizer has no chat template: conversations are plain lines, 'User: ...'")
        if pad is None:
            found.append("the tokenizer has no padding token: token 0 fills rows up, and the mask leaves it out")
        elif pad >= self.n_embeddings:
            why = f"the padding token {pad} has no row in the model's embedding of {self.n_embeddings}"
            found.append(f"{why}: token 0 fills rows up, and the mask leaves it out")
        return tuple(found)

    def _names(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, self.tokenizer.convert_ids_to_tokens(list(ids))))
