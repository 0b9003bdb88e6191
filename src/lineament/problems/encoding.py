"""Examples of every shape to token rows with targets, for one tokenizer.

Rows are padded on the right, where a causal model's padding cannot reach the wanted positions. Nothing is cut off: a
row that the model cannot take is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.problems.conversations import Turn
from lineament.problems.labelled_data import LETTERS, Choice, Completion, Item, Pair, Passage
from lineament.problems.problem import IGNORED, Batch, padded_rows
from lineament.problems.statements import Labelled, Statement
from lineament.problems.token_rows import TokenRows

PROMPT = "{statement} Answer:"
# In a chat template the answer begins the assistant's message.
CHAT_PROMPT = "{statement}\nTrue or False?"
PAIR_PROMPT = "{question}\nAnswer: {answer}"
_LABEL_PROMPT = PROMPT.replace("{statement}", "The sky is blue.")
LABEL_TEXTS = {False: " False", True: " True"}
MIN_BLOCK_TOKENS = 2
# Consecutive blocks of one text that fall into one split.
BLOCKS_PER_STRETCH = 8


@dataclass(frozen=True)
class EncodedPairs:
    """Prompts with the matching answers as targets, and the first token of every other answer, (n,)."""

    prompts: Batch
    others: Tensor


@dataclass(frozen=True)
class TextBlock:
    """Consecutive tokens of a running text.

    Attributes:
        tokens: their ids. group: blocks of one group are never divided between splits.
    """

    tokens: tuple[int, ...]
    group: str

    @property
    def text(self) -> tuple[int, ...]:
        """What makes two blocks the same example."""
        return self.tokens


def prompt_of(chat: bool) -> str:
    """Return the default template of statements."""
    return CHAT_PROMPT if chat else PROMPT


# What can be encoded; passages are cut into blocks first.
Example = Statement | Pair | Choice | Completion | TextBlock


class Encoder:
    """Examples to token rows for one model.

    Args:
        rows: texts to token rows. n_vocabulary: logits of the model. most_tokens: longest row that it takes, or None.
    """

    def __init__(self, rows: TokenRows, n_vocabulary: int, most_tokens: int | None) -> None:
        self.rows, self.tokenizer, self.model_name = rows, rows.tokenizer, rows.model_name
        self.n_vocabulary, self.most_tokens = n_vocabulary, most_tokens
        # Tokens of A, B, .. behind a question, from the first one on.
        self._letters: tuple[int, ...] = ()

    def encode(self, examples: Sequence[Labelled | Item | Example], template: str = "", *, chat: bool = False) -> Batch:
        """Encode examples of one shape; targets are label tokens, matching answers, letters, completions or text.

        Args:
            template: of statements, with `{statement}` where the text goes; default `prompt_of(chat)`.
            chat: statements and questions are the user's message in the tokenizer's chat template, and answers begin
                the assistant's.

        Raises:
            InputError: a row is longer than the model takes, an answer is no single token, or no chat template.
        """
        first: Any = examples[0]
        listed: list[Any] = list(examples)
        if isinstance(first, Pair):
            return self.encode_pairs(listed, chat=chat).prompts
        if isinstance(first, Choice):
            return self._choices(listed)
        if isinstance(first, Completion):
            return self._with_targets([self._completion(example) for example in listed])
        if isinstance(first, TextBlock):
            return self._with_targets([(block.tokens, 1) for block in listed])
        texts = [(template or prompt_of(chat)).replace("{statement}", statement.text) for statement in listed]
        batch, labels = self._asked_in_chat(texts) if chat else (self.encode_texts(texts), self.labels)
        targets = torch.tensor([[labels[statement.label]] for statement in listed])
        return replace(batch, targets=targets, choices=tuple(labels.values()))

    def _asked_in_chat(self, texts: Sequence[str]) -> tuple[Batch, dict[bool, int]]:
        """Return conversations in which the user says each text, and the tokens that begin its answers."""
        self.rows.require_chat_template()
        rows = [self.rows.conversation([Turn("user", text)]) for text in texts]
        encoded = [ids_of(start) for start, ids_of in rows]
        start, ids_of = rows[0]
        answered = {label: ids_of(start + text.strip()) for label, text in LABEL_TEXTS.items()}
        n = len(encoded[0])
        labels = {label: int(ids[n]) for label, ids in answered.items() if ids[:n] == encoded[0] and len(ids) > n}
        if len(set(labels.values())) < len(LABEL_TEXTS):
            raise InputError(
                f"in the chat template of {self.model_name} True and False do not begin with tokens of their own. "
                "Leave --chat out, or give questions with a matching and a not-matching answer."
            )
        return self._padded(encoded), labels

    def encode_pairs(self, pairs: Sequence[Pair], *, chat: bool = False) -> EncodedPairs:
        """Encode prompts with the first token at which two answers differ as target; the prompt takes the rest.

        Args:
            chat: the question is the user's message in the tokenizer's chat template; messages are so in any case.

        Raises:
            InputError: an answer that is the beginning of the other one, or no chat template.
        """
        if chat:
            self.rows.require_chat_template()
        prompts, matching, others = [], [], []
        for pair in pairs:
            start, ids_of = self._question(pair, chat)
            texts = [start + answer for answer in (pair.matching, pair.not_matching)]
            first, second = (ids_of(text) for text in texts)
            n_shared = _n_shared(first, second)
            if n_shared == min(len(first), len(second)):
                raise InputError(f"of {texts[0]!r:.200} one answer is the beginning of the other; they must differ.")
            prompts.append(first[:n_shared])
            matching.append(first[n_shared])
            others.append(second[n_shared])
        batch = self._padded(prompts)
        choices = tuple(sorted({*matching, *others}))
        targets = torch.tensor(matching)[:, None]
        return EncodedPairs(replace(batch, targets=targets, choices=choices), torch.tensor(others))

    def encode_continuations(
        self, items: Sequence[Statement | Pair], template: str = "", *, chat: bool = False
    ) -> Batch:
        """Encode texts with every token of their own as a target, and nothing after them.

        Of statements that is the text at its place in the template (or in the user's message, in a chat); of pairs each
        answer after its question, all matching ones first.

        Raises:
            InputError: a text of one token that nothing comes before, or no chat template.
        """
        if chat:
            self.rows.require_chat_template()
        pairs = [item for item in items if isinstance(item, Pair)]
        parts = [(*self._question(pair, chat), pair.matching) for pair in pairs]
        parts += [(*self._question(pair, chat), pair.not_matching) for pair in pairs]
        before = (template or prompt_of(chat)).partition("{statement}")[0]
        for item in items:
            if isinstance(item, Statement):
                parts.append((*self._begun(before, item.text, chat), item.text))
        return self._with_targets([self._own_tokens(*part) for part in parts])

    def _question(self, pair: Pair, chat: bool) -> tuple[str, Callable[[str], list[int]]]:
        """Return what comes before the answers to a question, and what makes tokens of it with an answer."""
        turns = pair.turns or ((Turn("user", pair.text),) if chat else ())
        if turns:
            return self.rows.conversation(turns)
        return PAIR_PROMPT.format(question=pair.text, answer=""), self._ids

    def _begun(self, before: str, text: str, chat: bool) -> tuple[str, Callable[[str], list[int]]]:
        """Return what comes before a text, up to its place in the user's message in a chat."""
        if not chat:
            return before, self._ids
        written, ids_of = self.rows.conversation([Turn("user", before + text)])
        return written[: written.rfind(text)], ids_of

    def _own_tokens(self, start: str, ids_of: Callable[[str], list[int]], text: str) -> tuple[Sequence[int], int]:
        """Return the tokens up to the end of a text, and the index of its own first one."""
        ids = ids_of(start + text)
        first = max(1, _n_shared(ids, ids_of(start)))
        if first >= len(ids):
            raise InputError(f"nothing is left to predict of the text {text!r:.80}; give longer texts.")
        return ids, first

    def encode_texts(self, texts: Sequence[str]) -> Batch:
        """Encode texts, padded on the right, without choices; the wanted position is the last token."""
        return self._padded([self._ids(text) for text in texts])

    def blocks(self, passages: Sequence[Passage], length: int) -> tuple[list[TextBlock], str]:
        """Cut running texts into consecutive blocks of `length` tokens, the last one shorter; say what was cut.

        Blocks of few long texts are kept together in stretches, so that each stretch falls into one split.
        """
        n_tokens, n_dropped, found = 0, 0, dict[tuple[int, ...], TextBlock]()
        for passage in passages:
            ids = self._ids(passage.text)
            n_tokens += len(ids)
            for number, start in enumerate(range(0, len(ids), length)):
                tokens = tuple(ids[start : start + length])
                if len(tokens) < MIN_BLOCK_TOKENS or tokens in found:
                    n_dropped += len(tokens)
                    continue
                stretch = number // BLOCKS_PER_STRETCH
                found[tokens] = TextBlock(tokens, f"{passage.group}\n{stretch}")
        padded = length * len(found) - sum(map(len, found))
        share = padded / max(1, length * len(found))
        words = (
            f"{len(passages)} texts, {n_tokens:,} tokens in {len(found):,} blocks of {length}; {n_dropped} tokens left "
            f"out (single ones at ends, and blocks that came before); padding {share:.1%}"
        )
        return list(found.values()), words

    @cached_property
    def labels(self) -> dict[bool, int]:
        """Tokens of the labels of statements."""
        return {label: self._single_token(text) for label, text in LABEL_TEXTS.items()}

    def _choices(self, examples: Sequence[Choice]) -> Batch:
        """Encode questions with lettered options, and the right letter as target."""
        prompts, targets = [], []
        for example in examples:
            listed = [f"({letter}) {option}" for letter, option in zip(LETTERS, example.options, strict=False)]
            prompt = "\n".join([example.text, *listed, "Answer: ("])
            rows = [self._ids(prompt + letter) for letter in LETTERS[: len(listed)]]
            n_shared = min(_n_shared(rows[0], row) for row in rows[1:])
            tokens = tuple(row[n_shared] for row in rows if len(row) > n_shared)
            self._letters = self._letters or tokens
            if len(set(tokens)) < len(rows) or tokens != self._letters:
                raise InputError(
                    f"after {prompt!r:.80} the letters A to {LETTERS[len(rows) - 1]} are not the same different "
                    "tokens as in other rows. Every row must have equally many choices."
                )
            prompts.append(rows[0][:n_shared])
            targets.append(tokens[example.answer])
        return replace(self._padded(prompts), targets=torch.tensor(targets)[:, None], choices=self._letters)

    def _completion(self, example: Completion) -> tuple[Sequence[int], int]:
        """Return the tokens of prompt, completion and end of text, and the index of the first target."""
        start, ids_of = self.rows.conversation(example.turns) if example.turns else (example.text, self._ids)
        ids, prompt = ids_of(start + example.completion), ids_of(start)
        end = self.tokenizer.eos_token_id
        if end is not None and (not ids or ids[-1] != end):
            ids = [*ids, int(end)]
        first = max(1, _n_shared(ids, prompt))
        if first >= len(ids):
            raise InputError(f"nothing is left to predict after the prompt {example.text!r:.80}.")
        return ids, first

    def _with_targets(self, rows: Sequence[tuple[Sequence[int], int]]) -> Batch:
        """Return rows whose tokens from an index on are all targets, any token being a possible answer."""
        batch = self._padded([ids for ids, _ in rows], longest=0)
        width = max(len(ids) - first for ids, first in rows)
        positions, targets = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), IGNORED)
        for i, (ids, first) in enumerate(rows):
            n = len(ids) - first
            positions[i, :n] = torch.arange(first - 1, len(ids) - 1)
            targets[i, :n] = torch.tensor(list(ids[first:]))
        return replace(batch, positions=positions, targets=targets, choices=range(self.n_vocabulary))

    def _padded(self, rows: Sequence[Sequence[int]], longest: int = 1) -> Batch:
        """Pad rows; each, with `longest` more tokens, must be no longer than the model takes."""
        for row in rows:
            if self.most_tokens and len(row) + longest > self.most_tokens:
                raise InputError(
                    f"an example has {len(row)} tokens, but {self.model_name} takes at most {self.most_tokens} with "
                    f"its answer: {self.tokenizer.decode(row[:20])!r} ... Shorten it or leave it out."
                )
        return padded_rows(rows, self.rows.padding)

    def _ids(self, text: str) -> list[int]:
        return self.rows.of(text)

    def _single_token(self, text: str) -> int:
        """Return the token of a label as it follows a prompt: alone, some tokenizers put a space token before it."""
        prompt = self._ids(_LABEL_PROMPT)
        whole = self._ids(_LABEL_PROMPT + text)
        ids = whole[len(prompt) :] if whole[: len(prompt)] == prompt else self._alone(text)
        if len(ids) != 1:
            raise InputError(
                f"the label {text!r} is {len(ids)} tokens of this tokenizer; one is needed. Give data of another shape "
                "with --data, and its name with --set task.names=..."
            )
        return int(ids[0])

    def _alone(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        self.rows.require_embedded(ids)
        return ids


def _n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning of two token rows."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
