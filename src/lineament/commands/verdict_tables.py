"""Tables of verdicts for the terminal: of a run, and of a sweep cell by cell or counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.claims.claims_file import claim_from
from lineament.claims.verdict import VERDICT_WORDS, Claim, Verdict
from lineament.commands.terminal import BrokenName
from lineament.records import target_words

VERDICT_STYLES = {"supported": "green", "not_supported": "red", "inconclusive": "yellow"}
# A longer reason would push the other columns off 80 characters; the report has it whole.
REASON_WIDTH = 20
# Of a larger grid the terminal shows counts; the report and the tables have every cell.
MAX_CELLS_SHOWN = 12


def claims_table(claims: Sequence[Claim]) -> Table:
    """Show the verdicts, readable at 80 columns; of several tasks, each has a line above its claims."""
    tasks = dict.fromkeys(claim.task for claim in claims)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim")  # the one that gives way
    table.add_column("measured [95 %]", no_wrap=True)
    # blind and paper have a column only where a claim has one: wider tables do not fit 80 columns
    beside = [name for name in ("null", "blind", "paper") if name == "null" or any(getattr(c, name) for c in claims)]
    for name in beside:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for task in tasks:
        if len(tasks) > 1:
            table.add_row(Text(target_words(task), "bold"))
        for claim in (claim for claim in claims if claim.task == task):
            numbers = [_number(getattr(claim, name)) for name in beside]
            table.add_row(BrokenName(claim.id), _with_interval(claim), *numbers, _styled_verdict(claim.verdict))
    return table


def _styled_verdict(verdict: Verdict) -> Text:
    return Text(_verdict_words(verdict), VERDICT_STYLES[verdict])


def _verdict_words(verdict: Verdict) -> str:
    """Return the verdict in words; capitals stand in for the colour where there is none."""
    return VERDICT_WORDS[verdict].replace("not ", "NOT ")


def _with_interval(claim: Claim) -> Text:
    measured = _number(claim.measured)
    if claim.low is None or claim.high is None:
        return Text.assemble(f"{measured} ", (shorten(claim.reason or "", REASON_WIDTH, placeholder=" ..."), "dim"))
    return Text(f"{measured} [{_number(claim.low)}, {_number(claim.high)}]")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def sweep_table(results: Mapping[str, Any]) -> Table:
    """Show the claims of a sweep's cells below each other; of many cells, how often each verdict was given."""
    cells = results["cells"]
    if len(cells) > MAX_CELLS_SHOWN:
        return _verdict_counts(cells)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim, in each cell", overflow="fold")
    for name, justify in (("measured [95 %]", "left"), ("null", "right"), ("verdict", "left")):
        table.add_column(name, no_wrap=True, justify=justify)  # type: ignore[arg-type]
    tasks = {claim["task"] for cell in cells for claim in cell["claims"]}
    by_claim: dict[tuple[str, str], list[tuple[str, Claim]]] = {}
    for cell in cells:
        for claim in map(claim_from, cell["claims"]):
            by_claim.setdefault((claim.id, claim.task), []).append((cell["name"], claim))
    for (name, task), in_cells in by_claim.items():
        table.add_row(Text.assemble((name, "bold"), f" ({target_words(task)})" if len(tasks) > 1 else ""))
        for where, claim in in_cells:
            word = _styled_verdict(claim.verdict)
            table.add_row(f"  {where}", _with_interval(claim), _number(claim.null), word)
    return table


def _verdict_counts(cells: Sequence[Mapping[str, Any]]) -> Table:
    counts: dict[str, Counter[str]] = {}
    for cell in cells:
        for claim in cell["claims"]:
            counts.setdefault(claim["id"], Counter())[claim["verdict"]] += 1
    heads = map(_verdict_words, VERDICT_WORDS)
    table = Table("claim", *heads, box=SIMPLE_HEAD, title=f"verdicts over {len(cells)} cells")
    for name, counted in counts.items():
        table.add_row(name, *(str(counted[verdict]) for verdict in VERDICT_WORDS))
    return table
