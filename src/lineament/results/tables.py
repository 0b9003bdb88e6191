"""Records as a data frame: one row for each quantity, in the columns of `lineament export --csv`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lineament.errors import require_package
from lineament.records import FIELDS, NAMING, Record, label_columns, tidy_rows

TEXTS = ("unit", "reason")
WHOLE = "Int64"  # whole numbers with gaps


def data_frame(groups: Iterable[tuple[Mapping[str, Any], Sequence[Record]]]) -> Any:
    """Return a pandas.DataFrame of records.

    Args:
        groups: (columns that stand before all others, records that share their values) pairs; all groups have the
            same columns.

    Raises:
        InputError: pandas is not installed.
    """
    require_package("pandas", "notebook", "to_pandas()")
    import pandas as pd  # an extra, and slow to import

    held = list(groups)
    before = list(dict.fromkeys(name for shared, _ in held for name in shared))
    labels = label_columns((record for _, records in held for record in records), before)
    rows = [{**shared, **row} for shared, records in held for record in records for row in tidy_rows(record, labels)]
    frame = pd.DataFrame(rows, columns=[*before, *NAMING, *labels.values(), *FIELDS])
    numbers = {name: "float64" for name in FIELDS if name not in TEXTS}
    whole = {name: WHOLE for name in labels.values() if _all_whole(row[name] for row in rows if name in row)}
    return frame.astype({**numbers, **whole})


def _all_whole(values: Iterable[Any]) -> bool:
    """Return whether the values of a label are whole numbers, of which a gap would make a data frame's fractions."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
