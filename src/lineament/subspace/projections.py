"""From parameters to a few numbers and back: one plane of the whole space, or one plane for each matrix.

Both are linear maps with orthonormal columns from small tensors, the slots, to the parameters. `shrink` is the
transpose of `expand`, so what an optimizer does to the slots stays inside the plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError, NonFiniteError
from lineament.parameters import ParameterSpace
from lineament.subspace.hashes import basis_hash

# Bases that were kept in float32 are orthonormal to about 1e-6.
ORTHONORMAL = 1e-4
# Rows of a basis that are widened at a time, which bounds memory.
ROWS = 100_000


@dataclass(frozen=True)
class MatrixPlanes:
    """Asks for one plane for each matrix, made of the gradient that is there when it is needed, as in GaLore.

    A matrix (m, n) with m < n trains P^T W, (rank, n), P the top left singular vectors of its gradient; any other
    trains W P, (m, rank), P the top right ones. Tensors that are no matrices, and matrices with a side of at most
    `rank`, are trained whole. A matrix whose gradient is exactly zero has no plane yet and stands still: in a fresh
    adapter these are the factors A. Source: Zhao et al., arXiv 2403.03507.

    Attributes:
        rank: directions a matrix.
        skip: parts of names; tensors whose name contains one of them are trained whole, as GaLore does with embeddings.
    """

    rank: int
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"the rank of a matrix's plane is {self.rank}; give at least 1.")


@dataclass(frozen=True)
class Change:
    """How the slots of an old plane are seen from a new one: Q = U'^T U, applied to the side that the plane is on.

    Attributes:
        matrix: Q, (new rank, old rank).
        right: whether the plane is on the slot's last axis.
    """

    matrix: Float[Tensor, "new old"]
    right: bool = False

    def apply(self, slot: Tensor) -> Tensor:
        """Return Q x, or x Q^T where the plane is on the right; the slot's shape and dtype."""
        return self._with(self.matrix, slot)

    def apply_squared(self, slot: Tensor) -> Tensor:
        """Return the same with the squares of Q's entries: how variances of independent coordinates add up."""
        return self._with(self.matrix.square(), slot)

    def unseen(self, slot: Tensor) -> Tensor:
        """Return for each new direction its share outside the old plane times the slot's mean over old directions."""
        share = (1 - self.matrix.square().sum(dim=1)).clamp(min=0).to(slot)
        if self.right:
            return slot.mean(dim=-1, keepdim=True) * share
        return slot.mean(dim=0) * share.view(-1, *[1] * (slot.ndim - 1))

    def _with(self, matrix: Tensor, slot: Tensor) -> Tensor:
        matrix = matrix.to(slot)
        return slot @ matrix.T if self.right else matrix @ slot


