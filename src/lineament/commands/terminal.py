"""What a person sees: progress on stderr, tables on stdout. Plain lines when stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lineament.claims.claims_file import claim_from
from lineament.claims.verdict import VERDICT_WORDS, Claim, Verdict
from lineament.files.writing import opened_for_lines
from lineament.records import foreign_files, target_words
from lineament.runs.executors.progress import ALL_JOBS, ENDED, JobProgress

if TYPE_CHECKING:  # who runs jobs imports torch, which reading results does without
    from lineament.runs.executors.driver import Failure

# Nothing is markup in a string, wherever it comes from: a style is given to a `Text`.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
console = Console(soft_wrap=False, **_PLAIN)
VERDICT_STYLES = {"supported": "green", "not_supported": "red", "inconclusive": "yellow"}
SECONDS_BETWEEN_LINES = 5.0
# A longer reason would push the other columns off 80 characters; the report has it whole.
REASON_WIDTH = 20
# Of a larger grid the terminal shows counts; the report and the tables have every cell.
MAX_CELLS_SHOWN = 12
MAX_FAILURES_SHOWN = 10


@contextmanager
def job_progress(quiet: bool, log_file: Path | None = None) -> Iterator[JobProgress]:
    """Open a callback that shows each job's present work on stderr, and as plain lines in `log_file`.

    On a terminal: bars with time left. Elsewhere: sparse plain lines.
    """
    with ExitStack() as stack:
        shown: list[JobProgress] = []
        if log_file:
            shown.append(
                _Lines(Console(file=stack.enter_context(opened_for_lines(log_file)), soft_wrap=True, **_PLAIN))
            )
        if not quiet:
            console = Console(stderr=True, **_PLAIN)
            shown.append(_Bars(stack.enter_context(_bars(console))) if console.is_terminal else _Lines(console))

        def progress(label: str, what: str, done: int, total: int) -> None:
            for show in shown:
                show(label, what, done, total)

        yield progress


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Bars:
    """A bar for every job that runs, and one for all jobs."""

    def __init__(self, bars: Progress) -> None:
        self.bars, self.tasks, self.doing = bars, dict[str, TaskID](), dict[str, str]()

    def __call__(self, label: str, what: str, done: int, total: int) -> None:
        if what == ENDED:
            self._remove(label)
            return
        text = f"{label}: {what}"
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task(text, total=total)
        stage = what.split(" ")[0]
        if self.doing.get(label) != stage:
            self.doing[label] = stage
            if label != ALL_JOBS:
                self.bars.reset(self.tasks[label])
        self.bars.update(self.tasks[label], description=text, completed=done, total=total)

    def _remove(self, label: str) -> None:
        if label in self.tasks:
            self.bars.remove_task(self.tasks.pop(label))
            del self.doing[label]


class _Lines:
    def __init__(self, console: Console) -> None:
        self.console, self.started = console, time.monotonic()
        self.last: dict[str, tuple[str, float]] = {}

    def __call__(self, label: str, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        doing, when = self.last.get(label, ("", 0.0))
        if doing != what or now - when > 4 * SECONDS_BETWEEN_LINES:
            self.last[label] = (what, now)
            self.console.print(f"[{now - self.started:6.0f} s] {label}: {what} ({done}/{total})")
        if what == ENDED:
            self.last.pop(label, None)


def print_failures(failures: Sequence[Failure]) -> None:
    """Name jobs that were given up on stderr, the first few with their reasons."""
    for failure in failures[:MAX_FAILURES_SHOWN]:
        print(f"{failure.task.label} failed: {failure.message}", file=sys.stderr)
    if (more := len(failures) - MAX_FAILURES_SHOWN) > 0:
        print(f"and {more} more failed; the log has all.", file=sys.stderr)


def name_foreign(folder: Path) -> None:
    """Name on stderr the files in a folder of records that are not Lineament's, and therefore left out."""
    for path in foreign_files(folder):
        print(f"left out: {path} is no record of Lineament's.", file=sys.stderr)


def claims_table(claims: Sequence[Claim]) -> Table:
    """Show the verdicts, readable at 80 columns; the task has a column only when there are several."""
    tasks = sorted({claim.task for claim in claims})
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim", no_wrap=True)
    if len(tasks) > 1:
        table.add_column("task", no_wrap=True)
    table.add_column("measured [95 %]", no_wrap=True)
    # blind and paper have a column only where a claim has one: wider tables do not fit 80 columns
    beside = [name for name in ("null", "blind", "paper") if name == "null" or any(getattr(c, name) for c in claims)]
    for name in beside:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for claim in claims:
        table.add_row(
            claim.id,
            *([target_words(claim.task)] if len(tasks) > 1 else []),
            _with_interval(claim),
            *(_number(getattr(claim, name)) for name in beside),
            _styled_verdict(claim.verdict),
        )
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
    return "-" if value is None else f"{value:.2g}" if abs(value) < 0.01 else f"{value:.2f}"


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
