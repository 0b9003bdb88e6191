"""Tables of a recorded run: what it says about practice, and the ranks of single modules."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.advice import advise, remarks
from lineament.claims.advice_line import Advice, why_untested
from lineament.records import Record
from lineament.report.estimates import blind_of, estimate, interval_text, label_texts, nulls_of, number, select
from lineament.report.series import Table

MAX_MODULES = 40


def told_table(sources: Sequence[Record]) -> Table:
    """Tabulate what the recording says in words, and whether it passed its test."""
    lines = [line for line in advise(sources) if line.says]
    rows = [(f"{line.says[0].upper()}{line.says[1:]}", line.standing, _test(line)) for line in lines]
    note = (
        "Advice is tested by `lineament advise --check` on the run's own model and data; untested, it is about "
        "geometry alone. A dash: a description, which has no test."
    )
    return Table("Advice, and how it stood its test", ("what the recording says", "test", "what it gave"), rows, note)


def advice_table(sources: Sequence[Record]) -> Table:
    """Tabulate every line of `lineament advise`."""
    lines = advise(sources)
    rows = [
        (
            *(line.text, _value(line), _interval(line), _number(line.blind), _number(line.null)),
            *(line.standing, line.topic, line.figure),
        )
        for line in lines
    ]
    columns = ("what", "value", "95 % interval", "blind run", "null", "test", "answers", "quantity behind it")
    note = "Interval: Student t over recordings; for one recording, where the cell says so, the spread within the run."
    untested = [f"Untested: {reason}." for reason in why_untested(lines)]
    note = " ".join([note, *untested, *remarks(sources)])
    return Table("What the recording says about practice", columns, rows, note)


def module_table(sources: Sequence[Record]) -> Table | None:
    """Tabulate the effective rank of dW in each adapted weight."""
    modules = label_texts(sources, "module_rank", "module")
    if not modules:
        return None
    rows = []
    for module in modules[:MAX_MODULES]:
        ratios = select(sources, "module_rank", module=module, statistic="participation_ratio")
        k90s = select(sources, "module_rank", module=module, statistic="k90")
        cells = [estimate(quantities, fraction=False).text for quantities in (ratios, k90s)]
        # The null follows from the shape of the weight and its LoRA rank, so it is the same in every recording.
        null = next((number(null) for null in nulls_of(ratios)), "-")
        blind = blind_of(ratios)
        rows.append((module, number(float(ratios[0].labels["paid"])), *cells, _number(blind.mean), null))
    more = len(modules) - len(rows)
    note = f"The records hold {more} more modules." if more else ""
    columns = (
        *("module", "LoRA rank", "participation ratio", "k90"),
        *("blind run: participation ratio", "null (Gaussian factors): participation ratio"),
    )
    return Table("How many directions dW used in each adapted weight", columns, rows, note)


def _value(line: Advice) -> str:
    if line.value is None:
        return f"undefined: {line.reason}"
    return f"{number(line.value)} {line.unit}" + (f" ({line.reason})" if line.reason else "")


def _interval(line: Advice) -> str:
    if line.low is None or line.high is None:
        return f"none: {line.interval}" if line.value is not None else ""
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
