"""A recording from checkpoints that a training left behind: PEFT adapters or whole models, one folder per step.

Folders are named by their step, as in `checkpoint-500`; the number at the end of the name counts. A row is then the
update between two checkpoints. The last one may be off the grid of the others: a training saves its end wherever it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.files.tensors import load_tensors
from lineament.parameters import ParameterSpace
from lineament.problems.factor_pairs import FACTOR
from lineament.problems.stored_adapters import StoredAdapter, read_adapter, renamed
from lineament.vectors.recording.optimizer import RecordedOptimizer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.stated_optimizer import StatedOptimizer
from lineament.vectors.recording.writer import Recorder

STEP = re.compile(r"(\d+)$")
# A day at the end of a name, with or without a time: no number of steps.
DATE = re.compile(
    r"(?<!\d)(19|20)\d\d([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])"
    r"([-_T.]?([01]\d|2[0-3])[-_.h]?[0-5]\d([-_.m]?[0-5]\d)?s?)?$"
)
ADAPTER, MODEL, SHARDS = "adapter_config.json", "model.safetensors", "model.safetensors.index.json"
MAX_STEPS_SHOWN = 5
# Name that PEFT gives an adapter unless it is told another.
DEFAULT = "default"


class Place(NamedTuple):
    """Where one saved point lies.

    Attributes:
        adapter: name of the adapter, which is the name of its folder inside the checkpoint's unless it is `default`.
    """

    step: int
    folder: Path
    adapter: str = DEFAULT


@dataclass(frozen=True)
class Checkpoint:
    """One saved point: named tensors in the order of a parameter space, and for adapters the scale of each module."""

    step: int
    folder: Path
    tensors: Mapping[str, Tensor]
    scales: Mapping[str, float]
    adapter: str = DEFAULT


class _Stored(nn.Module):
    """Tensors that stand where a model's parameters would, so that a space can be made of them without the model."""

    def __init__(self, point: Checkpoint) -> None:
        super().__init__()
        self._named = {name: nn.Parameter(value.clone(), requires_grad=True) for name, value in point.tensors.items()}
        self._owners = {name: _Scaled({point.adapter: scale}) for name, scale in point.scales.items()}
        for name, parameter in self._named.items():
            if found := FACTOR.fullmatch(name):
                self._owners[found["module"]].hold(found["factor"], found["adapter"], parameter)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the tensors by their names in the model."""
        return iter(self._named.items())

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Yield the adapted modules, of which only the scale is known."""
        return iter(self._owners.items())


class _Scaled(nn.Module):
    """What is known of an adapted module: its scale and factors, as PEFT's layers name them."""

    def __init__(self, scaling: dict[str, float]) -> None:
        super().__init__()
        self.scaling = scaling
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()

    def hold(self, factor: str, adapter: str, weight: nn.Parameter) -> None:
        holder = nn.Module()
        holder.weight = weight
        (self.lora_A if factor == "A" else self.lora_B)[adapter] = holder


