"""Rows of equal width appended to a folder of safetensors files, and read back in pieces.

A folder holds `rows-00000.safetensors`, `rows-00001.safetensors`, .. with `rows_per_file` rows each, fewer in the last.
Files are written whole; a partial last file is written again when more rows have come. Reading maps files into memory
and copies what was asked for: a range of rows, or a range of columns of all rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lineament.errors import InputError, LineamentError
from lineament.files.writing import write_bytes
from lineament.problems.progress import Told, untold

# Bytes of float64 rows that any question to a recording holds at once, at most; one column or row is always allowed.
MAX_BYTES_HELD = 128 * 2**20
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# Rows of a Gram matrix made in one product. Products below the diagonal of tiles are not made, but mirrored.
TILE = 256
ROW_FILE = re.compile(r"rows-([0-9]{5,})\.safetensors")


def row_file(folder: Path, number: int) -> Path:
    """Return the file with rows number * rows_per_file and following."""
    return folder / f"rows-{number:05d}.safetensors"


def delete_rows(folder: Path, first: int) -> None:
    """Delete the row files of a recording from number `first` on; only names that `row_file` gives."""
    for file in folder.glob("rows-*.safetensors"):
        number = ROW_FILE.fullmatch(file.name)
        if number and int(number[1]) >= first and file.is_file():
            file.unlink(missing_ok=True)


class RowWriter:
    """Appends rows to a folder; at most one file's rows are not on disk.

    Args:
        width: entries of a row.
        dtype: float32, float64 or bfloat16.
        n_rows: rows that are there already and stay; what lies behind them is deleted.

    Use: fill `next_row()`, then `commit()`; `flush()` whenever `is_full`, and at the end.
    """

    def __init__(self, folder: Path, width: int, dtype: torch.dtype, rows_per_file: int, n_rows: int = 0) -> None:
        if dtype not in DTYPES.values():
            raise InputError(f"rows cannot be stored as {dtype}; choose one of {', '.join(DTYPES)}.")
        self.folder, self.rows_per_file = folder, rows_per_file
        self.n_rows = self._written = n_rows
        self._buffer = torch.empty(rows_per_file, width, dtype=dtype)
        held = n_rows % rows_per_file
        if held:
            self._buffer[:held] = RowReader(folder, n_rows, width, dtype, rows_per_file).rows(n_rows - held, n_rows)
        delete_rows(folder, -(-n_rows // rows_per_file))

    def next_row(self) -> Float[Tensor, " width"]:
        """Return where to put the next row, (width,); retries a failed write first."""
        if self.is_full:
            self.flush()
        return self._buffer[self.n_rows % self.rows_per_file]

    def commit(self) -> None:
        """Count the row that was put into `next_row()`."""
        self.n_rows += 1

    @property
    def is_full(self) -> bool:
        """Whether a whole file waits to be written."""
        return self._written < self.n_rows and self.n_rows % self.rows_per_file == 0

    def flush(self) -> None:
        """Write the rows that are not on disk; the file they belong to is written whole."""
        if self._written == self.n_rows:
            return
        number = (self.n_rows - 1) // self.rows_per_file
        rows = self._buffer[: self.n_rows - number * self.rows_per_file]
        write_bytes(row_file(self.folder, number), save({"rows": rows}))
        self._written = self.n_rows


class RowReader:
    """The first n_rows rows of a folder, in their stored precision.

    Raises:
        LineamentError: a file is missing (noticed at once), cannot be read, or holds fewer or other rows.
    """

    def __init__(self, folder: Path, n_rows: int, width: int, dtype: torch.dtype, rows_per_file: int) -> None:
        self.folder, self.n_rows, self.width, self.dtype = folder, n_rows, width, dtype
        self.rows_per_file = rows_per_file
        for number in range(self.n_files):
            if not (file := row_file(folder, number)).exists():
                raise LineamentError(f"{file} is missing; the recording has {n_rows} rows in {self.n_files} files.")

    @property
    def n_files(self) -> int:
        """Number of row files."""
        return -(-self.n_rows // self.rows_per_file)

    def block(self, number: int) -> Float[Tensor, "n_rows width"]:
        """Read file `number`, (at most rows_per_file, width)."""
        first = number * self.rows_per_file
        with self._open(number) as stored:
            rows: Tensor = stored[: min(self.rows_per_file, self.n_rows - first)]
        return rows

    def blocks(self, n_rows: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of the first row, rows in float64) of the first n_rows, at most `MAX_BYTES_HELD` at once."""
        total = self.n_rows if n_rows is None else n_rows
        rows_at_once = max(1, MAX_BYTES_HELD // (8 * self.width))
        for number in range(-(-total // self.rows_per_file)):
            offset = number * self.rows_per_file
            block = self.block(number)[: total - offset]
            for start in range(0, len(block), rows_at_once):
                yield offset + start, block[start : start + rows_at_once].double()

    def rows(self, first: int, last: int) -> Float[Tensor, "n_rows width"]:
        """Read rows first .. last - 1 (from 0), (last - first, width) in the stored precision; only they are loaded."""
        out = torch.empty(last - first, self.width, dtype=self.dtype)
        self.fill(out, slice(0, self.width), first)
        return out

    def columns(self, part: slice, rows: slice = slice(None)) -> Float64[Tensor, "n_rows n_columns"]:
        """Read columns `part` of rows `rows`, (n, width of the part) float64; only they are loaded."""
        first, last = row_range(rows, self.n_rows)
        start, stop, _ = part.indices(self.width)
        out = torch.empty(last - first, stop - start, dtype=torch.float64)
        self.fill(out, slice(start, stop), first)
        return out

    def fill(self, out: Float[Tensor, "n_rows n_columns"], part: slice, first: int) -> None:
        """Copy columns `part` of the rows from `first` on into `out` (n, width of the part), in its precision."""
        done = 0
        while done < len(out):
            number, offset = divmod(first + done, self.rows_per_file)
            n = min(self.rows_per_file - offset, len(out) - done)
            with self._open(number) as stored:
                out[done : done + n] = stored[offset : offset + n, part]
            done += n

    @contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        file = row_file(self.folder, number)
        needed = min(self.rows_per_file, self.n_rows - number * self.rows_per_file)
        try:
            with safe_open(file, framework="pt") as opened:
                stored = opened.get_slice("rows")
                shape = stored.get_shape()
                if shape[0] < needed or shape[1:] != [self.width]:
                    raise LineamentError(f"{file} holds rows of shape {shape}, not ({needed}, {self.width}).")
                yield stored
        except (SafetensorError, OSError) as error:
            raise LineamentError(f"{file} cannot be read as rows of a recording: {error}.") from None


def row_range(rows: slice, n_rows: int) -> tuple[int, int]:
    """Return (first, last + 1) of a slice of consecutive rows."""
    first, last, step = rows.indices(n_rows)
    if step != 1:
        raise InputError(f"the slice {rows} skips rows; give consecutive rows, without a step.")
    return first, max(first, last)


def column_blocks(width: int, n_rows: int) -> Iterator[slice]:
    """Split the columns into ranges of which n_rows rows in float64 take at most `MAX_BYTES_HELD`."""
    step = max(1, MAX_BYTES_HELD // (8 * max(1, n_rows)))
    return (slice(start, min(start + step, width)) for start in range(0, width if n_rows else 0, step))


def stacked_gram(readers: Sequence[RowReader], told: Told = untold) -> Float64[Tensor, "n_rows n_rows"]:
    """Return all inner products of the rows of several readers, stacked, (n, n) float64.

    Every file is read once, a range of columns at a time, of which `told` is told.
    """
    n_rows = sum(reader.n_rows for reader in readers)
    gram = torch.zeros(n_rows, n_rows, dtype=torch.float64)
    blocks = list(column_blocks(readers[0].width, len(gram)))
    for number, part in enumerate(blocks):
        told(number, len(blocks))
        rows = torch.empty(n_rows, part.stop - part.start, dtype=torch.float64)
        first = 0
        for reader in readers:
            reader.fill(rows[first : first + reader.n_rows], part, 0)
            first += reader.n_rows
        # Float64 sums over blocks of columns: float32 rows of millions of parameters would round away small cosines.
        for start in range(0, n_rows, TILE):
            gram[start : start + TILE, start:] += rows[start : start + TILE] @ rows[start:].T
    for start in range(0, n_rows, TILE):
        end = start + TILE
        gram[end:, start:end] = gram[start:end, end:].T
    return gram


def cross_products(
    first: RowReader, second: RowReader, rows_first: slice, rows_second: slice
) -> Float64[Tensor, "n_first n_second"]:
    """Multiply rows of one reader with rows of another: inner products, (n, m) float64."""
    here, there = row_range(rows_first, first.n_rows), row_range(rows_second, second.n_rows)
    n, m = here[1] - here[0], there[1] - there[0]
    products = torch.zeros(n, m, dtype=torch.float64)
    for part in column_blocks(first.width, n + m):
        products += first.columns(part, slice(*here)) @ second.columns(part, slice(*there)).T
    return products
