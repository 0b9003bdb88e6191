"""Recording a training run: flat rows u_t = theta_t - theta_(t-1), one per optimizer step or one per `every` steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from lineament.errors import InputError, NonFiniteError
from lineament.files.folders import is_unused
from lineament.files.writing import write_bytes
from lineament.parameters import ParameterSpace
from lineament.vectors.recording.index import INDEX, RecordingIndex, check_about, scales_of
from lineament.vectors.recording.optimizer import RecordedOptimizer
from lineament.vectors.recording.reader import GRADIENTS, START, Trajectory
from lineament.vectors.recording.rows import DTYPES, RowWriter, delete_rows
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.watch import OptimizerWatch

ROWS_PER_FILE = 50
# Maximum bytes of rows that a recorder holds before it writes them; a single row is always allowed.
MAX_BYTES_BUFFERED = 64 * 2**20
# A recording may be continued from a model that is this near to its position, relative to |theta - theta_0|.
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 1e-2}
# Nearer than this, the difference is rounding, and rows go on from the model's own theta as if never interrupted.
ROUNDING = 1e-5


class Recorder:
    """Appends update rows to a folder while a model is trained, by whatever loop.

    Args:
        space: the measured parameters; theta at construction is the start of the trajectory.
        folder: where rows go; new, empty, or a recording without a row.
        dtype: float32, float64 for models in double precision, or bfloat16 for half the disk. bfloat16 rows carry on
            what their rounding left out, so that theta_0 + u_1 + .. + u_t stays within one rounding of u_t of theta_t.
        every: a row is taken at every so many calls of `append`.
        gradients: store one gradient row for each update row too (`take_gradient`).
        sketch: store S u_t instead of u_t (`Sketch`): small, but positions cannot be told from it.
        about: what to keep with the recording, such as {"task": "words"}.
        first_step: global number of optimizer steps made before.
        optimizer: the one that trains. Its rule is kept with the recording and, by a hook, its step size at every step,
            whatever schedule changes it: from these the blind run follows, beside which every figure stands.

    Use: `recorder = Recorder(space, folder)`; after every optimizer step `recorder.append()`; `recorder.close()`. A
    recording that was cut short is readable up to its last flush (a file of at most 50 rows or 64 MiB), and
    `Recorder.resume` goes on with it.

    Raises:
        InputError: from the constructor for a folder with a recording or other files, or arguments that do not fit.
    """

    def __init__(
        self,
        space: ParameterSpace,
        folder: Path | str,
        dtype: torch.dtype = torch.float32,
        every: int = 1,
        gradients: bool = False,
        sketch: Sketch | None = None,
        about: Mapping[str, str | float | int] | None = None,
        *,
        first_step: int = 0,
        optimizer: torch.optim.Optimizer | RecordedOptimizer | None = None,
    ) -> None:
        folder = Path(folder)
        _check(space, dtype, every, sketch, first_step)
        _check_unused(folder)
        index = RecordingIndex(
            space=space.space,
            rows_per_file=1,
            dtype=dtype,
            first_step=first_step,
            every=every,
            tensors=_tensors(space),
            scales=scales_of(space),
            model=type(space.module).__name__,
            gradients=gradients,
            sketch=sketch,
            about=check_about(about or {}),
        )
        row_bytes = index.width * dtype.itemsize * (2 if gradients else 1)
        rows_per_file = max(1, min(ROWS_PER_FILE, MAX_BYTES_BUFFERED // row_bytes))
        theta = space.read().cpu()
        index = index.with_rows_per_file(rows_per_file)
        index.write(folder)  # first of all, since it marks the folder as a recording
        write_bytes(folder / START, save({"theta": theta}))
        self._open(space, folder, index, theta, optimizer)

    @classmethod
    def resume(
        cls,
        space: ParameterSpace,
        folder: Path | str,
        at_step: int,
        *,
        dtype: torch.dtype | None = None,
        every: int | None = None,
        gradients: bool | None = None,
        sketch: Sketch | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Recorder:
        """Go on with a recording, closed or not, at global step `at_step`; rows after it are dropped.

        Args:
            space: the model as it was at `at_step`, such as loaded from a checkpoint.
            optimizer: the one that trains, with the state that it had.
            dtype, every, gradients, sketch: None for what the recording has; others must be equal to that.

        Raises:
            InputError: no row ends at `at_step`; the recording has another dtype, `every`, .. than asked for; or theta
                is not where the recording was at that step, relative to |theta - theta_0|: it is of another run.
            SpaceMismatchError: the model has other parameters than the recording.
        """
        folder = Path(folder)
        trajectory = Trajectory(folder)
        index = trajectory.index
        space.space.require(index.space, f"the model and the recording {folder}")
        _check_equal(folder, index, {"dtype": dtype, "every": every, "gradients": gradients, "sketch": sketch})
        n_rows = index.rows_at(at_step, folder)
        previous = _agreed_position(space, trajectory, n_rows)
        recorder = cls.__new__(cls)
        named = index if index.tensors else index.with_names(_tensors(space), scales_of(space))
        recorder._open(space, folder, named.with_rows(index.steps[:n_rows], closed=False), previous, optimizer)
        return recorder

    def _open(
        self,
        space: ParameterSpace,
        folder: Path,
        index: RecordingIndex,
        previous: Tensor,
        optimizer: torch.optim.Optimizer | RecordedOptimizer | None,
    ) -> None:
        self.space, self.folder, self.index = space, folder, index
        self._calls = index.steps[-1] if index.steps else 0
        self._watch = OptimizerWatch(optimizer, space, index.optimizer, self._calls)
        # The index goes first: where this is cut short, it counts no row that is about to be dropped.
        index.write(folder)
        n_rows, per_file = len(index.steps), index.rows_per_file
        self._rows = RowWriter(folder, index.width, index.dtype, per_file, n_rows)
        self._gradients = (
            RowWriter(folder / GRADIENTS, index.width, index.dtype, per_file, n_rows) if index.gradients else None
        )
        self._gradient_taken = False
        # theta of the last row; for rows with error feedback the sum of rows, in which no rounding gets lost.
        self._previous = previous.to(self._precision())
        self._whole_row = torch.empty(space.n_params, dtype=index.dtype) if index.sketch else None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the rows."""
        return self.index.dtype

    @property
    def n_steps(self) -> int:
        """Rows recorded."""
        return len(self.index.steps)

    @property
    def step(self) -> int:
        """Global number of optimizer steps so far."""
        return self.index.first_step + self._calls

    def take_gradient(self) -> None:
        """Remember the parameters' `.grad` for the row that the next `append` takes; call before the optimizer step.

        Parameters without a gradient count as zeros. What scales gradients (mixed precision) must be undone before.
        """
        if self._gradients is None:
            raise InputError("this recorder stores no gradients; make it with gradients=True.")
        if (self._calls + 1) % self.index.every == 0:
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.space.tensors]
            self._put_gradient(self._flat(parts))

    def append(self, gradient: Float[Tensor, " n_params"] | None = None, n_steps: int = 1) -> None:
        """Count one optimizer step, or `n_steps` of them; a row is taken where that makes a multiple of `every`.

        Args:
            gradient: (n_params,), the loss's gradient that the step was made with; None after `take_gradient`, or
                where no gradients are stored.

        Raises:
            NonFiniteError: the update or gradient holds NaN or infinite values. What was recorded before is on disk.
            InputError: a gradient is missing, or was given and none are stored.
        """
        if self.index.closed:
            raise InputError(f"the recording in {self.folder} was closed; Recorder.resume goes on with it.")
        if gradient is not None and self._gradients is None:
            raise InputError("this recorder stores no gradients; make it with gradients=True.")
        due = (self._calls + n_steps) % self.index.every == 0
        if due and gradient is not None:
            self._put_gradient([(slice(0, self.space.n_params), gradient.detach().cpu())])
        if due and self._gradients is not None and not self._gradient_taken:
            raise InputError("no gradient for this row: give append() one, or call take_gradient() before the step.")
        self._calls += n_steps
        self._watch.advance(n_steps)
        if due:
            self._gradient_taken = False
            self._record()

    def flush(self) -> None:
        """Write all rows that are not on disk, and the index."""
        self.index = self.index.with_optimizer(self._watch.known())
        self._rows.flush()
        if self._gradients is not None:
            self._gradients.flush()
        self.index.write(self.folder)

    def close(self) -> Trajectory:
        """Write the last rows and the index, and mark the recording as finished; returns it."""
        self.index = self.index.with_rows(self.index.steps, closed=True)
        self.flush()
        self._watch.stop()
        return Trajectory(self.folder)

    @property
    def _feedback(self) -> bool:
        return self.index.dtype == torch.bfloat16

    def _precision(self) -> torch.dtype:
        """Return the dtype of theta at the last row: the model's own or the rows', whichever holds more."""
        held = self.index.dtype
        for parameter in self.space.tensors:
            held = torch.promote_types(held, parameter.dtype)
        return torch.float64 if self._feedback else held

    def _record(self) -> None:
        row, current = self._rows.next_row(), self._flat(self.space.tensors)
        whole = row if self._whole_row is None else self._whole_row
        for part, values in current:
            torch.sub(values, self._previous[part], out=whole[part])
        self._require_finite("update", whole)
        if self.index.sketch is not None:
            row.copy_(self.index.sketch.apply(whole))
        self._rows.commit()
        if self._gradients is not None:
            self._gradients.commit()
        self.index = self.index.with_rows((*self.index.steps, self._calls), closed=False)
        if self._feedback:
            self._previous += row  # the rounded row, not `current`: what rounding left out goes into the next row
        else:
            for part, values in current:
                self._previous[part].copy_(values)
        if self._rows.is_full:
            self.flush()

    def _put_gradient(self, parts: Sequence[tuple[slice, Tensor]]) -> None:
        assert self._gradients is not None
        row = self._gradients.next_row()
        whole = row if self._whole_row is None else self._whole_row
        for part, values in parts:
            whole[part].copy_(values)
        self._require_finite("gradient", whole)
        if self.index.sketch is not None:
            row.copy_(self.index.sketch.apply(whole))
        self._gradient_taken = True

    def _flat(self, tensors: Sequence[Tensor]) -> list[tuple[slice, Tensor]]:
        """Return (place in the flat vector, values on the CPU): views of tensors on the CPU, else one copy of all."""
        if all(t.device.type == "cpu" for t in tensors):
            return [(part, t.detach().reshape(-1)) for part, t in zip(self.space.slices, tensors, strict=True)]
        return [(slice(0, self.space.n_params), self.space.flatten([t.detach() for t in tensors]).cpu())]

    def _require_finite(self, what: str, row: Tensor) -> None:
        # A sum is quick and is finite unless an entry is not, or it overflowed: then every entry is looked at.
        if math.isfinite(float(row.sum())) or bool(torch.isfinite(row).all()):
            return
        self.flush()
        step = self.index.first_step + self._calls + (what == "gradient")
        raise NonFiniteError(
            f"the {what} of step {step} holds NaN or infinite values; the {self.n_steps} rows before it are in "
            f"{self.folder}."
        )


