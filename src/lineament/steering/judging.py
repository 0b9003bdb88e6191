"""What the effect of a steering vector is: one score per held-out row, with and without the vector.

Two judges. `answers`: the logit of the positive label minus the largest of the other choices at the end of a prompt, in
nats; the effect is its mean change over rows. `continuations`: the mean log-likelihood of a text's own tokens, in nats
per token; the effect is the mean change for positive texts minus that for negative ones, so that a vector that makes
every text likelier has none. Rows of one group (a passage, the two answers to one prompt) count as one in errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float64, Int
from scipy import stats
from torch import Tensor
from torch.nn import functional

from lineament.activations.capture import length_sorted
from lineament.errors import InputError
from lineament.problems.problem import IGNORED, Batch, Problem
from lineament.steering.contrast import Contrast
from lineament.steering.effects import TOKENS_PER_PASS, Answers, answers
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector

JudgeKind = Literal["answers", "continuations"]
LEVEL = 0.95
# Groups of each class in each half of the rows, when one half chooses and the other one reports.
FEWEST_IN_A_HALF = 2


@dataclass(frozen=True)
class Effect:
    """A mean over rows with its 95 % interval (Student t over groups of rows).

    Attributes:
        stderr, low, high: NaN where there is one group only.
        n_groups: groups of rows that count as one.
    """

    value: float
    stderr: float
    low: float
    high: float
    n_groups: int


@dataclass(frozen=True)
class Judge(ABC):
    """Scores held-out rows under a model.

    Attributes:
        rows: the token rows that pass through the model.
        positive: (n_rows,) class of each row.
        groups: (n_rows,) number of the group that each row belongs to.
        where: from which token on rows are steered.
    """

    unit: ClassVar[str]
    # Whether the effect is the change of positive rows minus that of negative ones.
    contrasts: ClassVar[bool]

    problem: Problem
    rows: Batch
    positive: Bool[Tensor, " n_rows"]
    groups: Int[Tensor, " n_rows"]
    where: Where

    @abstractmethod
    def scores(self, vector: SteeringVector | None = None, coefficient: float = 0.0) -> Float64[Tensor, " n_rows"]:
        """Return the score of every row, with the vector where one is given."""

    def subset(self, index: Int[Tensor, " n_chosen"]) -> Self:
        """Return a judge of some of the rows."""
        return replace(self, rows=self.rows.rows(index), positive=self.positive[index], groups=self.groups[index])

    def effect(self, base: Float64[Tensor, " n_rows"], now: Float64[Tensor, " n_rows"]) -> Effect:
        """Return the effect of going from one set of scores to another."""
        return effect_of(now - base, self.positive if self.contrasts else None, self.groups)


@dataclass(frozen=True)
class AnswerJudge(Judge):
    """Judges by the answers to prompts.

    Attributes:
        labels, others: (n_rows,) as `answers` takes them.
    """

    unit = "nats"
    contrasts = False

    labels: Int[Tensor, " n_rows"]
    others: Int[Tensor, " n_rows"] | None = None

    def answers(self, vector: SteeringVector | None = None, coefficient: float = 0.0) -> Answers:
        """Return the answers, with the vector where one is given."""
        with _with(self.problem, vector, coefficient, self.where):
            return answers(self.problem, self.rows, self.labels, self.others)

    def scores(self, vector: SteeringVector | None = None, coefficient: float = 0.0) -> Float64[Tensor, " n_rows"]:
        """Return the logit differences, nats."""
        return self.answers(vector, coefficient).differences

    def subset(self, index: Int[Tensor, " n_chosen"]) -> Self:
        """Return a judge of some of the rows."""
        others = None if self.others is None else self.others[index]
        rows, positive, groups = self.rows.rows(index), self.positive[index], self.groups[index]
        return replace(self, rows=rows, positive=positive, groups=groups, labels=self.labels[index], others=others)


@dataclass(frozen=True)
class ContinuationJudge(Judge):
    """Judges by the likelihood of texts; `rows` have every token of their own text as a target."""

    unit = "nats per token"
    contrasts = True

    @torch.no_grad()
    def scores(self, vector: SteeringVector | None = None, coefficient: float = 0.0) -> Float64[Tensor, " n_rows"]:
        """Return the mean log-likelihood of each row's own tokens, nats per token."""
        found = torch.empty(len(self.rows), dtype=torch.float64)
        for index in length_sorted(self.rows, TOKENS_PER_PASS):
            part = self.rows.rows(index)
            counted = part.targets != IGNORED
            # From the token before the text on, which predicts its first one.
            where: Where | Tensor = "all" if self.where == "all" else part.positions[:, 0]
            with _with(self.problem, vector, coefficient, where):
                logits = self.problem.logits(part.to(self.problem.device)).cpu()[counted]
            nats = torch.zeros(counted.shape, dtype=torch.float64)
            nats[counted] = functional.cross_entropy(logits.float(), part.targets[counted], reduction="none").double()
            found[index] = -nats.sum(dim=1) / counted.sum(dim=1)
        return found


