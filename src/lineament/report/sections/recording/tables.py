"""Tables of a recorded run: what it says about practice, and the ranks of single modules."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.claims.advice import Advice, advise
from lineament.records import Record
from lineament.report.estimates import estimate, label_texts, number, select
from lineament.report.series import Table

MAX_MODULES = 40


def advice_table(sources: Sequence[Record]) -> Table | None:
    """Every line of `lineament advise`."""
    if not sources:
        return None
    rows = [
        (line.text, _value(line), _interval(line), _null(line), line.topic, line.figure) for line in advise(sources)
    ]
    columns = ("what", "value", "95 % interval", "null", "answers", "figure it came from")
    note = "Interval: Student t over recordings; of one recording, where it says so, the spread within the run."
    return Table("What the recording says about practice", columns, rows, note)


def module_table(sources: Sequence[Record]) -> Table | None:
    """Effective rank of dW per adapted weight."""
    modules = label_texts(sources, "module_rank", "module")
    if not modules:
        return None
    rows = []
    for module in modules[:MAX_MODULES]:
        found = [select(sources, "module_rank", module=module, statistic=s) for s in ("participation_ratio", "k90")]
        nulls = [f.null for f in found[0] if f.null is not None]
        cells = [estimate(figures, fraction=False).text for figures in found]
        rows.append((module, number(float(found[0][0].labels["paid"])), *cells, number(nulls[0]) if nulls else "-"))
    more = len(modules) - len(rows)
    note = f"{more} more modules are in the records." if more else ""
    columns = ("module", "LoRA rank", "participation ratio", "k90", "null (Gaussian factors): participation ratio")
    return Table("Directions that dW used in each adapted weight", columns, rows, note)


def _value(line: Advice) -> str:
    if line.value is None:
        return f"undefined: {line.reason}"
    return f"{number(line.value)} {line.unit}" + (f" ({line.reason})" if line.reason else "")


def _interval(line: Advice) -> str:
    if line.low is None or line.high is None:
        return f"none: {line.interval}" if line.value is not None else ""
    return f"[{number(line.low)}, {number(line.high)}] over {line.interval}".replace("over within", "within")


def _null(line: Advice) -> str:
    return "-" if line.null is None else number(line.null)
