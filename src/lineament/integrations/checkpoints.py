"""A recording from checkpoints that a training left behind: PEFT adapters or whole models, one folder per step.

Folders are named by their step, as in `checkpoint-500`; the number at the end of the name counts. A row is then the
update between two checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.stored_adapters import StoredAdapter, read_adapter
from lineament.records import read_json
from lineament.vectors.recording.optimizer import RecordedOptimizer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.stated_optimizer import StatedOptimizer
from lineament.vectors.recording.writer import Recorder

STEP = re.compile(r"(\d+)$")
ADAPTER, MODEL, SHARDS = "adapter_config.json", "model.safetensors", "model.safetensors.index.json"
MAX_STEPS_SHOWN = 5


@dataclass(frozen=True)
class Checkpoint:
    """One saved point: named tensors in the order of a parameter space, and for adapters the scale of each module."""

    step: int
    folder: Path
    tensors: Mapping[str, Tensor]
    scales: Mapping[str, float]


class _Stored(nn.Module):
    """Tensors that stand where a model's parameters would, so that a space can be made of them without the model."""

    def __init__(self, tensors: Mapping[str, Tensor], scales: Mapping[str, float]) -> None:
        super().__init__()
        self._named = {name: nn.Parameter(value.clone(), requires_grad=True) for name, value in tensors.items()}
        self._owners = {name: _Scaled(scale) for name, scale in scales.items()}

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the tensors by their names in the model."""
        return iter(self._named.items())

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield the adapted modules, of which only the scale is known."""
        return iter(self._owners.items())


class _Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scaling = {"default": scale}


def record_checkpoints(
    folder: Path,
    out: Path,
    *,
    start: Path | None = None,
    allow_gaps: bool = False,
    dtype: torch.dtype = torch.float32,
    optimizer: StatedOptimizer | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Trajectory:
    """Write a recording whose rows are the updates between successive checkpoints.

    Args:
        folder: holds the checkpoints, one folder each.
        out: the recording.
        start: folder of the point before the first step, such as an adapter's saved step-0 factors.
        allow_gaps: take checkpoints that are not equally many steps apart.
        optimizer: the one of the training, from which the blind run follows; checkpoints do not tell it.

    Raises:
        InputError: fewer than two points, steps that are missing from an even spacing, checkpoints of another shape
            than the first, an adapter of a kind that is not supported, or an `out` that is not empty.
    """
    places = _places(folder, start, allow_gaps)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give another folder for the recording.")
    stated = optimizer or StatedOptimizer()
    stated.check_optimizer()
    first = read_checkpoint(*places[0])
    for step, place in places[1:]:  # before a row is written
        _require_same(first, step, place)
    space = _space_of(first)
    recorder = Recorder(
        space,
        out,
        dtype=dtype,
        first_step=first.step,
        about={"task": folder.resolve().name},
        optimizer=RecordedOptimizer.stated(stated, space.n_params, first.step, places[-1][0] - first.step),
    )
    for number, (step, place) in enumerate(places[1:], start=1):
        progress("reading checkpoints", number, len(places) - 1)
        tensors = read_checkpoint(step, place).tensors
        space.write(space.flatten([tensors[name].to(p.dtype) for name, p in _named(space)]))
        recorder.append(n_steps=step - recorder.step)
    return recorder.close()


def _places(folder: Path, start: Path | None, allow_gaps: bool) -> list[tuple[int, Path]]:
    """List (step, folder) of every point, the start among them, or refuse what makes no recording."""
    places = find_checkpoints(folder)
    if start is not None:
        places = [(0, start), *(place for place in places if place[0] > 0)]
    if len(places) < 2:
        raise InputError(f"{folder} holds {len(places)} checkpoint(s); at least 2 points are needed (see --start).")
    if not allow_gaps:
        _require_even([step for step, _ in places], folder)
    return places


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of every checkpoint below a folder, by step.

    Raises:
        InputError: no such folder, no checkpoint in it, or two of one step.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist.")
    checkpoints: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        named = STEP.search(path.name)
        if path.is_dir() and named and any((path / name).exists() for name in (ADAPTER, MODEL, SHARDS)):
            step = int(named[1])
            if step in checkpoints:
                raise InputError(f"{checkpoints[step].name} and {path.name} are both of step {step}; keep one.")
            checkpoints[step] = path
    if not checkpoints:
        raise InputError(
            f"{folder} holds no checkpoint: no folder named by its step (checkpoint-500) with {ADAPTER}, {MODEL} or "
            f"{SHARDS}. Pickled weights are not loaded; save with safetensors."
        )
    return sorted(checkpoints.items())


def read_checkpoint(step: int, folder: Path) -> Checkpoint:
    """Read the tensors of one checkpoint.

    Raises:
        InputError: files are missing or torn, or an adapter of a kind that is not supported.
    """
    if (folder / ADAPTER).exists():
        stored: StoredAdapter = read_adapter(folder)
        return Checkpoint(step, folder, dict(zip(stored.names, stored.tensors, strict=True)), stored.scales)
    return Checkpoint(step, folder, _model_tensors(folder), {})


def _model_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the floating-point tensors of a whole model, in the order of their files and names."""
    files = [MODEL]
    if (folder / SHARDS).exists():
        files = sorted(set(read_json(folder / SHARDS)["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            with ExitStack() as stack:
                stored = stack.enter_context(safe_open(folder / name, framework="pt"))
                tensors |= {key: stored.get_tensor(key) for key in sorted(stored.keys())}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder / name} cannot be read: {error}.") from None
    return {name: value for name, value in tensors.items() if value.is_floating_point()}


def _space_of(first: Checkpoint) -> ParameterSpace:
    kind: Any = "lora_factors" if first.scales else "full"
    return ParameterSpace(_Stored(first.tensors, first.scales), list(first.tensors), kind)


def _named(space: ParameterSpace) -> Iterator[tuple[str, nn.Parameter]]:
    return zip(space.names, space.tensors, strict=True)


def _require_same(first: Checkpoint, step: int, folder: Path) -> None:
    """Refuse other names, shapes or scales: vectors of another layout or scale cannot be compared."""
    other = read_checkpoint(step, folder)
    shapes = [{name: tuple(value.shape) for name, value in c.tensors.items()} for c in (first, other)]
    if shapes[0] != shapes[1]:
        names = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise InputError(f"{folder} is of another shape than {first.folder}: {names[0][0]} differs.")
    if first.scales != other.scales:
        raise InputError(f"{folder} has other LoRA scales than {first.folder}; give checkpoints of one training.")


def _require_even(steps: Sequence[int], folder: Path) -> None:
    spacing = min(b - a for a, b in pairwise(steps))
    wanted = range(steps[0], steps[-1] + 1, spacing)
    missing = sorted(set(wanted) - set(steps))
    odd = sorted(set(steps) - set(wanted))
    if missing or odd:
        shown = ", ".join(map(str, (missing or odd)[:MAX_STEPS_SHOWN]))
        what = "missing" if missing else "between the others"
        raise InputError(
            f"the checkpoints of {folder} are not equally far apart: at a spacing of {spacing} steps, {shown} "
            f"{'are' if len(missing or odd) > 1 else 'is'} {what}. Add them, remove the others, or use --allow-gaps, "
            "which gives captures but no half-life."
        )
