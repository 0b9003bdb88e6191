"""What a recording says, for the first screen of its report: one sentence on each question that `advise` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from lineament.claims.advice import RANK, REFRESH, SPAN, STALE, advise
from lineament.claims.advice_line import Advice
from lineament.records import Label, Record
from lineament.report.estimates import number
from lineament.report.story import N_SENTENCES, Bar, Line, bar_of

# Topics in the order of the screen, each with the line that stands for it; none is chosen by its result.
CHOSEN: Mapping[str, Mapping[str, Label]] = {
    RANK: {"statistic": "k90"},
    SPAN: {"basis": "prefix", "share": 0.9, "space_of": "parameters"},
    REFRESH: {"share": 0.9, "from": "all"},
    STALE: {"share": 0.25, "at_share": 1.0},
}
KINDS = {"passed": "supported", "failed": "not_supported"}
NOTE = (
    "Scales run from 0 to the rank that was paid for, to all steps of the run, or to a cosine of 1. Dot and bar: value "
    "and 95\u00a0% interval. Thin mark: null, independent updates. Thick mark: blind, what the same optimizer gives on "
    "gradients that know nothing. Advice is tested by lineament advise --check."
)


def recording_story(records: Sequence[Record]) -> list[Line]:
    """Return the lines of the first screen: a question's answers for all targets before the next question.

    Args:
        records: analyses of recordings of any number of targets, with the tests of their advice.
    """
    targets = list(dict.fromkeys(record.target for record in records))
    own = {target: [record for record in records if record.target == target] for target in targets}
    answers = [[_line(line, own[target], target, len(targets) > 1) for line in _chosen(own[target])] for target in own]
    return [line for topic in zip_longest(*answers) for line in topic if line is not None][:N_SENTENCES]


def _chosen(records: Sequence[Record]) -> list[Advice]:
    """Return the line that stands for each topic; of topics that say nothing under that name, the first that does."""
    said = [line for line in advise(records) if line.says]
    by_topic = {topic: [line for line in said if line.topic == topic] for topic in CHOSEN}
    return [
        next((line for line in lines if CHOSEN[topic].items() <= line.labels.items()), lines[0])
        for topic, lines in by_topic.items()
        if lines
    ]


def _line(line: Advice, records: Sequence[Record], target: str, several: bool) -> Line:
    name = f"{target}: " if several else ""
    sentence = f"{name}{line.says[0].upper()}{line.says[1:]}."
    return Line(sentence, _standing(line), KINDS.get(line.standing, "inconclusive"), _bar(line, records))


def _standing(line: Advice) -> str:
    """Say how the line stood its test; empty for what has none."""
    if not line.testable:
        return ""
    if line.no_advice:
        return f"no advice: {line.no_advice}"
    return f"{line.standing}: {line.tested.text}" if line.tested else line.standing


def _bar(line: Advice, records: Sequence[Record]) -> Bar | None:
    figure = (line.value, line.low, line.high)
    if line.topic == STALE:
        return bar_of(figure, line.null, line.blind, end="a cosine of 1")
    whole = _paid(line, records) if line.topic == RANK else _steps(records)
    if whole is None:
        return None
    end = f"rank {number(whole)}" if line.topic == RANK else f"{number(whole)} steps"
    return bar_of(figure, line.null, line.blind, whole, end)


def _paid(line: Advice, records: Sequence[Record]) -> float | None:
    found = (q for record in records for q in record.select(line.quantity, **line.labels))
    return next((float(quantity.labels["paid"]) for quantity in found), None)


def _steps(records: Sequence[Record]) -> float | None:
    steps = [record.value("recorded", what="steps") for record in records if any(record.select("recorded"))]
    return steps[0] if len(set(steps)) == 1 else None
