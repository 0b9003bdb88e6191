"""Recording a training run and answering questions about it from its step-by-step Gram matrix.

The recorder appends one flat row u_t = theta_t - theta_(t-1) per step. One pass over the rows makes the Gram matrix
(n_steps, n_steps) in float64; a direction built from updates is then a column of weights over steps, and every capture,
overlap and drift query is small algebra that never goes back to n_params dimensions. Weights and coefficients carry
the space of the Gram matrix they belong to: those of LoRA factors mean nothing among effective weights dW.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lineament.bases import DEPENDENCE_TOLERANCE, Basis
from lineament.errors import InputError, LineamentError
from lineament.parameters import ParameterSpace, Space, Vectors
from lineament.records import read_json, write_bytes, write_json

ROWS_PER_FILE = 50
# Most bytes of rows that a recorder or a Gram matrix holds at once; a single row is always allowed.
MOST_BYTES_HELD = 256 * 2**20
INDEX = "index.json"


class Recorder:
    """Appends one update row per optimizer step to a folder, a file per 50 rows (fewer where those exceed 256 MiB).

    Args:
        space: the measured parameters; theta at construction is the start of the trajectory.
        folder: where rows go; must not hold a finished recording.
        dtype: float32, or float64 for models in double precision.

    Use: `recorder = Recorder(space, folder)`; after every optimizer step `recorder.append()`; `recorder.close()`.
    """

    def __init__(self, space: ParameterSpace, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        folder = Path(folder)
        if (folder / INDEX).exists():
            raise InputError(f"{folder} already holds a finished recording; record into another folder.")
        self.space, self.folder, self.dtype = space, folder, dtype
        self.n_steps = 0
        self._per_file = max(1, min(ROWS_PER_FILE, MOST_BYTES_HELD // (space.n_params * dtype.itemsize)))
        self._rows = torch.empty(self._per_file, space.n_params, dtype=dtype)
        self._previous = space.read().cpu()
        write_bytes(folder / "start.safetensors", save({"theta": self._previous}))

    def append(self) -> None:
        """Record the update made since the last call (or since construction)."""
        theta = self.space.read().cpu()
        torch.sub(theta, self._previous, out=self._rows[self.n_steps % self._per_file])
        self._previous = theta
        self.n_steps += 1
        if self.n_steps % self._per_file == 0:
            self._flush(self._per_file)

    def close(self) -> Trajectory:
        """Write the last rows and the index; returns the recording."""
        if self.n_steps % self._per_file:
            self._flush(self.n_steps % self._per_file)
        write_json(
            self.folder / INDEX,
            {
                "schema": 1,
                "n_steps": self.n_steps,
                "rows_per_file": self._per_file,
                **asdict(self.space.space),
            },
        )
        return Trajectory(self.folder)

    def _flush(self, n_rows: int) -> None:
        number = (self.n_steps - 1) // self._per_file
        write_bytes(self.folder / f"rows-{number:05d}.safetensors", save({"rows": self._rows[:n_rows].clone()}))


class Trajectory:
    """A finished recording, read in blocks from disk.

    Attributes:
        space: where updates live. n_steps: number of recorded updates.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        if not (folder / INDEX).exists():
            raise LineamentError(f"{folder} holds no finished recording (no {INDEX}).")
        index = read_json(folder / INDEX)
        self.folder = folder
        self.n_steps = int(index["n_steps"])
        self.space = Space(index["kind"], index["n_params"], index["layout"])
        self._rows_per_file = int(index["rows_per_file"])

    def start(self) -> Tensor:
        """theta_0, (n_params,), in the model's precision."""
        with safe_open(self.folder / "start.safetensors", framework="pt") as stored:
            theta: Tensor = stored.get_tensor("theta")
        return theta

    def block(self, number: int) -> Tensor:
        """Rows of file `number`, (at most 50, n_params)."""
        with safe_open(self.folder / f"rows-{number:05d}.safetensors", framework="pt") as stored:
            rows: Tensor = stored.get_tensor("rows")
        return rows

    @property
    def n_blocks(self) -> int:
        """Number of row files."""
        return -(-self.n_steps // self._rows_per_file)

    def updates(self, first: int, last: int) -> Vectors:
        """u_first .. u_last, 1-based and inclusive, (last - first + 1, n_params)."""
        if not 1 <= first <= last <= self.n_steps:
            raise InputError(f"updates {first}..{last} of a recording with {self.n_steps} steps.")
        per_file = self._rows_per_file
        numbers = range((first - 1) // per_file, (last - 1) // per_file + 1)
        rows = torch.cat([self.block(number) for number in numbers])
        offset = numbers[0] * per_file
        return Vectors(rows[first - 1 - offset : last - offset], self.space)

    def position(self, step: int) -> Tensor:
        """theta_step = theta_0 + u_1 + .. + u_step, summed in float64, (n_params,)."""
        theta = self.start().double()
        if step:
            theta += self.combine(np.ones(step)[:, None]).rows[0]
        return theta

    def positions(self) -> Tensor:
        """theta_0 .. theta_T, (n_steps + 1, n_params) float64; one block of rows is held beside them."""
        thetas = torch.empty(self.n_steps + 1, self.space.n_params, dtype=torch.float64)
        thetas[0] = self.start()
        step = 0
        for number in range(self.n_blocks):
            for row in self.block(number):
                torch.add(thetas[step], row, out=thetas[step + 1])
                step += 1
        return thetas

    def combine(self, weights: np.ndarray | StepBasis) -> Vectors:
        """Directions sum_t weights[t, j] u_(t+1) for weights (n, n_vectors), n <= n_steps, or those of a basis."""
        if isinstance(weights, StepBasis):
            self.space.require(weights.space, "the recording and a basis")
            weights = weights.weights
        if len(weights) > self.n_steps:
            raise InputError(f"{len(weights)} updates of a recording with {self.n_steps} steps.")
        matrix = torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float64))
        total = torch.zeros(matrix.shape[1], self.space.n_params, dtype=torch.float64)
        for number in range(self.n_blocks):
            start = number * self._rows_per_file
            part = matrix[start : start + self._rows_per_file]
            if len(part):
                total += part.T @ self.block(number)[: len(part)].double()
        return Vectors(total, self.space)

    def gram(self) -> TrajectoryGram:
        """All inner products of updates, in float64: every file is read once, a range of parameters at a time."""
        gram = torch.zeros(self.n_steps, self.n_steps, dtype=torch.float64)
        width = max(1, MOST_BYTES_HELD // (8 * max(1, self.n_steps)))
        for start in range(0, self.space.n_params if self.n_steps else 0, width):
            part = slice(start, start + width)
            rows = torch.cat([self._columns(number, part) for number in range(self.n_blocks)]).double()
            gram += rows @ rows.T
        return TrajectoryGram(gram.numpy(), self.space)

    def coefficients(self, basis: Basis) -> Coefficients:
        """U^T u_t for every step."""
        self.space.require(basis.space, f"the recording and basis {basis.label!r}")
        parts = [basis.columns.T @ self.block(number).double().T for number in range(self.n_blocks)]
        return Coefficients(torch.cat(parts, dim=1).numpy(), self.space)

    def _columns(self, number: int, part: slice) -> Tensor:
        with safe_open(self.folder / f"rows-{number:05d}.safetensors", framework="pt") as stored:
            rows: Tensor = stored.get_slice("rows")[:, part]
        return rows


@dataclass(frozen=True)
class StepBasis:
    """An orthonormal basis made of a trajectory's updates: column j is sum_t weights[t, j] u_(t+1).

    Attributes:
        weights: W, (n_steps, rank) float64, with W^T G W = 1 for the Gram matrix G of its space.
    """

    weights: np.ndarray
    space: Space

    @property
    def rank(self) -> int:
        """Number of columns."""
        return int(self.weights.shape[1])


@dataclass(frozen=True)
class Coefficients:
    """What any orthonormal basis U holds of every update.

    Attributes:
        values: U^T u_t, (rank, n_steps) float64.
    """

    values: np.ndarray
    space: Space

    @property
    def rank(self) -> int:
        """Number of columns of U."""
        return len(self.values)

    def leading(self, rank: int) -> Coefficients:
        """Those of the first `rank` columns."""
        return Coefficients(self.values[:rank], self.space)


@dataclass(frozen=True)
class TrajectoryGram:
    """Geometry of a trajectory in terms of weights over its steps.

    A vector is w (n_steps,), meaning sum_t w_t u_(t+1), in whatever space.

    Attributes:
        gram: G, (n_steps, n_steps) float64.
        space: where the updates live whose inner products these are.

    Raises:
        SpaceMismatchError: from every method that is given a basis or coefficients of another space.
    """

    gram: np.ndarray
    space: Space

    @property
    def n_steps(self) -> int:
        """Number of updates."""
        return len(self.gram)

    def displacement(self, first: int, last: int) -> np.ndarray:
        """Weights of u_first + .. + u_last (1-based, inclusive; empty if last < first)."""
        weights = np.zeros(self.n_steps)
        weights[first - 1 : last] = 1.0
        return weights

    def squared_norm(self, weights: np.ndarray) -> float:
        """|sum_t w_t u_t|^2."""
        return float(weights @ self.gram @ weights)

    def prefix(self, rank: int) -> StepBasis:
        """Basis of span(u_1 .. u_rank)."""
        return self.span(range(1, rank + 1))

    def span(self, steps: Sequence[int]) -> StepBasis:
        """Basis of the span of the updates at 1-based `steps`; dependent directions are left out."""
        index = np.asarray(steps) - 1
        if len(index) == 0 or index.min() < 0 or index.max() >= self.n_steps:
            raise InputError(f"steps {list(steps)[:5]}.. of a recording with {self.n_steps} steps.")
        return self._whitened(index, len(index))

    def top(self, rank: int, until: int) -> StepBasis:
        """Top right singular vectors of the uncentred rows u_1 .. u_until (`trajectory_top`)."""
        return self._whitened(np.arange(until), rank)

    def coefficients(self, basis: StepBasis) -> Coefficients:
        """U^T u_t for every step, of a basis made of updates."""
        self._require(basis)
        return Coefficients(basis.weights.T @ self.gram, self.space)

    def capture(self, basis: StepBasis | Coefficients, weights: np.ndarray) -> float:
        """Fraction of the vector's squared norm inside the basis; nan for a zero vector.

        Args:
            basis: one made of updates, or the coefficients of any other (`Trajectory.coefficients`).
            weights: the vector, (n_steps,).
        """
        self._require(basis)
        total = self.squared_norm(weights)
        inside = basis.values @ weights if isinstance(basis, Coefficients) else basis.weights.T @ (self.gram @ weights)
        return float(np.square(inside).sum()) / total if total > 0 else float("nan")

    def overlap(self, first: StepBasis | Coefficients, second: StepBasis) -> float:
        """|U^T V|_F^2 / k of two bases, k the smaller rank; the first may be given by its coefficients."""
        self._require(first)
        self._require(second)
        rows = first.values if isinstance(first, Coefficients) else first.weights.T @ self.gram
        return float(np.square(rows @ second.weights).sum() / min(first.rank, second.rank))

    def _require(self, basis: StepBasis | Coefficients) -> None:
        self.space.require(basis.space, "the Gram matrix and a basis")

    def _whitened(self, index: np.ndarray, rank: int) -> StepBasis:
        values, vectors = np.linalg.eigh(self.gram[np.ix_(index, index)])
        keep = np.flatnonzero(values > DEPENDENCE_TOLERANCE * max(values[-1], 0.0))[::-1][:rank]
        if len(keep) == 0:
            raise InputError("the updates asked for are all zero; they span nothing.")
        weights = np.zeros((self.n_steps, len(keep)))
        weights[index] = vectors[:, keep] / np.sqrt(values[keep])
        return StepBasis(weights, self.space)