def _tensors(space: ParameterSpace) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(p.shape)) for name, p in zip(space.names, space.tensors, strict=True))


def _check(space: ParameterSpace, dtype: torch.dtype, every: int, sketch: Sketch | None, first_step: int) -> None:
    if dtype not in DTYPES.values():
        raise InputError(f"rows cannot be stored as {dtype}; choose one of {', '.join(DTYPES)}.")
    if every < 1 or first_step < 0:
        raise InputError(
            f"every is {every} and first_step {first_step}; every must be at least 1, first_step at least 0."
        )
    if sketch is not None and sketch.n_params != space.n_params:
        raise InputError(f"a sketch of {sketch.n_params} parameters does not fit {space.space}.")
    if sketch is not None and dtype == torch.bfloat16:
        raise InputError(
            "sketched rows cannot carry their rounding over to the next row; record them in float32 or float64."
        )


def begin_again(folder: Path) -> None:
    """Empty a recording that was cut short, so that a recorder takes its folder; files that are no rows of it stay.

    Raises:
        LineamentError: the folder holds something, but no recording that can be read.
    """
    if is_unused(folder):
        return
    RecordingIndex.read(folder).with_rows((), closed=False).write(folder)
    for place in (folder, folder / GRADIENTS):
        delete_rows(place, 0)


