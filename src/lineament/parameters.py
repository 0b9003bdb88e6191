"""Parameter spaces: which tensors of a model, in which order, form the measured vector theta (n_params,)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lineament.errors import InputError, SpaceMismatchError

SpaceKind = Literal["full", "lora_factors", "lora_effective"]


@dataclass(frozen=True)
class Space:
    """The identity of a vector space: two vectors may be combined only if their `Space` is equal.

    Attributes:
        kind: `full` (raw weights), `lora_factors` (A and B), or `lora_effective` (dW = scale B A).
        n_params: dimension of the space.
        layout: hash over tensor names and shapes in order, so that another model is another space.
    """

    kind: SpaceKind
    n_params: int
    layout: str

    def __str__(self) -> str:
        return f"{self.kind} of {self.n_params} parameters (layout {self.layout})"

    def require(self, other: Space, what: str = "vectors") -> None:
        """Raise `SpaceMismatchError` naming both spaces unless `other` is this space."""
        if self != other:
            raise SpaceMismatchError(
                f"{what} live in different spaces: {self} and {other}. "
                "Measure both in the same space of the same model before combining them."
            )


@dataclass(frozen=True)
class Vectors:
    """A few directions with the space they live in.

    Attributes:
        rows: (n_vectors, n_params), float32 or float64.
        space: the space of every row.
    """

    rows: Float[Tensor, "n_vectors n_params"]
    space: Space

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] != self.space.n_params:
            raise InputError(
                f"vectors of shape {tuple(self.rows.shape)} do not fit {self.space}; "
                f"give (n_vectors, {self.space.n_params})."
            )

    def __len__(self) -> int:
        return len(self.rows)


def hash_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, shapes, types and bytes, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in named:
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def layout_hash(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Hash the names and shapes of a space's tensors, in their order."""
    lines = "\n".join(f"{name}:{shape}" for name, shape in shapes)
    return hashlib.blake2b(lines.encode(), digest_size=6).hexdigest()


class ParameterSpace:
    """A view of chosen tensors of `module` as one flat vector, in the order of `names`.

    Args:
        module: the model; its tensors are read and written in place.
        names: parameter names as `module.named_parameters()` gives them; shared tensors count once.
        kind: what the vector means.

    Raises:
        InputError: no names, a name that the module lacks, or tensors that are sharded or on a meta device.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], kind: SpaceKind = "full") -> None:
        available = dict(module.named_parameters())
        missing = [name for name in names if name not in available]
        if missing or not names:
            given = f"the names {missing[:3]}, which the module lacks" if missing else "no name"
            raise InputError(
                f"a parameter space was given {given}; name parameters that it has ({len(available)} in all)."
            )
        self.module = module
        self.names = tuple(names)
        self.tensors = tuple(available[name] for name in names)
        if any(p.device.type == "meta" or type(p.data).__name__ == "DTensor" for p in self.tensors):
            raise InputError("sharded or meta parameters hold no values on this machine; gather them first.")
        sizes = [p.numel() for p in self.tensors]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.slices = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        self.space = Space(kind, sum(sizes), self._layout())

    @classmethod
    def trainable(cls, module: nn.Module, kind: SpaceKind = "full") -> ParameterSpace:
        """Take all parameters that require a gradient, in the module's own order."""
        return cls(module, [name for name, p in module.named_parameters() if p.requires_grad], kind)

    @property
    def n_params(self) -> int:
        """Dimension of the flat vector."""
        return self.space.n_params

    def read(self, dtype: torch.dtype | None = None) -> Float[Tensor, " n_params"]:
        """Copy theta, (n_params,), in `dtype` (default: the parameters' own), on their device."""
        return self.flatten([p.detach() for p in self.tensors], dtype)

    @torch.no_grad()
    def write(self, theta: Float[Tensor, " n_params"]) -> None:
        """Set the model's tensors from theta (n_params,), cast to each tensor's dtype."""
        for parameter, value in zip(self.tensors, self.unflatten(theta), strict=True):
            parameter.copy_(value)

    def flatten(self, tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Float[Tensor, " n_params"]:
        """Concatenate tensors in the order of `names` to one new vector (n_params,)."""
        flat = torch.cat([t.reshape(-1) for t in tensors])
        return flat if dtype is None else flat.to(dtype)

    def unflatten(self, theta: Float[Tensor, " n_params"]) -> list[Tensor]:
        """View theta (n_params,) as tensors of the model's shapes, in the order of `names`."""
        if theta.shape != (self.n_params,):
            raise InputError(f"a vector of shape {tuple(theta.shape)} does not fit {self.space}.")
        return [theta[part].view_as(p) for part, p in zip(self.slices, self.tensors, strict=True)]

    def gradient(self, loss: Float[Tensor, ""]) -> Float[Tensor, " n_params"]:
        """Differentiate a scalar loss, (n_params,); parameters that the loss does not touch give zeros."""
        parts = torch.autograd.grad(loss, self.tensors, allow_unused=True)
        full = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, self.tensors, strict=True)]
        return self.flatten(full)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the tensors bit for bit on exit, also after an exception."""
        saved = [p.detach().clone() for p in self.tensors]
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.tensors, saved, strict=True):
                    parameter.copy_(value)

    @contextmanager
    def temporarily(self, theta: Float[Tensor, " n_params"]) -> Iterator[None]:
        """Hold theta inside the block; the old weights come back bit for bit, also after an exception."""
        with self.restored():  # before the write, so that a write that fails halfway is undone too
            self.write(theta)
            yield

    @contextmanager
    def requiring_gradients(self) -> Iterator[None]:
        """Let the tensors require gradients inside the block; their flags come back, also after an exception."""
        flags = [p.requires_grad for p in self.tensors]
        try:
            for parameter in self.tensors:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in zip(self.tensors, flags, strict=True):
                parameter.requires_grad_(flag)

    def _layout(self) -> str:
        return layout_hash((n, tuple(p.shape)) for n, p in zip(self.names, self.tensors, strict=True))
