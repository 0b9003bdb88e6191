"""What a steering vector does to behaviour: logit difference and accuracy, and its price on neutral text.

Two vectors are compared at equal norm, or at equal price: the same KL divergence from the unsteered model on neutral
text, in nats per token, mean over all positions (protocol, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional

from lineament.activations.capture import length_sorted
from lineament.problems.problem import Batch, Problem
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector

# Logits of all positions are large; so few tokens go through the head at once.
TOKENS_PER_PASS = 512
# Doses are found to this relative precision, beyond which the KL of neutral text is not known anyway.
DOSE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Answers:
    """What a model answers to prompts with a positive label.

    Attributes:
        differences: (n,) float64, logit of the positive label minus the largest one of the other choices, nats.
        correct: (n,) float64, 1 where the answer (the choice with the largest logit) is the true one.
        losses: (n,) float64, cross entropy of the true answer over the vocabulary, nats per target token.
    """

    differences: Tensor
    correct: Tensor
    losses: Tensor


@torch.no_grad()
def answers(problem: Problem, batch: Batch, labels: Tensor) -> Answers:
    """Answers at the last target position of every example.

    Args:
        labels: (n,) token id of the positive answer to each prompt, one of `batch.choices`.
    """
    logits = torch.cat([_last_logits(problem, part) for part in batch.chunks(problem.chunk)])
    targets, choices = batch.targets[:, -1], torch.tensor(batch.choices)
    said = logits[:, choices]
    others = said.masked_fill(choices[None] == labels[:, None], float("-inf")).max(dim=1).values
    positive = logits.gather(1, labels[:, None])[:, 0]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return Answers(positive - others, (choices[said.argmax(dim=1)] == targets).double(), losses)


def _last_logits(problem: Problem, part: Batch) -> Tensor:
    return problem.logits(part.to(problem.device))[:, -1].double().cpu()


class NeutralText:
    """Neutral text and what the unsteered model says of it.

    Args:
        batch: token rows; positions and targets do not matter.
    """

    def __init__(self, problem: Problem, batch: Batch) -> None:
        self._problem = problem
        self._parts = [_everywhere(batch.rows(index)) for index in length_sorted(batch, TOKENS_PER_PASS)]
        self._base = [self._log_probabilities(part) for part in self._parts]

    def kl(self) -> float:
        """KL(unsteered || as the model is now), nats per token, mean over all real positions."""
        total = count = 0.0
        for part, base in zip(self._parts, self._base, strict=True):
            now = self._log_probabilities(part)
            total += float((base.exp() * (base - now)).sum(dtype=torch.float64))
            count += len(base)
        return max(0.0, total / count)

    @torch.no_grad()
    def _log_probabilities(self, part: Batch) -> Tensor:
        """(n_real_tokens, n_vocabulary)."""
        logits = self._problem.logits(part.to(self._problem.device)).cpu()
        return functional.log_softmax(logits[part.attention_mask.bool()].float(), dim=-1)


def _everywhere(batch: Batch) -> Batch:
    """The batch with every position wanted."""
    positions = torch.arange(batch.input_ids.shape[1]).expand(len(batch), -1)
    return Batch(batch.input_ids, batch.attention_mask, positions, torch.zeros_like(positions), batch.choices)


@dataclass(frozen=True)
class Calibration:
    """The coefficient at which a vector costs a given KL.

    Attributes:
        coefficient: None if no coefficient up to `largest` costs so much.
        kl: nats per token at the coefficient, or at `largest`.
        largest: the largest coefficient that was tried.
    """

    coefficient: float | None
    kl: float
    largest: float


def calibrate(
    problem: Problem, vector: SteeringVector, neutral: NeutralText, kl: float, largest: float, where: Where = "all"
) -> Calibration:
    """The smallest positive coefficient at which KL(unsteered || steered) is `kl`, searched up to `largest`.

    Doubles upwards from a thousandth of `largest` until the KL is passed, then Brent's method inside that bracket.
    """

    def excess(coefficient: float) -> float:
        with steered(problem.model, vector, coefficient, where):
            return neutral.kl() - kl

    low, high = 0.0, largest / 1024
    found = excess(high)
    while found < 0 and high < largest:
        low, high = high, min(2 * high, largest)
        found = excess(high)
    if found < 0:
        return Calibration(None, found + kl, largest)
    root = _root(excess, low, high, -kl if low == 0 else None)
    return Calibration(root, excess(root) + kl, largest)


def _root(excess: Callable[[float], float], low: float, high: float, at_low: float | None) -> float:
    known = {} if at_low is None else {low: at_low}

    def remembered(x: float) -> float:
        if x not in known:
            known[x] = excess(x)
        return known[x]

    return float(brentq(remembered, low, high, xtol=DOSE_TOLERANCE * high, rtol=DOSE_TOLERANCE))
