"""`lineament sweep`, and `lineament run --vary`: run every cell of a grid with every seed, then write the results."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lineament.commands.job_flags import JobFlags
from lineament.commands.terminal import console, job_progress, name_foreign, print_failures, say_end, steps_shown
from lineament.commands.time_left import Whole
from lineament.commands.verdict_tables import sweep_table
from lineament.errors import LineamentError
from lineament.problems.kinds import kind_named
from lineament.problems.problem import chosen_device
from lineament.runs.executors.driver import Driver, Failure, settle_finished
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.standing import Standing, standing
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, validate
from lineament.runs.planning import plan, stage_passes
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Cell, Grid, make_grid
from lineament.runs.sweep.jobs import jobs_of
from lineament.runs.sweep.results import write_all
from lineament.runs.sweep.table import require_tables
from lineament.runs.tracking import tracking
from lineament.settings.settings import Settings


def sweep(flags: JobFlags) -> int:
    """Run every missing job of every cell, then write results, tables and report; return the exit code."""
    file, vary = flags.read_config()
    settings = flags.settings(file)
    source = "--vary" if flags.vary else str(flags.config or "the command line")
    grid = make_grid(settings, vary | flags.variations(), source)
    flags.check(settings)
    out = flags.out or flags.default_out(settings)
    if flags.dry_run:
        print_plan(grid, out, flags.n_workers)
        return 0
    failures, results = run_grid(grid, out, flags)
    console.print(sweep_table(results))
    place = shlex.quote(str(out))
    again = [f"lineament report {place}", f"lineament claims {place} --json"]
    following = ["the same command with --resume, for the jobs that failed"] if failures else again
    say_end(flags.quiet, out / "report.html", following)
    return 1 if failures else 0


def run_grid(grid: Grid, out: Path, flags: JobFlags) -> tuple[list[Failure], dict[str, Any]]:
    """Run what is missing, then write sweep.json, both tables and the report.

    Returns:
        The jobs that were given up, and the body of sweep.json.

    Raises:
        InputError: before anything is written: a value out of range in any cell, a folder of another sweep, an
            executor or a tracker that is not available.
        LineamentError: no record was finished.
    """
    require_tables()
    with tracking(flags.track, out) as after:
        folder, cells = SweepFolder(out), checked_cells(grid)
        if flags.executor != "ray":  # its nodes may have another
            for device in {cell.settings.device for cell in cells}:
                chosen_device(device)
        folder.check(grid, flags.resume)
        notes = _notes_of_each_model(cells, flags.quiet)
        with open_pool(flags, out, _most_demanding(cells)) as pool, RunFolder(out).locked():
            cells = list(folder.open(grid, flags.resume).cells())
            _note(RunFolder(out), notes, flags.quiet)
            now = standing(jobs_of(folder, cells))
            settle_finished(now.unnoted, after)
            whole = Whole(flags.n_workers, *stage_passes(cells[0].settings))
            with job_progress(flags.quiet, flags.log_file, whole) as progress:
                failures = Driver(now.missing, flags, progress, _opener(folder, cells), after).run(pool)
            print_failures(failures)
            results = write_all(folder)
    for cell in cells:
        name_foreign(folder.run(cell).records)
    return failures, results


def checked_cells(grid: Grid) -> list[Cell]:
    """Return every cell after checking its settings; an `InputError` names the cell."""
    cells = list(grid.cells())
    for cell in cells:
        try:
            validate(cell.settings)
        except LineamentError as error:
            raise type(error)(f"cell {cell.name}: {error}") from None
    return cells


def print_plan(grid: Grid, out: Path, workers: int) -> None:
    """Print every cell with its jobs done so far, and what the rest will take; write nothing."""
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
    print("\n".join(lines))  # thousands of lines need no wrapping and no colour
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
    """Return settings with the threads and device of the most demanding cell, for which a pool must have room."""
    every = [cell.settings for cell in cells]
    threads = max(settings.threads for settings in every)
    device = "cuda" if any(settings.device == "cuda" for settings in every) else every[0].device
    return replace(every[0], threads=threads, device=device)


def _opener(folder: SweepFolder, cells: Iterable[Cell]) -> Callable[[Job], None]:
    """Return a hook that makes a cell's run folder before its first job."""
    unopened = {folder.run(cell).path: cell.settings for cell in cells}

    def before(job: Job) -> None:
        if (settings := unopened.pop(job.run, None)) is not None:
            RunFolder(job.run).open(settings, resume=True)

    return before


def _notes_of_each_model(cells: Iterable[Cell], quiet: bool) -> list[str]:
    """Load every language model that a cell names, before anything is written; return the notes on each."""
    notes: dict[str, None] = {}
    loaded: dict[object, Settings] = {}
    for s in (cell.settings for cell in cells):
        if kind_named(s.problem).takes_model:
            loaded.setdefault((s.model, s.lora, s.recovery.space, s.task.data, s.task.names, s.device), s)
    if not loaded:
        return []
    with steps_shown(quiet, len(loaded)) as step:
        for s in loaded.values():
            step(f"loading {s.model.name}", 1)
            notes |= dict.fromkeys(f"{s.model.name}: {note}." for note in make_problem(s, s.seed).notes)
    return list(notes)


def _note(folder: RunFolder, notes: Iterable[str], quiet: bool) -> None:
    for note in notes:
        folder.log(note)
        if not quiet:
            print(note, file=sys.stderr)
