"""The section of a measurement that has none of its own: every quantity in one table."""

from __future__ import annotations

from collections.abc import Sequence

from lineament.records import Quantity, Record
from lineament.report.estimates import estimate, null_of
from lineament.report.sections.section import Section, each
from lineament.report.series import Table

MAX_ROWS = 300


def generic_section(measurement: str) -> Section:
    """Return a section for any measurement, without pictures."""
    return Section(measurement, measurement.replace("_", " "), "all its quantities", tables=each(quantities_table))


def quantities_table(sources: Sequence[Record]) -> Table:
    """Tabulate all quantities over seeds, one row for each set of labels."""
    groups: dict[tuple[str, str, str], list[Quantity]] = {}
    for record in sources:
        for quantity in record.quantities:
            which = ", ".join(f"{key} {value}" for key, value in sorted(quantity.labels.items()))
            groups.setdefault((quantity.name, which, quantity.unit), []).append(quantity)
    rows = [
        (name, which, estimate(quantities, fraction=False).text, unit, null_of(quantities).text)
        for (name, which, unit), quantities in list(groups.items())[:MAX_ROWS]
    ]
    note = f"The first {MAX_ROWS} of {len(groups)} quantities; the records hold all." if len(groups) > MAX_ROWS else ""
    columns = ("quantity", "which", "value and 95 % interval", "unit", "null")
    return Table("Quantities", columns, rows, note)
