"""What a recording's `index.json` says. Schema 2; schema 1 (closed, every step, no names) is still read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lineament.errors import InputError, LineamentError
from lineament.files.schemas import read_ours
from lineament.files.writing import write_json
from lineament.parameters import ParameterSpace, Space
from lineament.problems.factor_pairs import factor_pairs, why_no_pairs
from lineament.vectors.recording.optimizer import RecordedOptimizer
from lineament.vectors.recording.rows import DTYPES, row_file
from lineament.vectors.recording.sketch import Sketch

INDEX = "index.json"
SCHEMA = 2
RECORD_AGAIN = "Record again, or copy the whole folder again."


@dataclass(frozen=True)
class RecordingIndex:
    """Everything about a recording but its numbers.

    Attributes:
        space: where rows live. rows_per_file: rows of a whole file.
        steps: for every row, the number of optimizer steps after which it was taken, from the recording's start on.
        first_step: global number of optimizer steps at the start.
        every: a row is taken after every so many optimizer steps.
        tensors: (name, shape) in the order of the flat vector; empty in schema 1.
        scales: adapted module -> scale of dW = scale B A, for LoRA factors.
        model: type of the module. closed: whether the recording was finished.
        gradients: whether `gradients/` holds a row for each step. sketch: how rows were made smaller, if they were.
        about: what the user says about the training, such as {"task": "words"}.
        optimizer: what is known of the optimizer, from which the blind run follows.
    """

    space: Space
    rows_per_file: int
    dtype: torch.dtype = torch.float32
    steps: tuple[int, ...] = ()
    first_step: int = 0
    every: int = 1
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    closed: bool = False
    gradients: bool = False
    sketch: Sketch | None = None
    about: Mapping[str, str | float | int] = field(default_factory=dict)
    optimizer: RecordedOptimizer = field(default_factory=RecordedOptimizer)

    @property
    def width(self) -> int:
        """Entries of a row: n_params, or the size of the sketch."""
        return self.sketch.size if self.sketch else self.space.n_params

    def with_rows(self, steps: tuple[int, ...], *, closed: bool) -> RecordingIndex:
        """Return the same recording with other rows."""
        return replace(self, steps=steps, closed=closed)

    def with_optimizer(self, optimizer: RecordedOptimizer) -> RecordingIndex:
        """Return the same recording with what is known of its optimizer by now."""
        return replace(self, optimizer=optimizer)

    def with_rows_per_file(self, rows_per_file: int) -> RecordingIndex:
        """Return the same recording in files of another length."""
        return replace(self, rows_per_file=rows_per_file)

    def with_names(
        self, tensors: tuple[tuple[str, tuple[int, ...]], ...], scales: Mapping[str, float]
    ) -> RecordingIndex:
        """Return the same recording with the names that schema 1 lacked."""
        return replace(self, tensors=tensors, scales=scales)

    def rows_at(self, at_step: int, folder: Path) -> int:
        """Count the rows up to global step `at_step`; raise `InputError` if no row ends there."""
        ends = (0, *self.steps)
        wanted = at_step - self.first_step
        if wanted not in ends:
            raise InputError(
                f"{folder} holds no row that ends at step {at_step}: it starts at step {self.first_step} and has a row "
                f"every {self.every} steps, the last at step {self.first_step + ends[-1]}. Resume at one of these."
            )
        return ends.index(wanted)

    def write(self, folder: Path) -> None:
        """Write `index.json`, again if it exists."""
        write_json(
            folder / INDEX,
            {
                "schema": SCHEMA,
                "kind": self.space.kind,
                "n_params": self.space.n_params,
                "layout": self.space.layout,
                "n_steps": len(self.steps),
                "rows_per_file": self.rows_per_file,
                "dtype": str(self.dtype).removeprefix("torch."),
                "steps": list(self.steps),
                "first_step": self.first_step,
                "every": self.every,
                "tensors": [[name, list(shape)] for name, shape in self.tensors],
                "scales": dict(self.scales),
                "model": self.model,
                "closed": self.closed,
                "gradients": self.gradients,
                "sketch": self.sketch.parameters() if self.sketch else None,
                "about": dict(self.about),
                "optimizer": self.optimizer.body(),
            },
        )

    @classmethod
    def read(cls, folder: Path) -> RecordingIndex:
        """Read the index of a recording.

        Raises:
            LineamentError: there is none, it is torn, or its schema is another's; the message names the file.
        """
        file = folder / INDEX
        if not file.exists():
            raise LineamentError(f"{folder} holds no recording (no {INDEX}).")
        body = read_ours(file, {1: "recording-1", SCHEMA: "recording"}, RECORD_AGAIN)
        try:
            return {1: _from_schema_1, SCHEMA: _from_schema_2}[body["schema"]](folder, body)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{file} is torn ({type(error).__name__}: {error}). {RECORD_AGAIN}") from None


def finished(folder: Path) -> bool:
    """Say whether a folder holds a recording that was closed."""
    return (folder / INDEX).exists() and RecordingIndex.read(folder).closed


def scales_of(space: ParameterSpace) -> dict[str, float]:
    """Map each adapted module to the scale of dW = scale B A; empty for spaces that are no LoRA factors.

    Raises:
        InputError: the space is called one of LoRA factors, but its parameters are no pairs of A and B.
    """
    if space.space.kind != "lora_factors":
        return {}
    if reason := why_no_pairs(space.module, space.names):
        raise InputError(
            f"these parameters cannot be recorded as LoRA factors: {reason}. Record them as plain weights, with "
            "ParameterSpace.trainable(model)."
        )
    return {pair.module: pair.scale for pair in factor_pairs(space)}


def check_about(about: Mapping[str, str | float | int]) -> dict[str, str | float | int]:
    """Copy what the user says about a training; raise `InputError` for what JSON cannot hold."""
    for key, value in about.items():
        plain = isinstance(key, str) and isinstance(value, (str, int, float))
        if not plain or (isinstance(value, float) and not -float("inf") < value < float("inf")):
            raise InputError(f"about[{key!r}] is {value!r}; map names to strings or finite numbers.")
    return dict(about)


def _space(body: Mapping[str, Any]) -> Space:
    return Space(body["kind"], int(body["n_params"]), body["layout"])


def _from_schema_1(folder: Path, body: Mapping[str, Any]) -> RecordingIndex:
    n_steps = int(body["n_steps"])
    steps = tuple(range(1, n_steps + 1))
    dtype = _stored_dtype(row_file(folder, 0)) if n_steps else torch.float32
    return RecordingIndex(_space(body), int(body["rows_per_file"]), dtype, steps, closed=True)


def _from_schema_2(folder: Path, body: Mapping[str, Any]) -> RecordingIndex:
    if len(body["steps"]) != body["n_steps"]:
        raise ValueError(f"{body['n_steps']} rows, but steps of {len(body['steps'])}")
    return RecordingIndex(
        space=_space(body),
        rows_per_file=int(body["rows_per_file"]),
        dtype=DTYPES[body["dtype"]],
        steps=tuple(int(step) for step in body["steps"]),
        first_step=int(body["first_step"]),
        every=int(body["every"]),
        tensors=tuple((name, tuple(shape)) for name, shape in body["tensors"]),
        scales={module: float(scale) for module, scale in body["scales"].items()},
        model=body["model"],
        closed=bool(body["closed"]),
        gradients=bool(body["gradients"]),
        sketch=Sketch(**body["sketch"]) if body["sketch"] else None,
        about=dict(body["about"]),
        optimizer=RecordedOptimizer.of_body(body.get("optimizer")),  # recordings of version 0.1 have none
    )


def _stored_dtype(file: Path) -> torch.dtype:
    try:
        with safe_open(file, framework="pt") as stored:
            return {"F32": torch.float32, "F64": torch.float64}[stored.get_slice("rows").get_dtype()]
    except (SafetensorError, OSError) as error:
        raise LineamentError(f"{file} cannot be read as rows of a recording: {error}.") from None
