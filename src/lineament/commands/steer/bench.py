"""What `lineament steer eval` measures on: the model, the held-out rows with their judge, and neutral text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lineament.commands.steer.flags import Eval
from lineament.commands.steer.model import SteeredModel, Wording
from lineament.commands.terminal import Step
from lineament.problems.encoding import prompt_of
from lineament.problems.labelled_data import Item, LabelledData, Pair
from lineament.problems.statements import Statement
from lineament.steering.effects import NeutralText
from lineament.steering.judging import AnswerJudge, ContinuationJudge, Judge, JudgeKind, answer_judge
from lineament.steering.vector import SteeringVector
from lineament.streams import Streams


class WatchedNeutral(NeutralText):
    """Neutral text that tells how often its KL was asked for."""

    _watcher: Callable[[int], None] | None = None

    def watch(self, watcher: Callable[[int], None] | None) -> None:
        """Call this with a number, from 1, before every KL; None calls nothing any more."""
        self._watcher, self._n = watcher, 0

    def kl(self) -> float:
        """Return the KL as it is."""
        if self._watcher:
            self._n += 1
            self._watcher(self._n)
        return super().kl()


@dataclass(frozen=True)
class Bench:
    """All that an evaluation needs.

    Attributes:
        vector: with all of its layers.
        compared: sentences that say what the effect is.
    """

    flags: Eval
    loaded: SteeredModel
    vector: SteeringVector
    judge: Judge
    neutral: WatchedNeutral
    wording: Wording
    compared: Sequence[str]

    @property
    def streams(self) -> Streams:
        """Where random directions come from."""
        return Streams(self.flags.seed).child("steer eval")


def open_bench(flags: Eval, vector: SteeringVector, data: LabelledData, step: Step) -> Bench:
    """Load the model and make the judge; two steps are said to begin, of shares 0 and 1."""
    step(f"loading {flags.model}", 0)
    loaded = SteeredModel(flags)
    loaded.require_fit(vector)
    wording = loaded.wording(vector.tags)
    kind = flags.judge if flags.judge != "auto" else judge_of(data.items, wording)
    judge = _judge(loaded, data.items, wording, kind, flags)
    step("neutral text without the vector", 1)
    neutral = WatchedNeutral(loaded.problem, loaded.problem.neutral("", flags.neutral))
    return Bench(flags, loaded, vector, judge, neutral, wording, _compared(loaded, data.items, wording, judge))


def judge_of(items: Sequence[Item], wording: Wording) -> JudgeKind:
    """Return what fits the data: continuations for texts of two styles, answers where a prompt asks for one.

    Statements are texts where their prompt ends with the statement itself and so asks nothing; answers of pairs are
    texts where more than half of the pairs have one of several words.
    """
    pairs = [item for item in items if isinstance(item, Pair)]
    if pairs:
        texts = sum(len(pair.matching.split()) > 1 or len(pair.not_matching.split()) > 1 for pair in pairs)
        return "continuations" if 2 * texts > len(pairs) else "answers"
    return "answers" if _asks(wording) else "continuations"


def _asks(wording: Wording) -> bool:
    return bool((wording.template or prompt_of(wording.chat)).partition("{statement}")[2].strip())


def _judge(loaded: SteeredModel, items: Sequence[Item], wording: Wording, kind: JudgeKind, flags: Eval) -> Judge:
    numbers: dict[str, int] = {}
    groups = torch.tensor([numbers.setdefault(item.group, len(numbers)) for item in items])
    if kind == "answers":
        return answer_judge(loaded.problem, loaded.contrast(items, wording), groups, flags.where)
    texts = [item for item in items if isinstance(item, Statement | Pair)]
    rows = loaded.problem.encode_continuations(texts, wording.template, chat=wording.chat)
    if isinstance(items[0], Pair):
        positive, groups = torch.arange(len(rows)) < len(items), groups.repeat(2)
    else:
        positive = torch.tensor([item.label for item in texts])
    return ContinuationJudge(loaded.problem, rows, positive, groups, flags.where)


def _compared(loaded: SteeredModel, items: Sequence[Item], wording: Wording, judge: Judge) -> list[str]:
    """Say in words what is compared, and where it is compared in a way that does not fit the data."""
    pairs = isinstance(items[0], Pair)
    if isinstance(judge, ContinuationJudge):
        what = "both answers to each question" if pairs else "the texts themselves"
        n = int(judge.positive.sum())
        return [
            f"Compared (continuations): log-likelihood of {what}, with and without the vector. The effect is the "
            f"change of the {n} positive texts minus that of the {len(judge.rows) - n} negative ones, nats per token."
        ]
    assert isinstance(judge, AnswerJudge)
    if pairs:
        return [
            "Compared (answers): the logit of the matching answer minus that of the other one, at the first token at "
            "which they differ."
        ]
    decode = loaded.problem.tokenizer.decode
    label = int(judge.labels[0])
    others = " or ".join(repr(decode([token])) for token in judge.rows.choices if token != label)
    template = wording.template or prompt_of(wording.chat)
    said = [
        f"Compared (answers): the logit of {decode([label])!r} minus that of {others} after the prompt {template!r}."
    ]
    if not _asks(wording):
        said.append(
            "This prompt asks nothing that could be true or false: --judge continuations compares how likely the texts "
            "themselves are."
        )
    return said
