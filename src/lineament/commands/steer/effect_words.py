"""How effects of a vector are written: cells of tables, and sentences with interval and null."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lineament.problems.problem import Batch
from lineament.records import is_told
from lineament.steering.effects import Answers
from lineament.steering.judging import AnswerJudge, Effect, Judge
from lineament.steering.layer_sweep import AtKl
from lineament.steering.vector import SteeringVector


def columns(judge: Judge) -> tuple[str, ...]:
    """Return the columns of a dose that `cells` fills."""
    if isinstance(judge, AnswerJudge):
        return "logit difference", "change", "accuracy"
    return "positive texts", "negative texts", "difference of changes"


def unsteered(judge: Judge) -> tuple[Tensor, str]:
    """Return the scores of the rows without a vector, (n_rows,), and a sentence about them."""
    if isinstance(judge, AnswerJudge):
        base = judge.answers()
        return base.differences, majority_text(judge.rows, base)
    scores = judge.scores()
    plus, minus = (float(scores[of_class].mean()) for of_class in (judge.positive, ~judge.positive))
    return scores, f"log-likelihood without the vector: positive texts {plus:.2f}, negative texts {minus:.2f}."


def majority_text(prompts: Batch, base: Answers) -> str:
    """Set the unsteered accuracy beside that of always giving the most frequent answer, with its standard error."""
    counts = torch.unique(prompts.targets[:, -1], return_counts=True)[1]
    majority, accuracy = float(counts.max() / counts.sum()), float(base.correct.mean())
    error = float(base.correct.std() / len(base.correct) ** 0.5) if len(base.correct) > 1 else math.nan
    text = f"accuracy of always giving the most frequent answer: {majority:.2f}; unsteered {accuracy:.2f} ±{error:.2f}"
    if is_told(accuracy - majority, error):
        return f"{text}."
    return f"{text}, which is not told from it: the model need not know the answers."


def cells(judge: Judge, base: Tensor, vector: SteeringVector, dose: float) -> tuple[str, ...]:
    """Measure one dose and return its cells, as `columns` names them."""
    if isinstance(judge, AnswerJudge):
        now = judge.answers(vector, dose)
        change = _plus_minus(judge.effect(base, now.differences), 2)
        return f"{float(now.differences.mean()):.2f}", change, f"{float(now.correct.mean()):.2f}"
    scores = judge.scores(vector, dose)
    plus, minus = (float((scores - base)[of_class].mean()) for of_class in (judge.positive, ~judge.positive))
    return f"{plus:+.3f}", f"{minus:+.3f}", _plus_minus(judge.effect(base, scores), 3)


def effect_text(judge: Judge, effect: Effect) -> str:
    """Write an effect with its interval: `logit difference +1.20 [0.80, 1.60] nats`."""
    digits = _digits(judge)
    name = "logit difference" if isinstance(judge, AnswerJudge) else "positive over negative texts"
    interval = ""
    if math.isfinite(effect.low):
        interval = f" [{effect.low:.{digits}f}, {effect.high:.{digits}f}]"
    return f"{name} {effect.value:+.{digits}f}{interval} {judge.unit}"


def null_text(judge: Judge, effect: Effect, null: Sequence[float]) -> str:
    """Set an effect beside those of random directions of the same KL; their sign is chance and counts for nothing."""
    found = [abs(value) for value in null if math.isfinite(value)]
    if not found:
        return "No random direction stands beside it." if not null else "No random direction reaches that KL."
    digits = _digits(judge)
    n = f"{len(found)} random direction{'s' if len(found) > 1 else ''} of the same KL"
    largest = f"at most {max(found):.{digits}f} in size"
    if effect.value > max(found):
        return f"{n}: {largest}, so the vector does more than all of them."
    if -effect.value > max(found):
        return f"{n}: {largest}, so the vector does more than all of them, but away from the positive class."
    return f"{n}: {largest}, so the vector does no more than chance does."


def swept_cells(judge: Judge, found: AtKl, random: float | None) -> tuple[str, ...]:
    """Return the cells of a layer: dose, effect with standard error, effect of one random direction."""
    digits = _digits(judge)
    chance = "-" if random is None or not math.isfinite(random) else f"{random:+.{digits}f}"
    if found.effect is None:
        return "unreachable", "-", chance
    return f"{found.calibration.coefficient:.3g}", _plus_minus(found.effect, digits), chance


def _digits(judge: Judge) -> int:
    return 2 if isinstance(judge, AnswerJudge) else 3


def _plus_minus(effect: Effect, digits: int) -> str:
    return f"{effect.value:+.{digits}f} ±{effect.stderr:.{digits}f}"
