"""Rows of a user's data, from files or from the `datasets` library, with where each one stands.

JSONL (or NDJSON), a JSON list, CSV or TSV with a header, Parquet, plain text (one row, the whole file), a folder that
`datasets` saved, or `hf:NAME[:CONFIG][:SPLIT]` for a data set of a hub. Code that comes with a data set is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lineament.errors import InputError, require_package
from lineament.files.reading import csv_rows, json_lines, parse_json, read_text, require_file, shown
from lineament.settings.task import HUB, data_name

Row = Mapping[str, Any]
# How to get `datasets`.


@dataclass(frozen=True)
class DataRows:
    """Rows with named columns.

    Attributes:
        name: of the task that the rows become. source: as it was given.
        rows: (number, row); numbers are lines of a file, or rows from 1 where there are no lines.
        unit: `line` or `row`: what the numbers count.
    """

    name: str
    source: str
    rows: tuple[tuple[int, Row], ...]
    unit: str = "line"

    def where(self, number: int) -> str:
        """Say how errors name a row."""
        return f"{self.source}, {self.unit} {number}"


def read_rows(source: Path | str) -> DataRows:
    """Read all rows of a source.

    Raises:
        InputError: no such source, another format, no rows, or a row that cannot be read; names the source and the row.
    """
    text = str(source)
    from_library = text.startswith(HUB) or Path(text).is_dir()
    found = _from_datasets(text) if from_library else _from_file(Path(text))
    if not found.rows:
        raise InputError(f"{source} holds no rows.")
    for number, row in found.rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{found.where(number)}: a row must be an object with named columns, not {shown(row)}.")
    return found


def _from_file(path: Path) -> DataRows:
    require_file(path, "the data file")
    suffix, name = path.suffix.lower(), data_name(str(path))
    if suffix == ".parquet":
        return DataRows(name, str(path), _parquet_rows(path), "row")
    if suffix not in READERS:
        allowed = ", ".join([*READERS, ".parquet"])
        raise InputError(f"{path} is of type {path.suffix or 'none'}; give {allowed}, or {HUB}NAME.")
    rows = READERS[suffix](read_text(path, "the data file"), str(path))
    return DataRows(name, str(path), tuple(rows), "row" if suffix == ".json" else "line")


def _json_list(text: str, where: str) -> Iterable[tuple[int, Any]]:
    body = parse_json(text, where)
    if not isinstance(body, list):
        raise InputError(f"{where} holds no list of rows.")
    return enumerate(body, start=1)


# Suffix -> rows of a text with the line that each stands on.
READERS: Mapping[str, Callable[[str, str], Iterable[tuple[int, Any]]]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": _json_list,
    ".csv": csv_rows,
    ".tsv": partial(csv_rows, delimiter="\t"),
    ".txt": lambda text, where: [(1, {"text": text})] if text.strip() else [],
}


def _parquet_rows(path: Path) -> tuple[tuple[int, Row], ...]:
    require_package("pyarrow", "data", f"{path}: reading Parquet")
    import pyarrow as pa  # slow to import, and only these files need it
    import pyarrow.parquet as pq

    found: list[tuple[int, Row]] = []
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                found += enumerate(batch.to_pylist(), start=len(found) + 1)
    # a value that Python has no counterpart for, such as a time beyond the year 9999, is a ValueError
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is not valid Parquet after row {len(found)}: {error}.") from None
    return tuple(found)


def _from_datasets(source: str) -> DataRows:
    require_package("datasets", "data", f"{source}: reading a data set")
    import datasets

    try:
        loaded = _load(datasets, source)
    except Exception as error:  # a missing name, no network, a torn folder: each has its own type
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the data set {source!r} could not be loaded: {reason.rstrip('.')}. Give a folder that datasets saved "
            f"(save_to_disk), a file, or {HUB}NAME[:CONFIG][:SPLIT]; on a machine with no network, fetch it once "
            "elsewhere and copy the cache (HF_HOME, then HF_HUB_OFFLINE=1)."
        ) from error
    return DataRows(data_name(source), source, tuple(enumerate(loaded.to_list(), start=1)), "row")


def _load(datasets: Any, source: str) -> Any:
    """Load one split of a data set: the named one, or `train`, or the only one."""
    if source.startswith(HUB):
        name, *rest = source.removeprefix(HUB).split(":")
        config, split = (rest[0] or None if len(rest) > 1 else None), (rest[-1] if rest else "train")
        return datasets.load_dataset(name, config, split=split)
    loaded = datasets.load_from_disk(source)
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if "train" not in loaded and len(loaded) > 1:
        raise InputError(f"it has the splits {', '.join(loaded)} and none is named train; save one of them alone")
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))
