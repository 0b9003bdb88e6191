"""Tables of a recorded run: what it says about practice, in words and figure by figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lineament.claims.advice import advise, remarks
from lineament.claims.advice_line import Advice, why_untested
from lineament.records import Record
from lineament.report.estimates import interval_text, number
from lineament.report.series import Table


def told_table(sources: Sequence[Record]) -> Table:
    """Tabulate what the recording says in words, and whether it passed its test."""
    every = advise(sources)
    lines = [line for line in every if line.says]
    rows = [(f"{line.says[0].upper()}{line.says[1:]}", line.standing, _test(line)) for line in lines]
    note = (
        "Advice is tested by `lineament advise --check` on the run's own model and data; untested, it is about "
        "geometry alone. A dash: a description, which has no test."
    )
    heads = ("what the recording says", "test", "what it gave")
    return Table("Advice, and how it stood its test", heads, rows, " ".join([*_unanswered(every), note]))


def advice_tables(sources: Sequence[Record]) -> list[Table]:
    """Tabulate every line of `lineament advise`, one table for each question, opened on demand."""
    topics: dict[str, list[Advice]] = {}
    for line in advise(sources):
        topics.setdefault(line.topic, []).append(line)
    tables = [_topic_table(topic, lines) for topic, lines in topics.items() if _known(lines)]
    notes = " ".join(remarks(sources))
    return [*(replace(table, note=f"{table.note} {notes}".strip()) for table in tables[:1]), *tables[1:]]


def _topic_table(topic: str, lines: Sequence[Advice]) -> Table:
    """Tabulate the lines of a topic that have a value; a note says why the others have none."""
    known = _known(lines)
    tested = any(line.testable for line in known)
    rows = [
        (line.text, _value(line), _interval(line), _number(line.blind), _number(line.null))
        + ((line.standing,) if tested else ())
        for line in known
    ]
    heads = ("what", "value", "95 % interval", "blind run", "null", *(("test",) if tested else ()))
    without: dict[str, list[str]] = {}
    for line in lines:
        if line.value is None:
            without.setdefault(line.reason or "not measured", []).append(line.text)
    notes = [f"Left out: {'; '.join(texts)}: {reason}." for reason, texts in without.items()]
    notes += [f"Untested: {reason}." for reason in why_untested(known)]
    over = "Interval: Student t over recordings; of one recording, where it says so, the spread within the run."
    figures = f"Quantities of the records: {', '.join(dict.fromkeys(line.quantity for line in lines))}."
    return Table(topic, heads, rows, " ".join([*notes, over, figures]), folded=True)


def _known(lines: Sequence[Advice]) -> list[Advice]:
    return [line for line in lines if line.value is not None]


def _unanswered(lines: Sequence[Advice]) -> list[str]:
    """Say which questions have no figure at all, and why: a sentence for each."""
    topics: dict[str, list[Advice]] = {}
    for line in lines:
        topics.setdefault(line.topic, []).append(line)
    return [
        f'No answer to "{topic}": {"; ".join(dict.fromkeys(line.reason or "not measured" for line in own))}.'
        for topic, own in topics.items()
        if not _known(own)
    ]


def _value(line: Advice) -> str:
    if line.value is None:
        return f"undefined: {line.reason}"
    return f"{number(line.value)} {line.unit}" + (f" ({line.reason})" if line.reason else "")


def _interval(line: Advice) -> str:
    if line.low is None or line.high is None:
        return f"{line.interval}: no interval"
    return f"{interval_text(line.low, line.high)} over {line.interval}".replace("over within", "within")


def _test(line: Advice) -> str:
    """Return what the line's test gave, or why there was none."""
    if not line.testable or line.no_advice:
        return line.no_advice or "-"
    if line.tested is None:
        return "-"
    return f"{line.tested.text} ({line.tested.interval})" if line.tested.value is not None else line.tested.text


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
