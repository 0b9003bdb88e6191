"""`lineament report`: write again what is made from the records alone."""

from __future__ import annotations

from lineament.commands.inspect.flags import Report
from lineament.commands.terminal import name_foreign
from lineament.files.folders import Kind, is_marked
from lineament.report.page import write_report
from lineament.runs.folder import RunFolder
from lineament.runs.job import write_results
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.results import write_all

# Folders of records that no settings made.
WITHOUT_SETTINGS: tuple[Kind, ...] = ("analysis", "composition")


def report(flags: Report) -> int:
    """Write claims.json and report.html again, of a sweep its tables too, of the rest the report alone."""
    folder, sweep = RunFolder(flags.run), SweepFolder(flags.run)
    if sweep.config.exists():
        with folder.locked():
            write_all(sweep)
        for cell in sweep.grid().cells():
            name_foreign(sweep.run(cell).records)
    elif any(is_marked(flags.run, kind) for kind in WITHOUT_SETTINGS):
        with folder.locked():
            write_report(flags.run)
        name_foreign(folder.records)
    else:
        folder.headline_rank()  # refuses, before the lock is there, what is no run
        with folder.locked():
            write_results(flags.run)
        name_foreign(folder.records)
    print(flags.run / "report.html")
    return 0
