"""Weights at a width in which no small step is lost, kept true to a model that others write to as well."""

from __future__ import annotations

import torch
from torch import Tensor

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.subspace.projections import at_least_float32


class WideWeights:
    """A float32 copy of each bfloat16 or float16 tensor of a space; any other tensor stands for itself.

    Args:
        space: the tensors; their dtypes are those of now.

    Attributes:
        tensors: one for each tensor of the space, in its shape.
        narrow: positions of those that are copies.
    """

    def __init__(self, space: ParameterSpace) -> None:
        self._space = space
        self.dtypes = [p.dtype for p in space.tensors]
        self.narrow = tuple(i for i, dtype in enumerate(self.dtypes) if dtype != at_least_float32(dtype))
        self.tensors: list[Tensor] = list(space.tensors)
        for i in self.narrow:
            self.tensors[i] = space.tensors[i].detach().to(at_least_float32(self.dtypes[i]), copy=True)

    @torch.no_grad()
    def follow(self) -> None:
        """Take over what others wrote to the model: where it is not the rounded copy, it is the truth.

        Checkpoints that are loaded, averages and clamps come through, whole or in part, by whatever way they came.

        Raises:
            InputError: the model was cast to another dtype.
        """
        for name, p, dtype in zip(self._space.names, self._space.tensors, self.dtypes, strict=True):
            if p.dtype != dtype:
                raise InputError(
                    f"{name} was {dtype} when the optimizer was made, and is {p.dtype} now. Make the optimizer after "
                    "the model has its dtype."
                )
        for i in self.narrow:
            wide, p = self.tensors[i], self._space.tensors[i]
            wide.copy_(torch.where(wide.to(p.dtype) == p, wide, p.to(wide.dtype)))

    @torch.no_grad()
    def write(self) -> None:
        """Round the copies into the model."""
        for i in self.narrow:
            self._space.tensors[i].copy_(self.tensors[i])

    def go_home(self) -> dict[int, Tensor]:
        """Move copies to where their tensors are now; return the new ones, by id of the old."""
        moved: dict[int, Tensor] = {}
        for i in self.narrow:
            old, home = self.tensors[i], self._space.tensors[i].device
            if old.device != home:
                moved[id(old)] = self.tensors[i] = old.to(home)
        return moved