def record_checkpoints(
    folder: Path,
    out: Path,
    *,
    start: Path | None = None,
    allow_gaps: bool = False,
    adapter: str | None = None,
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
        adapter: name of the adapter, where checkpoints hold several; PEFT saves it in a folder of that name.
        optimizer: the one of the training, from which the blind run follows; checkpoints do not tell it.

    Raises:
        InputError: fewer than two points, steps that are missing from an even spacing, checkpoints of another shape
            than the first, an adapter of a kind that is not supported, or an `out` that is not empty.
    """
    places = _places(folder, start, allow_gaps, adapter)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give another folder for the recording.")
    stated = optimizer or StatedOptimizer()
    stated.check_optimizer()
    first = read_checkpoint(*places[0])
    n_rows = len(places) - 1
    for number, place in enumerate(places[1:], start=1):  # before a row is written
        progress("looking at checkpoints", number - 1, 2 * n_rows)
        _require_same(first, place)
    space = _space_of(first)
    recorder = Recorder(
        space,
        out,
        dtype=dtype,
        first_step=first.step,
        about={"task": folder.resolve().name},
        optimizer=RecordedOptimizer.stated(stated, space.n_params, first.step, places[-1].step - first.step),
    )
    for number, place in enumerate(places[1:], start=1):
        progress("reading checkpoints", n_rows + number - 1, 2 * n_rows)
        tensors = read_checkpoint(*place).tensors
        space.write(space.flatten([tensors[name].to(p.dtype) for name, p in _named(space)]))
        recorder.append(n_steps=place.step - recorder.step)
    return recorder.close()


def _places(folder: Path, start: Path | None, allow_gaps: bool, adapter: str | None) -> list[Place]:
    """List every point, the start among them, or refuse what makes no recording."""
    places = find_checkpoints(folder, adapter)
    if start is not None:
        first = _place(0, start, adapter or places[0].adapter) or Place(0, start, places[0].adapter)
        places = [first, *(place for place in places if place.step > 0)]
    if len(places) < 2:
        raise InputError(f"{folder} holds {len(places)} checkpoint(s); at least 2 points are needed (see --start).")
    if not allow_gaps:
        _require_even([place.step for place in places], folder)
    return places


def find_checkpoints(folder: Path, adapter: str | None = None) -> list[Place]:
    """List every checkpoint below a folder, by step.

    Args:
        adapter: name of the adapter that is looked for; None for the only one of each checkpoint.

    Raises:
        InputError: no such folder, no checkpoint in it, two of one step, several adapters of which none is named, or a
            checkpoint that is named by a date.
    """
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist.")
    checkpoints: dict[int, Place] = {}
    for path in sorted(folder.iterdir()):
        named = STEP.search(path.name)
        place = _place(int(named[1]), path, adapter) if named and path.is_dir() else None
        if place is None:
            continue
        if DATE.search(path.name):
            raise InputError(
                f"{path} is a checkpoint whose name ends in a date, not in a step. Name it by its step, as in "
                "checkpoint-500, or move it elsewhere."
            )
        if place.step in checkpoints:
            other = checkpoints[place.step].folder.relative_to(folder).parts[0]
            raise InputError(f"{other} and {path.name} are both of step {place.step}; keep one.")
        checkpoints[place.step] = place
    if not checkpoints:
        what = f"{ADAPTER}, {MODEL} or {SHARDS}" if adapter is None else f"an adapter {adapter!r}"
        raise InputError(
            f"{folder} holds no checkpoint: no folder named by its step (checkpoint-500) with {what}. Pickled weights "
            "are not loaded; save with safetensors."
        )
    return [checkpoints[step] for step in sorted(checkpoints)]


def _place(step: int, path: Path, adapter: str | None) -> Place | None:
    """Return where a checkpoint keeps its tensors; None if the folder is no checkpoint.

    PEFT saves an adapter named `default` in the folder itself and any other in a folder of its name.
    """
    if adapter in (None, DEFAULT) and any((path / name).exists() for name in (ADAPTER, MODEL, SHARDS)):
        return Place(step, path)
    named = sorted(inside.parent.name for inside in path.glob(f"*/{ADAPTER}"))
    chosen = [name for name in named if adapter in (None, name)]
    if len(chosen) > 1:
        raise InputError(f"{path} holds the adapters {', '.join(chosen)}; name one of them with --adapter.")
    return Place(step, path / chosen[0], chosen[0]) if chosen else None


def read_checkpoint(step: int, folder: Path, adapter: str = DEFAULT) -> Checkpoint:
    """Read the tensors of one checkpoint.

    Args:
        adapter: name that its factors have in the model.

    Raises:
        InputError: files are missing or torn, or an adapter of a kind that is not supported.
    """
    if (folder / ADAPTER).exists():
        stored: StoredAdapter = read_adapter(folder)
        names = [renamed(name, adapter) for name in stored.names]
        return Checkpoint(step, folder, dict(zip(names, stored.tensors, strict=True)), stored.scales, adapter)
    return Checkpoint(step, folder, _model_tensors(folder), {})


def _model_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the floating-point tensors of a whole model, in the order of their files and names."""
    files = [MODEL]
    if (folder / SHARDS).exists():
        files = _shards(folder / SHARDS)
    tensors: dict[str, Tensor] = {}
    for name in files:
        tensors |= dict(sorted(load_tensors(folder / name).items()))
    return {name: value for name, value in tensors.items() if value.is_floating_point()}


def _shards(index: Path) -> list[str]:
    """Return the names of the files that a sharded model's index lists."""
    body = read_json(index)
    names = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} is no index of a sharded model: it needs weight_map, which maps names to files.")
    return sorted(set(names.values()))


def _space_of(first: Checkpoint) -> ParameterSpace:
    kind: Any = "lora_factors" if first.scales else "full"
    return ParameterSpace(_Stored(first), list(first.tensors), kind)


def _named(space: ParameterSpace) -> Iterator[tuple[str, nn.Parameter]]:
    return zip(space.names, space.tensors, strict=True)


def _require_same(first: Checkpoint, place: Place) -> None:
    """Refuse other names, shapes or scales: vectors of another layout or scale cannot be compared."""
    other, folder = read_checkpoint(*place), place.folder
    shapes = [{name: tuple(value.shape) for name, value in c.tensors.items()} for c in (first, other)]
    if shapes[0] != shapes[1]:
        names = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise InputError(f"{folder} is of another shape than {first.folder}: {names[0][0]} differs.")
    if first.scales != other.scales:
        raise InputError(f"{folder} has other LoRA scales than {first.folder}; give checkpoints of one training.")


def _require_even(steps: Sequence[int], folder: Path) -> None:
    """Refuse points that are not equally far apart; the last may be nearer, where a training ended off its grid."""
    distances = [b - a for a, b in pairwise(steps)]
    whole = distances[:-1] if len(distances) > 2 and distances[-1] < distances[0] else distances
    spacing = min(whole)
    if len(set(whole)) == 1:
        return
    judged = list(pairwise(steps[: len(whole) + 1]))
    missing = list(islice((step for a, b in judged for step in range(a + spacing, b, spacing)), MAX_STEPS_SHOWN))
    odd = [b for a, b in judged if (b - a) % spacing][:MAX_STEPS_SHOWN]
    shown = ", ".join(map(str, odd or missing))
    what = "between the others" if odd else "missing"
    raise InputError(
        f"the checkpoints of {folder} are not equally far apart: at a spacing of {spacing} steps, {shown} "
        f"{'are' if len(odd or missing) > 1 else 'is'} {what}. Add them, remove the others, or use --allow-gaps, "
        "which gives captures but no half-life."
    )
