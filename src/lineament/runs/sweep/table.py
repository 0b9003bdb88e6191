"""A sweep as two Parquet tables that data frames read: every quantity of a record, and every claim of a cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

from scipy import stats

from lineament.claims.claims_file import read_sweep
from lineament.claims.intervals import LEVEL
from lineament.errors import require_package
from lineament.files.writing import written_whole
from lineament.records import FIELDS, Record, load_records
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Cell, Grid
from lineament.settings.keys import KEYS

Row = dict[str, Any]
# Half the width of a normal interval in standard errors.
NORMAL_HALF = float(stats.norm.ppf(0.5 + LEVEL / 2))
TEXT, WHOLE, REAL = "string", "int64", "float64"
RECORD_COLUMNS = {
    "problem": TEXT,
    "model": TEXT,
    "measurement": TEXT,
    "target": TEXT,
    "seed": WHOLE,
    "space": TEXT,
    "n_params": WHOLE,
    "quantity": TEXT,
}
QUANTITY_COLUMNS = {
    "value": REAL,
    "stderr": REAL,
    "low": REAL,
    "high": REAL,
    "null_value": REAL,
    "blind": REAL,
    "ceiling": REAL,
    "unit": TEXT,
    "reason": TEXT,
    "config_hash": TEXT,
}
CLAIM_COLUMNS = {
    "task": TEXT,
    "claim": TEXT,
    "space": TEXT,
    "rank": WHOLE,
    "measured": REAL,
    "low": REAL,
    "high": REAL,
    "level": REAL,
    "null_value": REAL,
    "blind": REAL,
    "ceiling": REAL,
    "paper": REAL,
    "unit": TEXT,
    "verdict": TEXT,
    "n_seeds": WHOLE,
    "reason": TEXT,
}


def write_tables(folder: SweepFolder) -> None:
    """Write SWEEP/records.parquet from the records and SWEEP/claims.parquet from sweep.json.

    One cell's records are in memory at a time. The same records give the same bytes.

    Raises:
        LineamentError: there is no sweep.json yet, a record is not readable, or the disk refuses to write.
    """
    grid = folder.grid()
    varied = {"cell": TEXT, **{key: _varied_type(key) for key in grid.vary}}
    labels = {f"label.{name}": kind for name, kind in sorted(_label_types(folder, grid).items())}
    columns = {**varied, **RECORD_COLUMNS, **labels, **QUANTITY_COLUMNS}
    _write(folder.records_table, columns, (_record_rows(folder, cell, labels) for cell in grid.cells()))
    claims = {cell["name"]: cell["claims"] for cell in read_sweep(folder.path)["cells"]}
    rows = [row for cell in grid.cells() for row in _claim_rows(cell, claims.get(cell.name, ()))]
    # Few rows for each cell: with a row group of its own for each, the file would be mostly headers.
    _write(folder.claims_table, {**varied, **CLAIM_COLUMNS}, [rows])


def require_tables() -> None:
    """Raise `InputError` where no Parquet table can be written."""
    require_package("pyarrow", "sweep", "a sweep, whose tables are Parquet files,")


def _write(path: Path, columns: Mapping[str, str], groups: Iterable[Iterable[Row]]) -> None:
    """Write one row group for each of `groups` that has rows."""
    require_tables()
    import pyarrow as pa  # an extra, and slow to import
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    with written_whole(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows in groups:
            table = pa.Table.from_pylist(list(rows), schema=schema)
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)


def _record_rows(folder: SweepFolder, cell: Cell, labels: Mapping[str, str]) -> Iterator[Row]:
    varied = varied_columns(cell)
    for record in _records(folder, cell):
        shared = {
            **varied,
            **{name: getattr(record, name) for name in (*RECORD_COLUMNS, "config_hash") if name != "quantity"},
        }
        for quantity in record.quantities:
            arm = None if quantity.stderr is None or quantity.value is None else NORMAL_HALF * quantity.stderr
            named = {f"label.{name}": value for name, value in quantity.labels.items()}
            yield {
                **shared,
                **{name: _as_text(value) if labels[name] == TEXT else value for name, value in named.items()},
                "quantity": quantity.name,
                **{"null_value" if field == "null" else field: getattr(quantity, field) for field in FIELDS},
                "low": None if arm is None or quantity.value is None else quantity.value - arm,
                "high": None if arm is None or quantity.value is None else quantity.value + arm,
            }


def _claim_rows(cell: Cell, claims: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for claim in claims:
        same = {name: claim.get(name) for name in CLAIM_COLUMNS if name not in ("claim", "null_value")}
        yield {**varied_columns(cell), **same, "claim": claim["id"], "null_value": claim["null"]}


def _records(folder: SweepFolder, cell: Cell) -> list[Record]:
    return load_records(folder.run(cell).records, with_arrays=False)


def varied_columns(cell: Cell) -> Row:
    """Return a cell's name and its values of the varied keys, as they stand in tables."""
    return {"cell": cell.name, **{key: _varied_value(value) for key, value in cell.values.items()}}


def _varied_value(value: Any) -> Any:
    return "+".join(map(str, value)) if isinstance(value, tuple) else value


def _varied_type(key: str) -> str:
    """Return the column type of a settings key: lists and named choices are texts."""
    kind = KEYS[key].type
    return TEXT if get_origin(kind) is not None else {bool: "bool", int: WHOLE, float: REAL}.get(kind, TEXT)


def _label_types(folder: SweepFolder, grid: Grid) -> dict[str, str]:
    """Return label name -> column type that holds all its values: whole numbers, numbers, or texts."""
    kinds: dict[str, set[type]] = {}
    for cell in grid.cells():
        for record in _records(folder, cell):
            for quantity in record.quantities:
                for name, value in quantity.labels.items():
                    kinds.setdefault(name, set()).add(type(value))
    return {name: WHOLE if types == {int} else REAL if types <= {int, float} else TEXT for name, types in kinds.items()}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
