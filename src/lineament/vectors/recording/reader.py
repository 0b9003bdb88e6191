"""Reading recordings: rows of one space in files, read in pieces and never whole.

One pass over the rows makes the Gram matrix (n_steps, n_steps) in float64; every capture, overlap and drift query is
then small algebra (`trajectory_gram`) that never goes back to n_params dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.files.tensors import open_tensors
from lineament.parameters import Vectors
from lineament.problems.factor_pairs import FACTOR, FactorPair, partner
from lineament.problems.progress import Told, untold
from lineament.vectors.recording.index import RECORD_AGAIN, RecordingIndex
from lineament.vectors.recording.optimizer import RecordedOptimizer
from lineament.vectors.recording.rows import RowReader, column_blocks, cross_products, stacked_gram
from lineament.vectors.trajectory_gram import Coefficients, OutsideVector, StepBasis, TrajectoryGram

START, GRADIENTS = "start.safetensors", "gradients"


class Recorded:
    """Rows of one space on disk, one per recorded step, and what can be asked of them a piece at a time.

    Attributes:
        index: everything about the recording but its numbers. space: where rows live.
        sketch: the map that rows went through; None for whole rows.
    """

    def __init__(self, folder: Path, index: RecordingIndex) -> None:
        self.folder, self.index, self.space, self.sketch = folder, index, index.space, index.sketch
        self.reader = RowReader(folder, len(index.steps), index.width, index.dtype, index.rows_per_file)

    @property
    def n_steps(self) -> int:
        """Number of rows."""
        return self.reader.n_rows

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the rows on disk."""
        return self.index.dtype

    @property
    def n_blocks(self) -> int:
        """Number of row files."""
        return self.reader.n_files

    def block(self, number: int) -> Float[Tensor, "n_rows width"]:
        """Read file `number`: (at most 50, n_params), or the sketch's size instead, in the precision on disk."""
        return self.reader.block(number)

    def updates(self, first: int, last: int) -> Vectors:
        """Read rows first .. last, 1-based and inclusive, (last - first + 1, n_params), in float32 or float64."""
        self._require_whole_rows("single rows")
        if not 1 <= first <= last <= self.n_steps:
            raise InputError(
                f"updates {first}..{last} were asked for; the recording in {self.folder} has 1..{self.n_steps}."
            )
        rows = self.reader.rows(first - 1, last)
        return Vectors(rows.float() if rows.dtype == torch.bfloat16 else rows, self.space)

    def combine(self, weights: Float64[np.ndarray, "n_weighted n_vectors"] | StepBasis) -> Vectors:
        """Sum weights[t, j] u_(t+1) over t to directions; weights are (n, n_vectors), n <= n_steps, or a basis."""
        self._require_whole_rows("directions")
        if isinstance(weights, StepBasis):
            self.space.require(weights.space, "the recording and a basis")
            weights = weights.weights
        if len(weights) > self.n_steps:
            raise InputError(f"{len(weights)} weights were given for the {self.n_steps} updates in {self.folder}.")
        return Vectors(self._weighted_sums(weights), self.space)

    def gram(self, told: Told = untold) -> TrajectoryGram:
        """Return all inner products of rows, in float64; every file is read once, a range of parameters at a time.

        Of a sketched recording these are the sketch's inner products (`Sketch` gives their error).

        Args:
            told: told how many of the ranges are done.
        """
        return TrajectoryGram(stacked_gram([self.reader], told).numpy(), self.space)

    def cross_gram(
        self, other: Recorded, rows_self: slice = slice(None), rows_other: slice = slice(None)
    ) -> Float64[np.ndarray, "n_rows_self n_rows_other"]:
        """Multiply these rows with those of another recording of the space: inner products, (n, m) float64.

        Args:
            rows_self, rows_other: slices of consecutive rows, counted from 0.

        Raises:
            SpaceMismatchError: the recordings live in different spaces.
            InputError: they were sketched by different maps.
        """
        self._require_comparable(other)
        return cross_products(self.reader, other.reader, rows_self, rows_other).numpy()

    @staticmethod
    def joint_gram(recordings: Sequence[Recorded]) -> TrajectoryGram:
        """Return the Gram matrix of the rows of several recordings of one space, stacked in their order.

        Step t of recording i is row (n_steps of those before) + t: a basis of one run's updates captures another's.

        Raises:
            InputError: no recordings, or different sketches. SpaceMismatchError: different spaces.
        """
        if not recordings:
            raise InputError("a joint Gram matrix needs recordings; none was given.")
        for other in recordings[1:]:
            recordings[0]._require_comparable(other)
        return TrajectoryGram(stacked_gram([r.reader for r in recordings]).numpy(), recordings[0].space)

    def end_inner_products(self, vector: Float[Tensor, " n_params"]) -> OutsideVector:
        """Multiply all rows with any vector (n_params,), such as an adapter's end point minus theta_0.

        `TrajectoryGram.capture_outside` tells from them how much of the vector a basis made of rows holds. For a
        sketched recording the vector is sketched too.
        """
        if vector.shape != (self.space.n_params,):
            raise InputError(f"a vector of shape {tuple(vector.shape)} does not fit {self.space}.")
        seen = self.sketch.apply(vector) if self.sketch else vector.detach().cpu()
        products = torch.zeros(self.n_steps, dtype=torch.float64)
        squared_norm = 0.0
        for part in column_blocks(len(seen), self.n_steps + 1):
            piece = seen[part].double()
            products += self.reader.columns(part) @ piece
            squared_norm += float(piece @ piece)
        return OutsideVector(products.numpy(), squared_norm, self.space)

    def coefficients(self, basis: Basis) -> Coefficients:
        """Return U^T u_t for every step."""
        self._require_whole_rows("coefficients in a basis")
        self.space.require(basis.space, f"the recording and basis {basis.label!r}")
        parts = [basis.columns.T @ rows.T for _, rows in self.reader.blocks()]
        values = torch.cat(parts, dim=1) if parts else torch.empty(basis.rank, 0, dtype=torch.float64)
        return Coefficients(values.numpy(), self.space)

    def sum_of_rows(self, n_rows: int) -> Float64[Tensor, " width"]:
        """Add up the first n_rows rows as they are on disk, sketched or not, in float64."""
        return self._weighted_sums(np.ones((n_rows, 1)))[0]

    def _weighted_sums(
        self, weights: Float64[np.ndarray, "n_weighted n_vectors"]
    ) -> Float64[Tensor, "n_vectors width"]:
        matrix = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float64))
        total = torch.zeros(matrix.shape[1], self.reader.width, dtype=torch.float64)
        for start, rows in self.reader.blocks(len(matrix)):
            total += matrix[start : start + len(rows)].T @ rows
        return total

    def _require_whole_rows(self, what: str) -> None:
        if self.sketch is not None:
            raise InputError(
                f"{self.folder} holds rows sketched to {self.sketch.size} numbers, which give inner products but no "
                f"{what}. Record without a sketch."
            )

    def _require_comparable(self, other: Recorded) -> None:
        self.space.require(other.space, "two recordings")
        if self.sketch != other.sketch:
            raise InputError(
                f"{self.folder} was sketched by {self.sketch} and {other.folder} by {other.sketch}; rows can be "
                "compared only through one map. Record both with the same sketch, or without."
            )


