"""A torch optimizer that trains few numbers: the coefficients of one plane, or of one plane for each matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.subspace.clock import Refresh, RefreshClock
from lineament.subspace.fitting import looks_at_weights, require_fitting
from lineament.subspace.moments import carry, require_carried
from lineament.subspace.projections import (
    MatrixPlanes,
    PlaneOfSpace,
    PlanePerMatrix,
    Projection,
    at_least_float32,
)
from lineament.subspace.saved import require_state
from lineament.subspace.weights import WideWeights

# What a group holds besides settings; these belong to the model's parameters and not to the coefficients.
NO_SETTINGS = ("params", "param_names")


class SubspaceOptimizer(torch.optim.Optimizer):
    """Trains with any torch optimizer inside a plane: gradients are projected, and steps are led back to the weights.

    Use: `SubspaceOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), basis, space)`, then as any other optimizer:
    with gradient accumulation, with schedulers made of *this* object, as `Trainer(optimizers=(it, None))`. Clip
    gradients before `step`, as ever: what is clipped is the gradient of the real parameters. Moments are those of the
    coefficients: AdamW moves each by about the step size, so with k of n numbers a step is sqrt(n / k) times shorter
    at the same step size. Weight decay shrinks that part of the weights which lies in the plane. In bfloat16 and
    float16 models a float32 copy of the weights is kept, so that no small step is lost; what others write to the model
    is taken over. It goes where the model goes, and cannot be copied or pickled.

    Args:
        optimizer: a torch optimizer over the tensors of `space`, which has not stepped yet. Its class and the settings
            of its groups are used for the coefficients; it is left alone itself.
        basis: one plane of the whole space, whose columns get a coefficient each; or `MatrixPlanes`.
        space: the tensors that are trained, in their order.
        refresh: take new planes every so many steps; "retention", or a `RetentionRule` with other numbers: as soon as
            they hold too little of the gradients; or None (or "never"). Source: protocol section 3;
            `lineament.subspace.clock` states the rule.
        fresh: makes the next basis of a whole space, called inside `step`; `MatrixPlanes` use the gradient at hand.
        fill_unseen: moments are carried over; where a new direction lies outside the old plane, its second moment is
            taken as the average of the old ones instead of zero (`lineament.subspace.moments`).

    Attributes:
        refreshes: steps before which new planes were taken, counted from 0.

    Raises:
        InputError: the optimizer's tensors are not those of `space`; it has stepped, evaluates losses itself (L-BFGS),
            holds another optimizer or tensors of its own, is wrapped by a scheduler, steps matrices where there are
            none (Muon), or its state cannot be carried over although planes are refreshed; one plane with several
            groups, or refreshed without `fresh`.
        SpaceMismatchError: the basis is of another space.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        basis: Basis | MatrixPlanes,
        space: ParameterSpace,
        *,
        refresh: Refresh = None,
        fresh: Callable[[], Basis] | None = None,
        fill_unseen: bool = True,
    ) -> None:
        self._clock = RefreshClock(refresh)
        require_fitting(optimizer, space, isinstance(basis, Basis))
        if self._clock.refreshes:
            require_carried(optimizer)
        self.projection: Projection
        if isinstance(basis, Basis):
            if self._clock.refreshes and fresh is None:
                raise InputError("one plane of the whole space is refreshed with a basis that you make: give `fresh`.")
            self.projection = PlaneOfSpace(basis, space, fresh)
        else:
            self.projection = PlanePerMatrix(basis, space)
        self.space, self.refreshes, self.fill_unseen = space, list[int](), fill_unseen
        self._steps, self._open = 0, True
        super().__init__([dict(group) for group in optimizer.param_groups], dict(optimizer.defaults))
        self._open = False
        self._weights = WideWeights(space)
        self._trainable = [p.requires_grad for p in space.tensors]
        shapes = zip(self.projection.slots, self.projection.owners, strict=True)
        self._slots = [torch.zeros(shape, dtype=dtype, device=space.tensors[i].device) for (shape, dtype), i in shapes]
        self._moved = [torch.zeros_like(slot) for slot in self._slots] if isinstance(basis, Basis) else []
        self.inner = self._inner(optimizer)
        if isinstance(basis, Basis):
            self._read_slots(range(1))

    @property
    def coefficients(self) -> Float64[Tensor, " rank"]:
        """How far steps have gone along each column of the basis: theta - theta_start = U c, (rank,) float64.

        What others wrote to the model meanwhile is not in it.

        Raises:
            InputError: the planes are those of matrices, or the basis was refreshed: then k numbers do not say it.
        """
        if not self._moved:
            raise InputError("coefficients exist for one basis of the whole space; planes of matrices have none.")
        if self.refreshes:
            raise InputError(
                f"the basis was refreshed before step {self.refreshes[0]}, so that the way lies in more than one "
                "plane. Save the weights instead."
            )
        return self._moved[0].cpu().clone()

    @property
    def kept(self) -> tuple[float, float] | None:
        """Share of what the fresh planes held that they still hold, with its standard error; None while not known.

        It is followed with refresh="retention".
        """
        return self._clock.kept()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step from the gradients of the real parameters; refresh the planes before it if that is due.

        Args:
            closure: computes loss and gradients, and is called once.

        Raises:
            InputError: a gradient is sparse, or the model was cast or frozen since the optimizer was made.
            NonFiniteError: a plane was to be made of a NaN; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for p in self.space.tensors]
        self._require_as_made(gradients)
        if all(gradient is None for gradient in gradients):
            return loss
        self._go_home()
        self._weights.follow()
        made = self._refresh(gradients)
        small = self.projection.shrink(gradients)
        self._move(gradients, small)
        energies = self._energies(gradients, small) if self._clock.by_retention and not made else (None, None)
        self._clock.tick(*energies)
        self._steps += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the real parameters."""
        super().zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the space is fixed."""
        if not self._open:
            raise InputError("the space of a SubspaceOptimizer is fixed; make a new one with all tensors.")
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        """Refuse copies and pickles: planes, masters and `fresh` belong to this model."""
        raise InputError(
            "a SubspaceOptimizer cannot be copied or pickled, since it belongs to the tensors of its model. Keep its "
            "state_dict(), and load that into one made in the same way."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs beside the model's weights to go on bit for bit."""
        held = self._held()
        return {
            **held,
            "projection": self.projection.state(),
            "slots": [slot.clone() for slot in held["slots"]],
            "moved": [moved.clone() for moved in held["moved"]],
            "masters": {i: wide.clone() for i, wide in held["masters"].items()},
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state: planes, moments, coefficients; load the model's weights yourself.

        Raises:
            InputError: it is the state of another kind of optimizer, of other tensors, or of another basis.
        """
        require_state(state_dict, self._held())
        self.projection.require(state_dict["projection"])
        self._go_home()
        self.projection.load(state_dict["projection"])
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.inner.load_state_dict(state_dict["inner"])
        self._clock.load(state_dict["clock"])
        for mine, stored in zip(
            [*self._slots, *self._moved], [*state_dict["slots"], *state_dict["moved"]], strict=True
        ):
            mine.copy_(stored)
        for i in self._weights.narrow:
            self._weights.tensors[i].copy_(state_dict["masters"][i])
        self.refreshes, self._steps = list(state_dict["refreshes"]), int(state_dict["steps"])

    def _held(self) -> dict[str, Any]:
        """Return the state without copies, and of the planes the kind alone."""
        return {
            "state": {},
            "param_groups": super().state_dict()["param_groups"],
            "optimizer": type(self.inner).__name__,
            "space": str(self.space.space),
            "dtypes": [str(dtype) for dtype in self._weights.dtypes],
            "inner": self.inner.state_dict(),
            "projection": {"kind": self.projection.kind},
            "clock": self._clock.state(),
            "slots": self._slots,
            "moved": self._moved,
            "masters": {i: self._weights.tensors[i] for i in self._weights.narrow},
            "refreshes": list(self.refreshes),
            "steps": self._steps,
        }

    def _inner(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Make the same optimizer over slots and plain tensors, whatever arguments its class takes."""
        inner = object.__new__(type(optimizer))
        inner.__dict__.update(optimizer.__dict__)
        inner.state = defaultdict(dict)
        trained = {id(self.space.tensors[i]): [self._weights.tensors[i]] for i in self.projection.plain}
        for slot, i in zip(self._slots, self.projection.owners, strict=True):
            trained.setdefault(id(self.space.tensors[i]), []).append(slot)
        inner.param_groups = [
            {**_settings(group), "params": [slot for p in group["params"] for slot in trained.get(id(p), [])]}
            for group in optimizer.param_groups
        ]
        return inner

    def _go_home(self) -> None:
        """Move all that belongs to a tensor to where the tensor is now: models are moved after optimizers are made."""
        moved = self._weights.go_home()
        for k, (slot, i) in enumerate(zip(self._slots, self.projection.owners, strict=True)):
            home = self.space.tensors[i].device
            if slot.device != home:
                moved[id(slot)] = self._slots[k] = slot.to(home)
        self.projection.go_home()
        if not moved:
            return
        self._moved = [way.to(slot.device) for way, slot in zip(self._moved, self._slots, strict=False)]
        state = self.inner.state_dict()
        for group in self.inner.param_groups:
            group["params"] = [moved.get(id(p), p) for p in group["params"]]
        self.inner.state.clear()
        self.inner.load_state_dict(state)  # torch knows what of a state is moved, and what stays on the CPU

    def _require_as_made(self, gradients: Sequence[Tensor | None]) -> None:
        """Raise `InputError` for gradients that no plane is made of, and for tensors that were frozen or replaced."""
        if any(g is not None and g.is_sparse for g in gradients):
            raise InputError("a gradient is sparse, and planes are made of dense ones; set sparse=False in embeddings.")
        there = zip(self.space.names, self.space.tensors, self._trainable, strict=True)
        frozen = [name for name, p, was in there if was and not p.requires_grad]
        if frozen and isinstance(self.projection, PlaneOfSpace):
            raise InputError(
                f"{frozen[0]} was frozen after the optimizer was made, and one plane of the whole space would go on "
                "moving it. Make space, basis and optimizer of what is to be trained."
            )
        if all(gradient is None for gradient in gradients):
            held = {id(p) for p in self.space.module.parameters()}
            lost = [n for n, p in zip(self.space.names, self.space.tensors, strict=True) if id(p) not in held]
            if lost:
                raise InputError(
                    f"the model has another tensor in place of {lost[0]} since the optimizer was made, so that nothing "
                    "would be trained. Make space and optimizer after the model has its final tensors."
                )

    def _refresh(self, gradients: Sequence[Tensor | None]) -> bool:
        """Take new planes where they are due, and first ones where there are none; return whether any was taken."""
        due = self._clock.due()
        changes = self.projection.refresh(gradients, only_missing=not due)
        groups = {id(slot): group for group in self.inner.param_groups for slot in group["params"]}
        for i, change in changes.items():
            slot = self._slots[i]
            if change is not None and slot in self.inner.state:
                carry(self.inner.state[slot], groups[id(slot)], change, self.fill_unseen)
        seen = looks_at_weights(type(self.inner), self.param_groups)
        self._read_slots(range(len(self._slots)) if seen else changes)
        if due and changes:  # gradients of zero make no plane: it stays due
            self._clock.restart()
            if any(change is not None for change in changes.values()):
                self.refreshes.append(self._steps)
        return bool(changes)

    @torch.no_grad()
    def _read_slots(self, which: Collection[int]) -> None:
        """Set slots to U^T theta, so that weight decay and trust ratios see the weights as they are."""
        small = self.projection.shrink(self._weights.tensors) if which else []
        for i in which:
            value = small[i]
            if value is not None:
                self._slots[i].copy_(value)

    def _move(self, gradients: Sequence[Tensor | None], small: Sequence[Tensor | None]) -> None:
        """Let the inner optimizer step, and lead what it did to the slots back to the weights."""
        for group, own in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update(_settings(group))  # schedulers act on the groups that one sees
        before = [slot.clone() for slot in self._slots]
        narrow = [i for i in self.projection.plain if i in self._weights.narrow]
        tensors = [*self._slots, *(self._weights.tensors[i] for i in narrow)]
        for tensor, gradient in zip(tensors, [*small, *(gradients[i] for i in narrow)], strict=True):
            tensor.grad = None if gradient is None else gradient.to(tensor.dtype)
        self._step_inside()
        for group, own in zip(self.param_groups, self.inner.param_groups, strict=True):
            group.update(_settings(own))  # some optimizers keep counts in their groups
        steps: list[Tensor | None] = [
            None if slot.grad is None else slot - old for slot, old in zip(self._slots, before, strict=True)
        ]
        for i, update in self.projection.expand(steps):
            self._weights.tensors[i].add_(update)
        for moved, step in zip(self._moved, steps, strict=False):
            moved.add_(step if step is not None else 0)
        for tensor in tensors:
            tensor.grad = None
        self._weights.write()

    def _step_inside(self) -> None:
        """Step slots and plain tensors, and raise `InputError` where another tensor of the model moved."""
        own = set(self.projection.plain) - set(self._weights.narrow)
        others = [p for i, p in enumerate(self.space.tensors) if i not in own]
        versions = [p._version for p in others]
        self.inner.step()
        if [p._version for p in others] != versions:
            raise InputError(
                f"the {type(self.inner).__name__} stepped the weights themselves, which have left the plane. Make the "
                "SubspaceOptimizer of an optimizer that steps what is in its groups, and load the weights again."
            )

    def _energies(self, gradients: Sequence[Tensor | None], small: Sequence[Tensor | None]) -> tuple[float, float]:
        """Return |U^T g|^2 and |g|^2 over what has a plane, with one wait for the device."""
        inside = [tensor for tensor in small if tensor is not None]
        whole = self.projection.inside(gradients)
        if not inside or not whole:
            return 0.0, 0.0
        home = inside[0].device
        first, second = torch.stack([_energy(inside, home), _energy(whole, home)]).tolist()
        return first, second


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in NO_SETTINGS}


def _energy(tensors: Sequence[Tensor], home: torch.device) -> Float64[Tensor, ""]:
    """Sum of squares over all tensors, on one device."""
    norms = [torch.linalg.vector_norm(t, dtype=at_least_float32(t.dtype)).to(home) for t in tensors]
    return torch.stack([norm.double() for norm in norms]).square().sum()
