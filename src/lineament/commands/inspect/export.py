"""`lineament export`: every quantity of a run as a row of CSV."""

from __future__ import annotations

import csv
import sys

from lineament.commands.inspect.flags import Export
from lineament.commands.terminal import name_foreign
from lineament.errors import InputError
from lineament.records import FIELDS, NAMING, label_columns, load_records, tidy_rows
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder


def export(flags: Export) -> int:
    """Print every quantity as one row of CSV."""
    if not flags.csv:
        raise InputError("`lineament export` needs a format: add --csv.")
    sweep = SweepFolder(flags.run)
    if sweep.config.exists():
        raise InputError(f"{flags.run} is a sweep: its quantities are in {sweep.records_table.name}, one row each.")
    folder = RunFolder(flags.run).records
    records = load_records(folder)
    name_foreign(folder)
    if not records:
        raise InputError(f"{flags.run} holds no records; give the folder of a run that has measured something.")
    labels = label_columns(records)
    writer = csv.DictWriter(sys.stdout, [*NAMING, *labels.values(), *FIELDS], restval="")
    writer.writeheader()
    for record in records:
        writer.writerows(tidy_rows(record, labels))
    return 0