class Projection(Protocol):
    """Small tensors, the slots, in place of some of a space's tensors; the others are `plain`.

    Attributes:
        kind: what has a plane, as states name it.
        slots: shape and dtype of each slot.
        owners: for each slot, a parameter whose group it belongs to, as position in the space.
        plain: positions of the parameters that are trained whole.
    """

    kind: str
    slots: list[tuple[tuple[int, ...], torch.dtype]]
    owners: list[int]
    plain: tuple[int, ...]

    def shrink(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return U^T x for each slot, x given for every parameter; None where there is no x or no plane yet."""
        ...

    def expand(self, slots: Sequence[Tensor | None]) -> Iterator[tuple[int, Tensor]]:
        """Yield position and U s of every parameter that is not plain and whose slot is given."""
        ...

    def inside(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Return those of the tensors, one for each parameter, whose energy `shrink` shares with the outside."""
        ...

    def refresh(self, gradients: Sequence[Tensor | None], only_missing: bool) -> dict[int, Change | None]:
        """Take new planes; return for each slot with a new one how its old one is seen from it, None for the first.

        Args:
            only_missing: whether planes that are there stay.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors from which `load` goes on."""
        ...

    def require(self, state: dict[str, Any]) -> None:
        """Raise `InputError` for a state that `load` cannot go on from."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...

    def go_home(self) -> None:
        """Move planes to where their tensors are now."""
        ...


class PlanePerMatrix:
    """The projection that `MatrixPlanes` asks for; a `Projection`."""

    kind = "matrices"

    def __init__(self, planes: MatrixPlanes, space: ParameterSpace) -> None:
        self.rank = planes.rank
        small = [self._is_plain(planes, name, p) for name, p in zip(space.names, space.tensors, strict=True)]
        self.plain = tuple(i for i, plain in enumerate(small) if plain)
        self.owners = [i for i, plain in enumerate(small) if not plain]
        if not self.owners:
            raise InputError(
                f"none of the {len(space.names)} tensors is a matrix with both sides above the rank {planes.rank} that "
                "is not skipped, so that nothing would be trained in a plane. Lower the rank, or skip less."
            )
        shapes = [tuple(space.tensors[i].shape) for i in self.owners]
        self.right = [m >= n for m, n in shapes]
        self.sides = [min(shape) for shape in shapes]
        self.slots: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((m, self.rank) if right else (self.rank, n), at_least_float32(space.tensors[i].dtype))
            for (m, n), right, i in zip(shapes, self.right, self.owners, strict=True)
        ]
        self.space = space
        self.planes: list[Tensor | None] = [None] * len(self.owners)

    def shrink(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return P^T X, or X P, for each matrix."""
        found: list[Tensor | None] = []
        for i, plane, right in zip(self.owners, self.planes, self.right, strict=True):
            tensor = tensors[i]
            if tensor is None or plane is None:
                found.append(None)
            else:
                tensor = tensor.to(plane.dtype)
                found.append(tensor @ plane if right else plane.T @ tensor)
        return found

    def expand(self, slots: Sequence[Tensor | None]) -> Iterator[tuple[int, Tensor]]:
        """Yield P S, or S P^T, for each matrix that has a plane."""
        for i, plane, right, slot in zip(self.owners, self.planes, self.right, slots, strict=True):
            if plane is not None and slot is not None:
                yield i, slot @ plane.T if right else plane @ slot

    def inside(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the matrices that have a plane."""
        pairs = zip(self.owners, self.planes, strict=True)
        return [tensor for i, plane in pairs if plane is not None and (tensor := tensors[i]) is not None]

    def refresh(self, gradients: Sequence[Tensor | None], only_missing: bool) -> dict[int, Change | None]:
        """Take the top singular vectors of each gradient that is not zero; after an error, no plane has changed."""
        changes: dict[int, Change | None] = {}
        planes = list(self.planes)
        for slot, (i, old, right) in enumerate(zip(self.owners, self.planes, self.right, strict=True)):
            gradient = gradients[i]
            if gradient is None or (only_missing and old is not None) or not bool(gradient.any()):
                continue
            new = top_singular_vectors(gradient.T if right else gradient, self.rank).to(self.slots[slot][1])
            changes[slot] = None if old is None else Change(new.T @ old, right)
            planes[slot] = new
        self.planes = planes
        return changes

    def state(self) -> dict[str, Any]:
        """Return the planes, by slot."""
        return {"kind": self.kind, "planes": {i: plane for i, plane in enumerate(self.planes) if plane is not None}}

    def require(self, state: dict[str, Any]) -> None:
        """Raise `InputError` for planes of other matrices or of another rank."""
        stored: dict[int, Tensor] = state["planes"]
        for slot, plane in stored.items():
            if slot >= len(self.sides) or tuple(plane.shape) != (self.sides[slot], self.rank):
                raise InputError(
                    f"the stored plane {slot} has shape {tuple(plane.shape)}, which no matrix of this model has at "
                    f"rank {self.rank}. Load the state into an optimizer made with the same rank, skip and model."
                )

    def load(self, state: dict[str, Any]) -> None:
        """Take stored planes."""
        self.planes = [state["planes"].get(slot) for slot in range(len(self.planes))]
        self.go_home()

    def go_home(self) -> None:
        """Move planes to where their matrices are now."""
        homes = [(self.space.tensors[i].device, dtype) for i, (_, dtype) in zip(self.owners, self.slots, strict=True)]
        self.planes = [
            None if plane is None else plane.to(*home) for plane, home in zip(self.planes, homes, strict=True)
        ]

    @staticmethod
    def _is_plain(planes: MatrixPlanes, name: str, parameter: Tensor) -> bool:
        return (
            parameter.ndim != 2
            or min(parameter.shape) <= planes.rank
            or any(part in name for part in planes.skip)
            or not parameter.is_floating_point()
        )


class PlaneOfSpace:
    """One plane of the whole space: a single slot of k coefficients, in float64; a `Projection`.

    Args:
        basis: orthonormal columns, (n_params, k).
        space: where they live.
        fresh: makes the next basis when one is due, of the same rank; called with gradients enabled.
    """

    kind = "space"

    def __init__(self, basis: Basis, space: ParameterSpace, fresh: Callable[[], Basis] | None) -> None:
        space.space.require(basis.space, f"the model and basis {basis.label!r}")
        self.space, self.fresh = space, fresh
        self.slots: list[tuple[tuple[int, ...], torch.dtype]] = [((basis.rank,), torch.float64)]
        self.owners: list[int] = [0]
        self.plain: tuple[int, ...] = ()
        self.given = self.now = basis_hash(basis)
        require_orthonormal(basis)
        self.blocks: list[Tensor] = []
        self._take(basis.columns)
        self._given_blocks = self.blocks

    def shrink(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return U^T x, (k,) float64; tensors that are missing count as zero."""
        parts = [
            (block.T @ tensor.reshape(-1).to(block.dtype)).to(self.home, torch.float64)
            for block, tensor in zip(self.blocks, tensors, strict=True)
            if tensor is not None
        ]
        return [torch.stack(parts).sum(dim=0)] if parts else [None]

    def expand(self, slots: Sequence[Tensor | None]) -> Iterator[tuple[int, Tensor]]:
        """Yield U c, tensor by tensor."""
        (coefficients,) = slots
        if coefficients is not None:
            for i, (block, p) in enumerate(zip(self.blocks, self.space.tensors, strict=True)):
                yield i, (block @ coefficients.to(block)).view_as(p)

    def inside(self, tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Return all tensors."""
        return [tensor for tensor in tensors if tensor is not None]

    def refresh(self, gradients: Sequence[Tensor | None], only_missing: bool) -> dict[int, Change | None]:
        """Take the basis that `fresh` makes; the gradients at hand are one direction and make none."""
        if only_missing or self.fresh is None:
            return {}
        with torch.enable_grad():
            basis = self.fresh()
        self.space.space.require(basis.space, f"the model and the fresh basis {basis.label!r}")
        if basis.rank != self.slots[0][0][0]:
            raise InputError(
                f"the fresh basis {basis.label!r} has rank {basis.rank}, and {self.slots[0][0][0]} coefficients are "
                "trained. Let `fresh` make bases of that rank."
            )
        require_orthonormal(basis)
        old, self.now = self.blocks, basis_hash(basis)
        self._take(basis.columns)
        parts = [(new.T @ before).to(self.home, torch.float64) for new, before in zip(self.blocks, old, strict=True)]
        return {0: Change(torch.stack(parts).sum(dim=0))}

    def state(self) -> dict[str, Any]:
        """Return the hash of the basis, and its columns only if it is not the one that was given."""
        columns = None if self.now == self.given else torch.cat([block.cpu() for block in self.blocks])
        return {"kind": self.kind, "given": self.given, "now": self.now, "columns": columns}

    def require(self, state: dict[str, Any]) -> None:
        """Raise `InputError` if the training began in another basis than was given here."""
        if state["given"] != self.given:
            raise InputError(
                f"the stored training began in a basis with hash {state['given']}, and this optimizer was given one "
                f"with hash {self.given}. Give it the basis of the stored training."
            )
        shape, own = (
            None if state["columns"] is None else state["columns"].shape,
            (self.space.n_params, *self.slots[0][0]),
        )
        if shape not in (None, own):
            raise InputError(f"the stored basis has shape {tuple(shape)}, not {own}. Give a state of this training.")

    def load(self, state: dict[str, Any]) -> None:
        """Go on in the stored basis; a state from before any refresh goes on in the one that was given."""
        self.now = state["now"]
        if state["columns"] is None:
            self.blocks = self._given_blocks
            self.go_home()
        else:
            self._take(state["columns"])

    def go_home(self) -> None:
        """Move each tensor's rows to where it is now."""
        self.home = self.space.tensors[0].device
        if all(block.device == p.device for block, p in zip(self.blocks, self.space.tensors, strict=True)):
            return
        given = self.blocks is self._given_blocks
        self.blocks = [block.to(p.device) for block, p in zip(self.blocks, self.space.tensors, strict=True)]
        if given:  # so that it is not kept twice
            self._given_blocks = self.blocks

    def _take(self, columns: Tensor) -> None:
        """Keep the rows of each tensor where it is, in its dtype but at least float32."""
        self.home = self.space.tensors[0].device
        self.blocks = [
            columns[rows].to(p.device, at_least_float32(p.dtype))
            for rows, p in zip(self.space.slices, self.space.tensors, strict=True)
        ]


def top_singular_vectors(matrix: Float[Tensor, "m n"], rank: int) -> Float[Tensor, "m rank"]:
    """Return the top left singular vectors of a wide matrix as orthonormal columns, (m, rank) float64."""
    rows = matrix.double()
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError("a plane was to be made of a gradient that holds NaN or infinity. Lower the step size.")
    _, vectors = torch.linalg.eigh(rows @ rows.T)  # of the short side: exact for the leading ones, and far cheaper
    top: Tensor = vectors[:, -rank:].flip(1).contiguous()
    return top


def require_orthonormal(basis: Basis) -> None:
    """Raise `InputError` for columns that are not finite or not orthonormal."""
    # In float64 whatever they are in: a product of skinny float32 matrices can be off by more than is looked for.
    products = torch.zeros(basis.rank, basis.rank, dtype=torch.float64, device=basis.columns.device)
    for start in range(0, len(basis.columns), ROWS):
        rows = basis.columns[start : start + ROWS].double()
        products += rows.T @ rows
    error = float((products - torch.eye(basis.rank).to(products)).abs().max())
    if not error < ORTHONORMAL:
        raise InputError(
            f"the columns of basis {basis.label!r} are not orthonormal: a product of two of them is off by "
            f"{error:.2g}. Make the basis with from_vectors or top_directions."
        )


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, else float32: what is narrower loses small updates."""
    return torch.promote_types(dtype, torch.float32)