class Trajectory(Recorded):
    """A recording, closed or as far as it was last flushed.

    Raises:
        LineamentError: the folder holds no recording, a file is missing or torn, or its schema is unknown; the message
            names the file.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(Path(folder), RecordingIndex.read(Path(folder)))

    @property
    def steps(self) -> tuple[int, ...]:
        """For every row the number of optimizer steps after which it was taken, counted from the recording's start."""
        return self.index.steps

    @property
    def first_step(self) -> int:
        """Global number of optimizer steps at the recording's start."""
        return self.index.first_step

    @property
    def closed(self) -> bool:
        """Whether the recording was finished."""
        return self.index.closed

    @property
    def about(self) -> dict[str, str | float | int]:
        """What the user said about the training."""
        return dict(self.index.about)

    @property
    def optimizer(self) -> RecordedOptimizer:
        """What is known of the optimizer that made the rows; its `reason` where nothing is."""
        return self.index.optimizer

    @property
    def tensors(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(name, shape) of the tensors in the flat vector, in order; empty in recordings of schema 1."""
        return self.index.tensors

    @property
    def scales(self) -> dict[str, float]:
        """Adapted module -> scale of dW = scale B A; empty where the space is no LoRA factors."""
        return dict(self.index.scales)

    @property
    def gradients(self) -> Recorded | None:
        """The gradient rows, one for each update row; None where none were stored."""
        return Recorded(self.folder / GRADIENTS, self.index) if self.index.gradients else None

    def pairs(self) -> list[FactorPair]:
        """Return the LoRA factor pairs of the flat vector, without the model."""
        return _factor_pairs(self)

    def start(self) -> Float[Tensor, " n_params"]:
        """Read theta_0, (n_params,), in the model's precision."""
        theta: Tensor
        with open_tensors(self.folder / START, "the start of the recording", RECORD_AGAIN) as stored:
            theta = stored.get_tensor("theta")
        return theta

    def position(self, step: int) -> Float64[Tensor, " n_params"]:
        """Return theta_0 + u_1 + .. + u_step, after row `step`, summed in float64, (n_params,)."""
        self._require_whole_rows("positions")
        theta = self.start().double()
        if step:
            theta += self.combine(np.ones(step)[:, None]).rows[0]
        return theta

    def positions(self) -> Float64[Tensor, "n_positions n_params"]:
        """Return theta_0 .. theta_T, (n_steps + 1, n_params) float64; one block of rows is held beside them."""
        self._require_whole_rows("positions")
        thetas = torch.empty(self.n_steps + 1, self.space.n_params, dtype=torch.float64)
        thetas[0] = self.start()
        for number in range(self.n_blocks):
            for step, row in enumerate(self.block(number), start=number * self.reader.rows_per_file):
                torch.add(thetas[step], row, out=thetas[step + 1])
        return thetas


def _factor_pairs(trajectory: Trajectory) -> list[FactorPair]:
    starts = np.cumsum([0, *(int(np.prod(shape)) for _, shape in trajectory.tensors)])
    where = {
        name: (slice(int(start), int(stop)), shape)
        for (name, shape), start, stop in zip(trajectory.tensors, starts, starts[1:], strict=False)
    }
    pairs = []
    for name, (a, a_shape) in where.items():
        found = FACTOR.fullmatch(name)
        if found is not None and found["factor"] == "A":
            module = found["module"]
            b, b_shape = where[partner(name)]
            pairs.append(FactorPair(module, a, b, a_shape, b_shape, trajectory.scales[module]))  # type: ignore[arg-type]
    if not pairs:
        why = "its index is of schema 1, without names" if not trajectory.tensors else f"it is {trajectory.space}"
        raise InputError(f"{trajectory.folder} names no LoRA factors: {why}. Record the factors of a LoRA training.")
    return pairs
