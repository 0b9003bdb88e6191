"""What a person sees: progress on stderr, results on stdout. Plain lines when stderr is not a terminal."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBars
from rich.table import Column
from rich.text import Text

from lineament.commands.time_left import Whole
from lineament.files.writing import opened_for_lines
from lineament.problems.progress import Progress
from lineament.records import foreign_files
from lineament.runs.executors.progress import ALL_JOBS, ENDED, JobProgress

if TYPE_CHECKING:  # who runs jobs imports torch, which reading results does without
    from lineament.runs.executors.driver import Failure

# Nothing is markup in a string, wherever it comes from: a style is given to a `Text`.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
console = Console(soft_wrap=False, **_PLAIN)
SECONDS_BETWEEN_LINES = 5.0
MAX_FAILURES_SHOWN = 10
# Beside what is being done stand a bar, counts such as 123/144, the time gone and the time left: so many characters.
BESIDE, MIN_WIDTH = 46, 20
AFTER_UNDERSCORE, INDENT = re.compile("(?<=_)"), "  "
# A new step of a command, with its share of the work.
Step = Callable[[str, float], None]


@dataclass(frozen=True)
class BrokenName:
    """An identifier that goes on in an indented line where its column is narrow; it breaks after an underscore."""

    name: str

    def __str__(self) -> str:
        return self.name

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self.lines(1))), len(self.name))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(self.lines(options.max_width)))

    def lines(self, width: int) -> list[str]:
        """Return the lines of a column of this width; a part that is wider has a line of its own."""
        first, *rest = AFTER_UNDERSCORE.split(self.name)
        lines = [first]
        for part in rest:
            if len(lines[-1] + part) <= width:
                lines[-1] += part
            else:
                lines.append(INDENT + part)
        return lines


@contextmanager
def job_progress(quiet: bool, log_file: Path | None = None, whole: Whole | None = None) -> Iterator[JobProgress]:
    """Open a callback that shows each job's present work on stderr, and as plain lines in `log_file`.

    On a terminal: bars. Elsewhere: sparse plain lines. Both with the time that is left of the whole, once it is known.
    """
    whole = whole or Whole()
    with ExitStack() as stack:
        shown: list[JobProgress] = []
        if log_file:
            file = stack.enter_context(opened_for_lines(log_file))
            shown.append(_Lines(Console(file=file, soft_wrap=True, **_PLAIN), whole))
        if not quiet:
            console = Console(stderr=True, **_PLAIN)
            console.soft_wrap = not console.is_terminal
            bars = console.is_terminal
            shown.append(_Bars(stack.enter_context(_bars(console)), whole) if bars else _Lines(console, whole))

        def progress(label: str, what: str, done: int, total: int) -> None:
            if label == ALL_JOBS:
                whole.count(done, total)
            else:
                whole.report(label, what, done, total)
            for show in shown:
                show(label, what, done, total)

        yield progress


@contextmanager
def steps_shown(quiet: bool, total: float) -> Iterator[Step]:
    """Open a callback that names each step of a command when it begins, with its share of the work.

    Args:
        total: sum of all shares; the time that is left follows from the steps so far. A step that is no share of the
            work, such as loading a model, has 0.
    """
    whole, begun = Whole(), [0.0]
    with job_progress(quiet, whole=whole) as show:

        def step(what: str, share: float) -> None:
            if begun[0] == 0:
                whole.begin()
            whole.count(begun[0], total)
            begun[0] += share
            show("", what, round(100 * min(1.0, whole.done / total)), 100)

        yield step


def counted(show: JobProgress, whole: Whole, label: str, place: int = 0, places: int = 1) -> Progress:
    """Return the progress of one of several equal parts of the work, whose counts tell the time that is left of all.

    Args:
        label: what stands before whatever is being done. place: which part it is, from 0.
    """

    def progress(what: str, done: int, total: int) -> None:
        whole.count(place + done / max(total, 1), places)
        show(label, what, done, total)

    return progress


def say_end(quiet: bool, report: Path, commands: Sequence[str] = (), *, data: bool = False) -> None:
    """End a command: say where the report is, and on stderr what to type next.

    Args:
        data: stdout holds data for a program, such as JSON; then the report is named on stderr too.
    """
    if not data:
        console.print(f"report: {report}", soft_wrap=True)
    elif not quiet:
        print(f"report: {report}", file=sys.stderr)
    if commands:
        say_next(quiet, commands)


def say_next(quiet: bool, commands: Sequence[str]) -> None:
    """Say on stderr what to type next; a command line's own name is written as it can be called here."""
    if quiet:
        return
    sys.stdout.flush()  # results come first
    print("next:", file=sys.stderr)
    for command in commands:
        print(f"  {re.sub('^lineament(?= )', _own_name(), command)}", file=sys.stderr)


def _own_name() -> str:
    """Return the name that calls Lineament: its path where the environment's folder of commands is not searched."""
    script = Path(sys.executable).with_name("lineament")
    if shutil.which("lineament") or not script.is_file():
        return "lineament"
    inside = script.is_relative_to(Path.cwd())
    return shlex.quote(str(script.relative_to(Path.cwd()) if inside else script))


def _bars(console: Console) -> ProgressBars:
    return ProgressBars(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(max_width=max(MIN_WIDTH, console.width - BESIDE), no_wrap=True, overflow="ellipsis"),
        ),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[count]}", markup=False, table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
    )


class _Bars:
    """A bar for every job that runs, and one for the whole."""

    def __init__(self, bars: ProgressBars, whole: Whole) -> None:
        self.bars, self.whole = bars, whole
        self.tasks = dict[str, TaskID]()

    def __call__(self, label: str, what: str, done: int, total: int) -> None:
        if what == ENDED:
            self._remove(label)
            return
        text = f"{label}: {what}" if label else what
        if label not in self.tasks:
            self.tasks[label] = self.bars.add_task(text, total=total, count="", left="")
        count = f"{done}/{total}" if label else f"{done} %"
        self.bars.update(self.tasks[label], description=text, completed=done, total=total, count=count)
        first = self.tasks.get(ALL_JOBS, next(iter(self.tasks.values())))
        self.bars.update(first, left=self.whole.words(short=True))

    def _remove(self, label: str) -> None:
        if label in self.tasks:
            self.bars.remove_task(self.tasks.pop(label))


class _Lines:
    def __init__(self, console: Console, whole: Whole) -> None:
        self.console, self.whole, self.started = console, whole, time.monotonic()
        self.last: dict[str, tuple[str, float]] = {}

    def __call__(self, label: str, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        doing, when = self.last.get(label, ("", 0.0))
        if doing != what or now - when > 4 * SECONDS_BETWEEN_LINES:
            self.last[label] = (what, now)
            head = f"{label}: {what} ({done}/{total})" if label else what
            left = f"; {words}" if (words := self.whole.words()) else ""
            self.console.print(f"[{now - self.started:6.0f} s] {head}{left}")
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
