"""`lineament sweep`: run every cell of a grid with every seed, then write results, tables and report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lineament.commands.sweep.folder import SweepFolder
from lineament.commands.sweep.grid import Cell, Grid
from lineament.commands.sweep.jobs import jobs_of
from lineament.commands.sweep.results import write_results
from lineament.commands.sweep.table import write_tables
from lineament.errors import LineamentError
from lineament.problems.kinds import kind_named
from lineament.report.sweep.page import write_sweep_report
from lineament.runs.executors.driver import Driver, Failure, JobProgress, nothing, settle_finished
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.standing import Standing, standing
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, validate
from lineament.runs.planning import plan
from lineament.settings.keys import KEYS
from lineament.settings.settings import Settings


@dataclass(frozen=True)
class SweepRequest:
    """What the user asked for.

    Attributes:
        after: called when a job has finished, e.g. to log it elsewhere.
        tell: called with the jobs that were given up, before anything is made of the others.
    """

    grid: Grid
    out: Path
    executor: ExecutorOptions
    resume: bool = False
    quiet: bool = False
    after: Callable[[Job], None] = nothing
    tell: Callable[[list[Failure]], None] = lambda failures: None


def sweep(
    request: SweepRequest, progress: Callable[[], AbstractContextManager[JobProgress]]
) -> tuple[list[Failure], dict[str, Any]]:
    """Run what is missing, then write sweep.json, both tables and the report.

    Returns:
        The jobs that were given up, and the body of sweep.json.

    Raises:
        InputError: before anything is written: a value out of range in any cell, a folder of another sweep, an
            executor that cannot be had.
        LineamentError: not one record was finished.
    """
    folder, cells = SweepFolder(request.out), checked_cells(request.grid)
    folder.check(request.grid, request.resume)
    notes = _notes_of_each_model(cells)
    with (
        open_pool(request.executor, request.out, _most_demanding(cells)) as pool,
        RunFolder(request.out).locked(),
    ):
        cells = list(folder.open(request.grid, request.resume).cells())
        for note in notes:
            RunFolder(request.out).log(note)
            if not request.quiet:
                print(note, file=sys.stderr)
        now = standing(jobs_of(folder, cells))
        settle_finished(now.unnoted, request.after)
        with progress() as show:
            failures = Driver(now.missing, request.executor, show, _opener(folder, cells), request.after).run(pool)
        request.tell(failures)
        return failures, write_all(folder)


def write_all(folder: SweepFolder) -> dict[str, Any]:
    """Results, tables and report from the records of the cells alone; returns the results.

    Raises:
        LineamentError: there is no record yet.
    """
    found = write_results(folder)
    write_tables(folder)
    write_sweep_report(folder.path, {name: key.meaning for name, key in KEYS.items()})
    if not any(cell["n_records"] for cell in found["cells"]):
        raise LineamentError(
            f"no record was finished; {folder.path / 'report.html'} names the jobs, and the log.txt of their runs has "
            "more. Fix the cause and use --resume."
        )
    return found


def checked_cells(grid: Grid) -> list[Cell]:
    """Every cell, its settings looked through; `InputError` names the cell that cannot be."""
    cells = list(grid.cells())
    for cell in cells:
        try:
            validate(cell.settings)
        except LineamentError as error:
            raise type(error)(f"cell {cell.name}: {error}") from None
    return cells


def show_sweep_plan(grid: Grid, out: Path, workers: int, console: Console) -> None:
    """Print every cell with its jobs done so far, and what the rest will take; writes nothing."""
    folder, cells = SweepFolder(out), checked_cells(grid)
    if folder.config.exists():
        folder.check(grid, resume=True)
    jobs = jobs_of(folder, cells)
    now = standing(jobs)
    missing: dict[Path, int] = {}
    for job in now.missing:
        missing[job.run] = missing.get(job.run, 0) + 1
    n_seeds = len(jobs) // len(cells)
    lines = (f"{cell.name}: {n_seeds - missing.get(folder.run(cell).path, 0)} of {n_seeds} seeds" for cell in cells)
    console.file.write("\n".join(lines) + "\n")  # thousands of lines need no wrapping and no colour
    console.print(
        f"{len(cells)} cells x {n_seeds} seeds = {len(jobs)} jobs; {len(now.missing)} to run.", soft_wrap=True
    )
    console.print(_estimate(now, cells[0].settings, workers), soft_wrap=True)


def _estimate(now: Standing, settings: Settings, workers: int) -> str:
    if not now.missing:
        return "Nothing is left to run."
    rounds = -(-len(now.missing) // workers)
    if now.seconds_per_job is not None:
        seconds, source = now.seconds_per_job, "the median of the jobs that have finished"
    else:
        seconds, source = plan(settings, 1).seconds / settings.seeds, "by timing a few steps of the first cell"
    total = rounds * seconds
    words = f"{total / 3600:.1f} h" if total >= 3600 else f"{max(1, round(total / 60))} min"
    return f"About {words} over {workers} worker(s): {seconds:.3g} s a job, {source}."


def _most_demanding(cells: Iterable[Cell]) -> Settings:
    """Settings that ask for what the most demanding cell asks for, which is what a pool must have room for."""
    every = [cell.settings for cell in cells]
    threads = max(settings.threads for settings in every)
    device = "cuda" if any(settings.device == "cuda" for settings in every) else every[0].device
    return replace(every[0], threads=threads, device=device)


def _opener(folder: SweepFolder, cells: Iterable[Cell]) -> Callable[[Job], None]:
    """Make a cell's run folder when its first job comes."""
    unopened = {folder.run(cell).path: cell.settings for cell in cells}

    def before(job: Job) -> None:
        if (settings := unopened.pop(job.run, None)) is not None:
            RunFolder(job.run).open(settings, resume=True)

    return before


def _notes_of_each_model(cells: Iterable[Cell]) -> list[str]:
    """Load every language model that a cell names, before anything is written; what is to be said about each."""
    notes: dict[str, None] = {}
    seen: set[object] = set()
    for cell in cells:
        s = cell.settings
        kind = (s.model, s.lora, s.recovery.space, s.task.data, s.task.names, s.device)
        if kind_named(s.problem).takes_model and kind not in seen:
            seen.add(kind)
            found = make_problem(s, s.seed).notes
            notes |= dict.fromkeys(f"{s.model.name}: {note}." for note in found)
    return list(notes)
