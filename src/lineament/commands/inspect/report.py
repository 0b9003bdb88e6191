"""`lineament report`: write again what is made from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from lineament.claims.claims_file import read_sweep
from lineament.commands.inspect.flags import Report
from lineament.commands.terminal import Step, name_foreign, say_next, steps_shown
from lineament.errors import InputError
from lineament.files.folders import Kind, is_marked
from lineament.records import load_records
from lineament.report.figures import run_pictures, sweep_pictures
from lineament.report.page import headline_rank, write_report
from lineament.report.picture_files import (
    KINDS,
    OPTION,
    FileKind,
    named_pictures,
    require_figures,
    require_no_foreign,
    write_figures,
)
from lineament.report.series import Picture
from lineament.runs.folder import RunFolder
from lineament.runs.job import write_results
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.results import write_all

# Folders of records that no settings made.
WITHOUT_SETTINGS: tuple[Kind, ...] = ("analysis", "composition")
# Shares of the work.
READING, PAGE, FIGURES = 30.0, 40.0, 30.0


def report(flags: Report) -> int:
    """Write claims.json and report.html again, of a sweep its tables too, of the rest the report alone."""
    kinds = (flags.figure_kind,) if flags.figure_kind else KINDS
    if flags.figures is None and flags.figure_kind:
        raise InputError(f"--figure-kind {flags.figure_kind} says how pictures are written; say where: {OPTION} DIR.")
    with steps_shown(flags.quiet, PAGE + (READING + FIGURES if flags.figures else 0.0)) as step:
        if flags.figures is not None:
            require_figures(flags.figures, kinds)
            step("reading the records", READING)
            require_no_foreign(flags.figures, list(_pictures(flags.run)), kinds)
        step("making the page", PAGE)
        _write_page(flags.run)
        written = _write_figures(flags.run, flags.figures, kinds, step) if flags.figures is not None else 0
    print(flags.run / "report.html")
    if flags.figures is not None:
        print(f"{written} pictures: {flags.figures}")
    else:
        say_next(
            flags.quiet, [f"lineament report {quote(str(flags.run))} --figures DIR  # its pictures as SVG and PNG"]
        )
    return 0


def _write_page(run: Path) -> None:
    folder, sweep = RunFolder(run), SweepFolder(run)
    if sweep.config.exists():
        with folder.locked():
            write_all(sweep)
        for cell in sweep.grid().cells():
            name_foreign(sweep.run(cell).records)
    elif any(is_marked(run, kind) for kind in WITHOUT_SETTINGS):
        with folder.locked():
            write_report(run)
        name_foreign(folder.records)
    else:
        folder.headline_rank()  # refuses, before the lock is there, what is no run
        with folder.locked():
            write_results(run)
        name_foreign(folder.records)


def _write_figures(run: Path, folder: Path, kinds: Sequence[FileKind], step: Step) -> int:
    pictures = _pictures(run)
    share = FIGURES / max(1, len(pictures))
    return write_figures(pictures, folder, kinds, lambda name: step(f"picture {name}", share))


def _pictures(run: Path) -> dict[str, Picture]:
    """Return file name -> picture of a report; none where a sweep has no results yet."""
    sweep = SweepFolder(run)
    if sweep.config.exists():
        return named_pictures(sweep_pictures(read_sweep(run))) if sweep.results.exists() else {}
    return named_pictures(run_pictures(load_records(run / "records"), headline_rank(run)))
