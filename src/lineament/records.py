"""Frozen records: every figure with its definition, unit, null, space and provenance, as JSON and safetensors.

A record holds the figures of one measurement, target and seed as a tidy list: each figure has a quantity, a value,
and labels (basis, rank, ...) that say which one it is. Every file under its own name is whole, also after a kill.
Nothing is ever pickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lineament.errors import InputError
from lineament.files.naming import safe_name
from lineament.files.schemas import read_ours
from lineament.files.tensors import load_tensors
from lineament.files.writing import write_bytes, write_json

# Schema 1, whose quantities have neither blind value nor ceiling, is still read.
SCHEMA_VERSION = 2
# MEASUREMENT-TARGET-seedN, as `Record.name` has it; what is called otherwise is somebody else's file.
OWN_NAME = re.compile(r"[a-z][a-z0-9_]*-.+-seed[0-9]+", re.DOTALL)
MADE_ANEW = "Move the file away if it is not a record of this run; `lineament run --resume` makes a missing one again."
Label = str | int | float
# The target of a record that is of the operating point with all its tasks, and not of one of them.
ALL_TASKS = "all_tasks"
# Columns of a tidy table, before and after those of the labels.
NAMING = ("measurement", "target", "seed", "quantity")
FIELDS = ("value", "stderr", "null", "blind", "ceiling", "unit", "reason")
# A number nearer to zero than so many of its standard errors has no known sign, and nothing is divided by it.
MIN_STDERRS = 3.0


def is_told(value: float, stderr: float) -> bool:
    """Return whether a number is above 0 by `MIN_STDERRS` standard errors (protocol, section 7).

    A ratio whose denominator is not told from zero is left out, with the reason; give a sign's absolute value.
    """
    return value > MIN_STDERRS * stderr and value > 0


@dataclass(frozen=True)
class Quantity:
    """One number.

    Attributes:
        name: what it is; the record's `definitions` say how it is computed. `quantity` in the JSON file.
        value: the number, or None with a `reason`.
        unit: e.g. `fraction`, `nats per target token`, `steps`.
        stderr: standard error within the seed, where there is one.
        null: the structured null's value, where it is a single number.
        blind: the same quantity of a blind run, whose gradients know nothing.
        ceiling: the largest value that the comparison allows.
        labels: which one it is, e.g. {"basis": "prefix", "rank": 10, "definition": "whole"}.
        reason: why the value is missing or what limits it.
    """

    name: str
    value: float | None
    unit: str
    _: KW_ONLY
    stderr: float | None = None
    null: float | None = None
    blind: float | None = None
    ceiling: float | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "reason", self.reason or f"value was {self.value}")
            object.__setattr__(self, "value", None)
        for uncertain in ("stderr", "null", "blind", "ceiling"):
            number = getattr(self, uncertain)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, uncertain, None)

    @property
    def excess(self) -> float | None:
        """(value - blind) / (1 - blind): 0 for a blind run, 1 for everything; None where either is missing."""
        if self.value is None or self.blind is None or self.blind >= 1:
            return None
        return (self.value - self.blind) / (1 - self.blind)

    def matches(self, name: str, **labels: Label) -> bool:
        """Whether this is the named quantity with all these labels."""
        return self.name == name and all(self.labels.get(k) == v for k, v in labels.items())


@dataclass(frozen=True)
class Record:
    """All figures of one measurement, on one target task and seed.

    Attributes:
        definitions: quantity -> one sentence with formula and source.
        arrays: name -> array, kept in a safetensors file beside the JSON.
    """

    measurement: str
    target: str
    seed: int
    problem: str
    model: str
    space: str
    n_params: int
    config_hash: str
    quantities: tuple[Quantity, ...]
    definitions: Mapping[str, str]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"{self.measurement}-{safe_name(self.target)}-seed{self.seed}"

    @cached_property
    def _by_name(self) -> Mapping[str, Sequence[Quantity]]:
        """The quantities of each name: a report asks for them thousands of times."""
        found: dict[str, list[Quantity]] = {}
        for quantity in self.quantities:
            found.setdefault(quantity.name, []).append(quantity)
        return found

    def select(self, name: str, **labels: Label) -> Iterator[Quantity]:
        """Yield every quantity of this name that carries these labels."""
        return (found for found in self._by_name.get(name, ()) if found.matches(name, **labels))

    def value(self, name: str, **labels: Label) -> float | None:
        """Return the value of the one quantity that matches, or None if it is absent or undefined.

        Raises:
            ValueError: if several quantities match, whatever their values.
        """
        found = list(self.select(name, **labels))
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} quantities of {self.measurement} match {name!r} with {labels}; add labels until one "
                "does."
            )
        return found[0].value if found else None

    def save(self, folder: Path) -> Path:
        """Write `folder/NAME.json` (and `.safetensors` if there are arrays); returns the JSON's path."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.arrays:
            arrays = {key: np.ascontiguousarray(value) for key, value in self.arrays.items()}
            write_bytes(folder / f"{self.name}.safetensors", save(arrays))
        body = {"schema": SCHEMA_VERSION, **_as_json(self)}
        path = folder / f"{self.name}.json"
        write_json(path, body)
        return path

    @classmethod
    def load(cls, path: Path, with_arrays: bool = True) -> Record:
        """Read a record written by `save`; without its arrays where only figures are asked for."""
        body = read_ours(path, {1: "record", SCHEMA_VERSION: "record"}, MADE_ANEW)
        del body["schema"]
        names = body.pop("arrays")
        quantities = tuple(Quantity(name=figure.pop("quantity"), **figure) for figure in body.pop("figures"))
        arrays = load_tensors(path.with_suffix(".safetensors"), framework="np") if names and with_arrays else {}
        return cls(quantities=quantities, arrays=arrays, **body)


