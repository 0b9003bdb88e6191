"""`lineament report`: write again what is made from the records alone."""

from __future__ import annotations

from lineament.commands.inspect.flags import Report
from lineament.commands.terminal import name_foreign
from lineament.runs.folder import RunFolder
from lineament.runs.job import write_results
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.results import write_all


def report(flags: Report) -> int:
    """Write claims.json and report.html again, of a sweep its tables too."""
    folder, sweep = RunFolder(flags.run), SweepFolder(flags.run)
    if sweep.config.exists():
        with folder.locked():
            write_all(sweep)
        for cell in sweep.grid().cells():
            name_foreign(sweep.run(cell).records)
    else:
        folder.settings()
        with folder.locked():
            write_results(flags.run)
        name_foreign(folder.records)
    print(flags.run / "report.html")
    return 0
