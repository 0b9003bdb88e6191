"""`lineament runs`: the runs below a folder."""

from __future__ import annotations

import sys

from rich.table import Table

from lineament.commands.inspect.flags import Runs
from lineament.commands.terminal import console
from lineament.errors import InputError
from lineament.runs.folder import RunFolder


def runs(flags: Runs) -> int:
    """List run folders below a folder."""
    if not flags.root.is_dir():
        raise InputError(f"{flags.root} is no folder; give one that holds runs.")
    table = Table("run", "problem", "model", "seeds", "jobs done")
    table.columns[0].overflow = "fold"
    for config in sorted(flags.root.glob("**/config.toml")):
        folder = RunFolder(config.parent)
        try:
            settings, jobs = folder.settings(), folder.jobs()
        except InputError as error:  # somebody else's config.toml, or a damaged file: the other runs are still shown
            print(f"left out: {error}", file=sys.stderr)
            continue
        done = sum(job["status"] == "done" for job in jobs.values())
        name = str(config.parent.relative_to(flags.root))
        table.add_row(name, settings.problem, settings.model.name, str(settings.seeds), f"{done}/{len(jobs)}")
    console.print(table)
    return 0
