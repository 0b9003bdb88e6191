"""A stand-in for a GPU on machines without one: tensors that say they are on `cuda:0`, with their numbers on the CPU.

Like a GPU it refuses to mix devices, to take a generator of the CPU and to give numpy its memory. Unlike one it
computes with the CPU's kernels, so that what runs on it must give the CPU's numbers, up to rounding: torch chooses some
ways of computing by the device. Whenever Python asks for a number, so that a GPU would have to catch up, the line that
asked is counted.

To torch's core a tensor of the device is a `meta` tensor, the one kind without a backend that every machine has (as
torch's own fake tensors are): what the core makes by itself, such as a zero tangent, then comes to the stand-in too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}


class OnDevice(Tensor):
    """A tensor of the device; `held` is a tensor of the CPU with its numbers."""

    held: Tensor
    # "file: function" of the package -> times that it asked for a number
    waits: ClassVar[Counter[str]] = Counter()

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            held.stride(),
            held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
            requires_grad=held.requires_grad,
        )
        return made

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return OnDevice(self.held.data)

    @data.setter
    def data(self, new: OnDevice) -> None:
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.held = new.held

    def tolist(self) -> Any:
        OnDevice.waits[asking()] += 1
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Makes what is asked for on the device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(function, args, kwargs or {})


def asking() -> str:
    """The place in the package that is at work."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        _, package, file = frame.f_code.co_filename.partition("/src/lineament/")
        if package:
            return f"{file}: {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside"


def carried_out(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do on the CPU what a GPU would do, or refuse what it would refuse."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
    if on_device and elsewhere and function not in MOVES:
        raise RuntimeError(f"{function} mixes devices: {on_device} and {[tuple(tensor.shape) for tensor in elsewhere]}")
    named = kwargs.get("device")
    stays = bool(on_device) if named is None else torch.device(named).type in ("cuda", "meta")
    if function is aten.copy_.default:
        stays = isinstance(args[0], OnDevice)
    if stays and kwargs.get("generator") is not None:
        raise RuntimeError(f"{function} takes a generator of the CPU for a tensor on {DEVICE}")
    if function is aten._local_scalar_dense.default and on_device:
        OnDevice.waits[asking()] += 1
    if function is aten._efficientzerotensor.default:  # a zero tangent without memory
        function = aten.zeros.default
    if named is not None:
        kwargs = {**kwargs, "device": torch.device("cpu") if stays else named}
    made = function(*tree_map(of_cpu, args), **tree_map(of_cpu, kwargs))
    if not stays:
        return made
    same = {id(tensor.held): tensor for tensor in on_device}  # what works in place gives back what it was given
    return tree_map(lambda x: same.get(id(x), OnDevice(x)) if id(x) in same or is_plain(x) else x, made)


def of_cpu(value: Any) -> Any:
    """What a value holds."""
    return value.held if isinstance(value, OnDevice) else value


def is_plain(value: Any) -> bool:
    """Whether it is a tensor of the CPU."""
    return isinstance(value, Tensor) and not isinstance(value, OnDevice)


@contextmanager
def stand_in_device(patch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Inside the block there is a device; yields how often a GPU would have had to wait, by place."""
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    patch.setattr(torch.cuda, "_lazy_init", nothing)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    for module in ("synthetic", "language_model"):  # without a number, torch would ask a driver which device it is
        patch.setattr(f"lineament.problems.{module}.chosen_device", lambda name: DEVICE)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor(.., device=..) is a copy that can be seen
    torch.__future__.set_swap_module_params_on_conversion(True)
    OnDevice.waits.clear()
    try:
        with StandIn():
            yield OnDevice.waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(False)
