"""Recording a training run and answering questions about it from its step-by-step Gram matrix.

The recorder appends one flat row u_t = theta_t - theta_(t-1) per step. One blocked pass makes the Gram matrix
(n_steps, n_steps) in float64; a direction built from updates is then a column of weights over steps, and every capture,
overlap and drift query is small algebra that never goes back to n_params dimensions.
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
INDEX = "index.json"


class Recorder:
    """Appends one update row per optimizer step to a folder, a file per 50 rows.

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
        self._rows = torch.empty(ROWS_PER_FILE, space.n_params, dtype=dtype)
        self._previous = space.read().cpu()
        write_bytes(folder / "start.safetensors", save({"theta": self._previous}))

    def append(self) -> None:
        """Record the update made since the last call (or since construction)."""
        theta = self.space.read().cpu()
        torch.sub(theta, self._previous, out=self._rows[self.n_steps % ROWS_PER_FILE])
        self._previous = theta
        self.n_steps += 1
        if self.n_steps % ROWS_PER_FILE == 0:
            self._flush(ROWS_PER_FILE)

    def close(self) -> Trajectory:
        """Write the last rows and the index; returns the recording."""
        if self.n_steps % ROWS_PER_FILE:
            self._flush(self.n_steps % ROWS_PER_FILE)
        write_json(
            self.folder / INDEX,
            {
                "schema": 1,
                "n_steps": self.n_steps,
                "rows_per_file": ROWS_PER_FILE,
                **asdict(self.space.space),
            },
        )
        return Trajectory(self.folder)

    def _flush(self, n_rows: int) -> None:
        number = (self.n_steps - 1) // ROWS_PER_FILE
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

    def combine(self, weights: np.ndarray) -> Vectors:
        """Directions sum_t weights[t, j] u_(t+1) for weights (n, n_vectors), n <= n_steps."""
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
        """All inner products of updates, in float64, block against block."""
        gram = np.zeros((self.n_steps, self.n_steps))
        for i in range(self.n_blocks):
            left = self.block(i).double()
            for j in range(i + 1):
                right = left if i == j else self.block(j).double()
                part = (left @ right.T).numpy()
                a, b = i * self._rows_per_file, j * self._rows_per_file
                gram[a : a + len(left), b : b + len(right)] = part
                gram[b : b + len(right), a : a + len(left)] = part.T
        return TrajectoryGram(gram)

    def coefficients(self, basis: Basis) -> np.ndarray:
        """U^T u_t for every step, (rank, n_steps) float64."""
        self.space.require(basis.space, f"the recording and basis {basis.label!r}")
        parts = [basis.columns.T @ self.block(number).double().T for number in range(self.n_blocks)]
        return torch.cat(parts, dim=1).numpy()


@dataclass(frozen=True)
class TrajectoryGram:
    """Geometry of a trajectory in terms of weights over its steps.

    A vector is w (n_steps,), meaning sum_t w_t u_(t+1). A basis is W (n_steps, rank) with W^T G W = 1.

    Attributes:
        gram: G, (n_steps, n_steps) float64.
    """

    gram: np.ndarray

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

    def prefix(self, rank: int) -> np.ndarray:
        """Basis of span(u_1 .. u_rank)."""
        return self.span(range(1, rank + 1))

    def span(self, steps: Sequence[int]) -> np.ndarray:
        """Basis of the span of the updates at 1-based `steps`; dependent directions are left out."""
        index = np.asarray(steps) - 1
        if len(index) == 0 or index.min() < 0 or index.max() >= self.n_steps:
            raise InputError(f"steps {list(steps)[:5]}.. of a recording with {self.n_steps} steps.")
        return self._whitened(index, len(index))

    def top(self, rank: int, until: int) -> np.ndarray:
        """Top right singular vectors of the uncentred rows u_1 .. u_until (`trajectory_top`)."""
        return self._whitened(np.arange(until), rank)

    def capture(self, basis: np.ndarray, weights: np.ndarray) -> float:
        """Fraction of the vector's squared norm inside the basis; nan for a zero vector."""
        total = self.squared_norm(weights)
        inside = float(np.square(basis.T @ (self.gram @ weights)).sum())
        return inside / total if total > 0 else float("nan")

    def capture_outside(self, coefficients: np.ndarray, weights: np.ndarray) -> float:
        """The same for a basis given by its `coefficients` U^T u_t (rank, n_steps)."""
        total = self.squared_norm(weights)
        return float(np.square(coefficients @ weights).sum()) / total if total > 0 else float("nan")

    def overlap(self, first: np.ndarray, second: np.ndarray) -> float:
        """|U^T V|_F^2 / k of two bases, k the smaller rank."""
        inner = first.T @ self.gram @ second
        return float(np.square(inner).sum() / min(inner.shape))

    def _whitened(self, index: np.ndarray, rank: int) -> np.ndarray:
        values, vectors = np.linalg.eigh(self.gram[np.ix_(index, index)])
        keep = np.flatnonzero(values > DEPENDENCE_TOLERANCE * max(values[-1], 0.0))[::-1][:rank]
        if len(keep) == 0:
            raise InputError("the updates asked for are all zero; they span nothing.")
        basis = np.zeros((self.n_steps, len(keep)))
        basis[index] = vectors[:, keep] / np.sqrt(values[keep])
        return basis
