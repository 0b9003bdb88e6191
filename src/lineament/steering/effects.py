"""What a steering vector does to behaviour: logit difference and accuracy, and the KL it costs on neutral text.

Two vectors are compared at equal norm, or at equal KL: the same divergence from the unsteered model on neutral
text, in nats per token, mean over all positions (protocol, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional

from lineament.activations.capture import length_sorted
from lineament.problems.problem import Batch, Problem
from lineament.steering.steered import Where, steered
from lineament.steering.vector import SteeringVector

# Logits of all positions are large; so few tokens go through the head at once.
TOKENS_PER_PASS = 512
# Coefficients are computed to this relative precision, beyond which the KL of neutral text is not known anyway.
COEFFICIENT_TOLERANCE = 0.01
# Near a good start the KL itself is met to this share; a KL grows as the square of the coefficient.
KL_TOLERANCE, MOST_TRIES = 0.02, 8
# No text has a KL beyond this; root finding needs finite numbers.
MAX_KL_NATS = 1e6


@dataclass(frozen=True)
class Answers:
    """A model's answers to prompts with a positive label.

    Attributes:
        differences: (n,) float64, logit of the positive label minus the largest one of the other choices, nats.
        correct: (n,) float64, 1 where the answer (the choice with the largest logit) is the true one.
        losses: (n,) float64, cross entropy of the true answer over the vocabulary, nats per target token.
    """

    differences: Float64[Tensor, " n_prompts"]
    correct: Float64[Tensor, " n_prompts"]
    losses: Float64[Tensor, " n_prompts"]


@torch.no_grad()
def answers(
    problem: Problem, batch: Batch, labels: Int[Tensor, " n_prompts"], others: Int[Tensor, " n_prompts"] | None = None
) -> Answers:
    """Return the answers at the last target position of every example.

    Args:
        labels: (n,) token id of the positive answer to each prompt, one of `batch.choices`.
        others: (n,) token id of each prompt's own other answer; default all other choices.
    """
    logits = torch.cat([_last_logits(problem, part) for part in batch.chunks(problem.chunk)])
    targets, choices, labels = batch.targets[:, -1].cpu(), torch.tensor(batch.choices), labels.cpu()
    every = choices.expand(len(labels), -1)
    allowed = every if others is None else torch.stack([labels, others.cpu()], dim=1)
    said = logits.gather(1, allowed)
    rival = said.masked_fill(allowed == labels[:, None], float("-inf")).max(dim=1).values
    answer = allowed.gather(1, said.argmax(dim=1, keepdim=True))[:, 0]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return Answers(logits.gather(1, labels[:, None])[:, 0] - rival, (answer == targets).double(), losses)


def _last_logits(problem: Problem, part: Batch) -> Float64[Tensor, "n_prompts n_vocabulary"]:
    return problem.logits(part.to(problem.device))[:, -1].double().cpu()


class NeutralText:
    """Neutral text with the unsteered model's log probabilities.

    Args:
        batch: token rows; positions and targets do not matter.
    """

    def __init__(self, problem: Problem, batch: Batch) -> None:
        self._problem = problem
        self._parts = [_everywhere(batch.rows(index)) for index in length_sorted(batch, TOKENS_PER_PASS)]
        self._base = [self._log_probabilities(part) for part in self._parts]

    def kl(self) -> float:
        """Return KL(unsteered || the model as it is now), nats per token, mean over all real positions."""
        total = count = 0.0
        for part, base in zip(self._parts, self._base, strict=True):
            now = self._log_probabilities(part)
            total += float((base.exp() * (base - now)).sum(dtype=torch.float64))
            count += len(base)
        mean = total / count
        # If steering made the logits NaN, report infinite KL; max() alone would give 0.
        return max(0.0, mean) if math.isfinite(mean) else math.inf

    @torch.no_grad()
    def _log_probabilities(self, part: Batch) -> Float32[Tensor, "n_real_tokens n_vocabulary"]:
        """Return the log probabilities, (n_real_tokens, n_vocabulary)."""
        logits = self._problem.logits(part.to(self._problem.device)).cpu()
        return functional.log_softmax(logits[part.attention_mask.bool()].float(), dim=-1)


def _everywhere(batch: Batch) -> Batch:
    """Ask for the logits at every position of the batch."""
    positions = torch.arange(batch.input_ids.shape[1]).expand(len(batch), -1)
    return Batch(batch.input_ids, batch.attention_mask, positions, torch.zeros_like(positions), batch.choices)


@dataclass(frozen=True)
class Calibration:
    """The coefficient at which a vector reaches a given KL.

    Attributes:
        coefficient: None if no coefficient up to `largest` reaches it.
        kl: nats per token at the coefficient, or at `largest`.
        largest: the largest coefficient that was tried.
    """

    coefficient: float | None
    kl: float
    largest: float


def calibrate(
    problem: Problem, vector: SteeringVector, neutral: NeutralText, kl: float, largest: float, where: Where = "all"
) -> Calibration:
    """Find a positive coefficient at which KL(unsteered || steered) is `kl`, searching up to `largest`.

    Doubles or halves from a thousandth of `largest` until the KL is bracketed, then Brent's method. Where the KL passes
    `kl` several times, the result is the crossing next to that start.
    """

    def excess(coefficient: float) -> float:
        with steered(problem.model, vector, coefficient, where):
            return min(neutral.kl(), MAX_KL_NATS) - kl

    high = largest / 1024
    above = excess(high)
    if above < 0:
        while above < 0 and high < largest:
            high = min(2 * high, largest)
            above = excess(high)
        if above < 0:
            return Calibration(None, above + kl, largest)
        low = high / 2
    else:
        low = high / 2
        while excess(low) >= 0:
            high, low = low, low / 2
    root = float(brentq(excess, low, high, xtol=1e-3 * COEFFICIENT_TOLERANCE * low, rtol=COEFFICIENT_TOLERANCE))
    return Calibration(root, excess(root) + kl, largest)


def calibrate_near(
    problem: Problem, vector: SteeringVector, neutral: NeutralText, kl: float, largest: float, start: float
) -> Calibration:
    """Find the coefficient as `calibrate` does, in few tries from a good start, along the power law of the last two.

    The KL is met to 2 %. Where the law leads nowhere in 8 tries, `calibrate` takes over.

    Args:
        start: coefficient of the first try.
    """

    def kl_at(coefficient: float) -> float:
        with steered(problem.model, vector, coefficient):
            return min(neutral.kl(), MAX_KL_NATS)

    tried = dict[float, float]()
    coefficient = min(start, largest)
    for _ in range(MOST_TRIES):
        found = tried[coefficient] = kl_at(coefficient)
        if abs(found - kl) <= KL_TOLERANCE * kl:
            return Calibration(coefficient, found, largest)
        if coefficient == largest and found < kl:
            return Calibration(None, found, largest)
        coefficient = _next_try(tried, kl, largest)
    return calibrate(problem, vector, neutral, kl, largest)


def _next_try(tried: Mapping[float, float], kl: float, largest: float) -> float:
    """Follow the power law through the last two tries, 2 after the first one, and stay between what brackets the KL."""
    *before, (coefficient, found) = tried.items()
    power = 2.0
    if before and 0 < found != before[-1][1] > 0:
        power = math.log(found / before[-1][1]) / math.log(coefficient / before[-1][0])
    step = (kl / max(found, kl * 1e-6)) ** (1 / min(max(power, 0.5), 8.0))
    below = max((c for c, value in tried.items() if value < kl), default=0.0)
    above = min((c for c, value in tried.items() if value > kl), default=largest)
    wanted: float = coefficient * min(max(step, 1 / 16), 16.0)
    if below < wanted < above or (wanted >= above == largest and largest not in tried):
        return min(wanted, largest)
    return math.sqrt(max(below, above / 64) * above)