def _as_json(record: Record) -> dict[str, Any]:
    """Return a record as its schema has it, where quantities are called figures and a name is called quantity."""
    body = asdict(record)
    body["arrays"] = sorted(record.arrays)
    renamed = {"quantities": "figures"}
    body = {renamed.get(key, key): value for key, value in body.items()}
    body["figures"] = [{"quantity": figure.pop("name"), **figure} for figure in body["figures"]]
    return body


def target_words(target: str) -> str:
    """Return a target as readers see it: a task's name, or that all tasks are meant."""
    return "all tasks" if target == ALL_TASKS else target


def load_records(folder: Path | str, with_arrays: bool = True) -> list[Record]:
    """All records of a run's `records` folder, in the order of their names; files that are not ours are left out.

    Raises:
        InputError: a file with a record's name is none, or holds another record.
    """
    return [_load_named(path, with_arrays) for path in record_files(folder)]


def _load_named(path: Path, with_arrays: bool) -> Record:
    record = Record.load(path, with_arrays)
    # earlier versions took the target into the name as it was
    if path.stem not in (record.name, f"{record.measurement}-{record.target}-seed{record.seed}"):
        raise InputError(f"{path} holds the record {record.name}, which would count twice. {MADE_ANEW}")
    return record


def label_columns(records: Iterable[Record], taken: Collection[str] = ()) -> dict[str, str]:
    """Return label -> its column in a tidy table, sorted; a label called as another column is `label.NAME`.

    Args:
        taken: names of columns that stand there besides `NAMING` and `FIELDS`.
    """
    labels = sorted({label for record in records for quantity in record.quantities for label in quantity.labels})
    others = {*NAMING, *FIELDS, *taken}
    return {label: f"label.{label}" if label in others else label for label in labels}


def tidy_rows(record: Record, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield one row for each quantity of a record: `NAMING`, a column for each label that it has, `FIELDS`.

    Args:
        columns: as `label_columns` returns them.
    """
    for quantity in record.quantities:
        yield {
            "measurement": record.measurement,
            "target": record.target,
            "seed": record.seed,
            "quantity": quantity.name,
            **{columns[label]: value for label, value in quantity.labels.items()},
            **{field: getattr(quantity, field) for field in FIELDS},
        }


def label_values(records: Iterable[Record], name: str, label: str) -> list[Label]:
    """Return the different values of a label over the quantities of one name, in the order of appearance."""
    quantities = (quantity for record in records for quantity in record.select(name))
    return list(dict.fromkeys(quantity.labels[label] for quantity in quantities if label in quantity.labels))


def record_files(folder: Path | str) -> list[Path]:
    """Files that are called as records are, in the order of their names."""
    return [path for path in _json_files(folder) if OWN_NAME.fullmatch(path.stem)]


def foreign_files(folder: Path | str) -> list[Path]:
    """Other JSON files among the records, which are somebody else's: they are neither read nor touched."""
    return [path for path in _json_files(folder) if not OWN_NAME.fullmatch(path.stem)]


def _json_files(folder: Path | str) -> list[Path]:
    """List JSON files; hidden ones are somebody's unfinished writing."""
    return sorted(path for path in Path(folder).glob("*.json") if not path.name.startswith("."))