def answer_judge(problem: Problem, contrast: Contrast, groups: Int[Tensor, " n_rows"], where: Where) -> AnswerJudge:
    """Judge by the answers to a contrast's prompts; half of pairs, which all have both answers, count as positive."""
    prompts, targets = contrast.prompts, contrast.prompts.targets[:, -1]
    positive = targets == contrast.labels if contrast.kind == "statement" else torch.arange(len(prompts)) % 2 == 0
    return AnswerJudge(problem, prompts, positive, groups, where, contrast.labels, contrast.others)


@contextmanager
def _with(problem: Problem, vector: SteeringVector | None, coefficient: float, where: Where | Tensor) -> Iterator[None]:
    if vector is None:
        yield
        return
    with steered(problem.model, vector, coefficient, where):
        yield


def effect_of(
    change: Float64[Tensor, " n_rows"], positive: Bool[Tensor, " n_rows"] | None, groups: Int[Tensor, " n_rows"]
) -> Effect:
    """Return the mean change over rows, or of positive rows minus negative ones, with errors clustered by group.

    With one row per group the error is that of a mean, or of a difference of two means (Welch); where every group holds
    a row of each class, that of paired differences.

    Args:
        positive: class of each row; None for the mean over all of them.
    """
    classes = [torch.ones_like(change, dtype=torch.bool)] if positive is None else [positive, ~positive]
    if not all(bool(of_class.any()) for of_class in classes):
        raise InputError("an effect between two classes needs rows of both.")
    numbers = torch.unique(groups, return_inverse=True)[1]
    value, parts = 0.0, []
    for sign, of_class in zip((1.0, -1.0), classes, strict=False):
        mean = float(change[of_class].mean())
        value += sign * mean
        influence = torch.where(of_class, sign * (change - mean) / of_class.sum(), torch.zeros_like(change))
        parts.append((influence, set(numbers[of_class].tolist())))
    n_groups = int(numbers.max()) + 1
    if len(parts) == 2 and parts[0][1] & parts[1][1]:  # the errors of both classes go together
        parts = [(parts[0][0] + parts[1][0], set(range(n_groups)))]
    variance = sum(_variance(influence, numbers, len(held)) for influence, held in parts)
    stderr = math.sqrt(variance) if math.isfinite(variance) else math.nan
    free = n_groups - len(parts)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, free)) * stderr if free > 0 else math.nan
    return Effect(value, stderr, value - half, value + half, n_groups)


def _variance(influence: Tensor, numbers: Tensor, n_groups: int) -> float:
    """Return the variance of a mean from the influence of its rows, summed within groups."""
    if n_groups < 2:
        return math.nan
    sums = torch.zeros(int(numbers.max()) + 1, dtype=torch.float64).index_add(0, numbers, influence)
    return float(sums.square().sum()) * n_groups / (n_groups - 1)


def halves_of(
    positive: Bool[Tensor, " n_rows"], groups: Int[Tensor, " n_rows"]
) -> tuple[Int[Tensor, " n_first"], Int[Tensor, " n_second"]]:
    """Divide rows into two halves that share no group and hold both classes, dealt in turn in the rows' order.

    Raises:
        InputError: too few groups of a class.
    """
    dealt: dict[tuple[bool, bool], int] = {}
    half = torch.empty(len(groups), dtype=torch.long)
    for number in dict.fromkeys(groups.tolist()):
        inside = groups == number
        kind = (bool(positive[inside].any()), bool((~positive[inside]).any()))
        half[inside] = dealt.get(kind, 0) % 2
        dealt[kind] = dealt.get(kind, 0) + 1
    for of_class, name in ((positive, "positive"), (~positive, "negative")):
        counts = [len(set(groups[of_class & (half == part)].tolist())) for part in (0, 1)]
        if min(counts) < FEWEST_IN_A_HALF:
            raise InputError(
                f"the data hold {sum(counts)} {name} rows or groups of rows; at least {2 * FEWEST_IN_A_HALF} are "
                "needed, so that one half can choose a layer and the other half can say what it is worth."
            )
    first, second = ((half == part).nonzero()[:, 0] for part in (0, 1))
    return first, second