def _check_unused(folder: Path) -> None:
    """Raise `InputError` if the folder holds anything but a recording that was begun without a row."""
    if is_unused(folder):
        return
    if not (folder / INDEX).exists():
        raise InputError(f"{folder} is not empty and holds no recording; record into another folder.")
    index = RecordingIndex.read(folder)
    if index.closed or index.steps:
        raise InputError(
            f"{folder} already holds a recording of {len(index.steps)} rows; record into another folder, or go on "
            "with Recorder.resume."
        )


def _check_equal(folder: Path, index: RecordingIndex, asked: Mapping[str, object]) -> None:
    for name, value in asked.items():
        held = getattr(index, name)
        if value is not None and value != held:
            raise InputError(
                f"the recording in {folder} has {name} = {held}, but {name} = {value} was asked for; ask for "
                f"{held}, or record into another folder."
            )


def _agreed_position(space: ParameterSpace, trajectory: Trajectory, n_rows: int) -> Float[Tensor, " n_params"]:
    """Return theta that rows go on from: the model's, or the recording's where they differ by more than rounding."""
    theta, start, sketch = space.read().cpu(), trajectory.start().double(), trajectory.sketch
    recorded = trajectory.sum_of_rows(n_rows)
    moved = theta.double() - start
    error = float((recorded - (sketch.apply(moved) if sketch else moved)).norm())
    length, smallest = float(recorded.norm()), 1e-6 * float(start.norm())
    if not error <= AGREEMENT[trajectory.dtype] * length + smallest:
        raise InputError(
            f"the model lies {error:.3g} from where {trajectory.folder} was after {n_rows} rows (|theta - theta_0| = "
            f"{length:.3g}): the recording is of another run or step. Load the checkpoint of that step, or record into "
            "another folder."
        )
    exact = trajectory.dtype != torch.bfloat16 and error <= ROUNDING * length
    return theta if exact or sketch is not None else start + recorded
