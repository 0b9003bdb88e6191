"""Two classes of token rows between which a steering vector points, made from a task's examples.

Statement contrast: examples whose label is the positive one against the others, read at the last token of the prompt.
Answer contrast: the same prompt with the one and with the other answer appended, read at the answer (nrimsky/CAA).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lineament.activations.packed import with_answers
from lineament.errors import InputError
from lineament.problems.problem import Batch

ContrastKind = Literal["statement", "answer"]


@dataclass(frozen=True)
class Contrast:
    """Rows of both classes, and the prompts that steps and effects are measured on.

    Attributes:
        rows: positive rows, then negative ones; activations are read at their last target position.
        positive: (n_rows,) booleans.
        prompts: the prompts, with true answers as targets.
        labels: (n_prompts,) token id of the positive answer to each prompt.
        others: (n_prompts,) token id of the other answer of an answer contrast.
    """

    kind: ContrastKind
    rows: Batch
    positive: Bool[Tensor, " n_rows"]
    prompts: Batch
    labels: Int[Tensor, " n_prompts"]
    others: Int[Tensor, " n_prompts"] | None = None

    def __post_init__(self) -> None:
        if self.positive.all() or not self.positive.any():
            n = int(self.positive.sum())
            raise InputError(
                f"the data hold {n} positive and {len(self.positive) - n} negative examples; a contrast needs both."
            )

    @property
    def read(self) -> Batch:
        """Rows at which a step's shift is read: the prompts, or both answers to each."""
        return self.prompts if self.kind == "statement" else self.rows

    @property
    def read_positive(self) -> Bool[Tensor, " n_read"]:
        """(n,) class of each row of `read`."""
        return self.prompts.targets[:, -1] == self.labels if self.kind == "statement" else self.positive

    def towards(self) -> Batch:
        """Return the prompts with the positive answer as target, whatever the true one is."""
        return replace(self.prompts, targets=self.labels[:, None].clone())


def folds_of(positive: Bool[Tensor, " n_rows"], n_folds: int) -> Int[Tensor, " n_rows"]:
    """Deal rows into folds 0 .. n_folds - 1, (n,), in turn within each class, so that every fold holds both.

    In an answer contrast the two answers to one prompt fall into the same.
    """
    fold = torch.empty(len(positive), dtype=torch.long)
    for kind in (True, False):
        of_kind = positive == kind
        fold[of_kind] = torch.arange(int(of_kind.sum())) % n_folds
    return fold


def make_contrast(batch: Batch, kind: ContrastKind, label: int | None = None) -> Contrast:
    """Make a contrast from examples of one task.

    Args:
        batch: examples with `choices`; of several target positions the last one counts.
        label: token id of the positive label of a statement contrast; default `positive_label(batch)`. In an answer
            contrast the positive answer is each example's own target, and there must be two choices.

    Raises:
        InputError: no choices, one class only, or an answer contrast of a task that has not two choices.
    """
    last = batch.last_target()
    if kind == "statement":
        chosen = positive_label(last) if label is None else label
        positive = last.targets[:, 0] == chosen
        order = torch.argsort(positive.int(), descending=True, stable=True)
        return Contrast(kind, last.rows(order), positive[order], last, torch.full((len(last),), chosen))
    return answer_contrast(last, other_choice(last))


def answer_contrast(prompts: Batch, others: Int[Tensor, " n_prompts"]) -> Contrast:
    """Contrast every prompt with its own target, the positive answer, with `others` (n,), the negative one."""
    targets = prompts.targets[:, 0]
    rows = Batch.join([with_answers(prompts, answer[:, None]) for answer in (targets, others)])
    return Contrast("answer", rows, torch.arange(len(rows)) < len(prompts), prompts, targets, others)


def positive_label(batch: Batch) -> int:
    """Choose the label that a statement contrast points to: the last of two choices, else the most frequent target."""
    if not batch.choices:
        raise InputError("examples of a contrast need `choices`: the token ids among which the answer is.")
    if len(batch.choices) == 2:
        return batch.choices[1]
    return int(Counter(sorted(batch.last_target().targets[:, 0].tolist())).most_common(1)[0][0])


def other_choice(batch: Batch) -> Int[Tensor, " n_prompts"]:
    """Return the choice that is not the target, (n,); raise `InputError` unless there are two."""
    if len(batch.choices) != 2:
        raise InputError(f"an answer contrast needs two choices; this task has {len(batch.choices)}.")
    first, second = batch.choices
    targets = batch.last_target().targets[:, 0]
    return torch.where(targets == first, torch.full_like(targets, second), torch.full_like(targets, first))
