"""`lineament export`: every quantity of a run as a row of CSV."""

from __future__ import annotations

import csv
import sys

from lineament.commands.inspect.flags import Export
from lineament.commands.terminal import name_foreign
from lineament.errors import InputError
from lineament.records import load_records
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
    labels = sorted({label for record in records for quantity in record.quantities for label in quantity.labels})
    writer = csv.writer(sys.stdout)
    fields = ("value", "stderr", "null", "blind", "ceiling", "unit", "reason")
    writer.writerow(["measurement", "target", "seed", "quantity", *labels, *fields])
    for record in records:
        for quantity in record.quantities:
            own = [quantity.labels.get(label, "") for label in labels]
            tail = [getattr(quantity, field) for field in fields]
            writer.writerow([record.measurement, record.target, record.seed, quantity.name, *own, *tail])
    return 0
