"""A torch optimizer that trains few numbers: the coefficients of one plane, or of one plane for each matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float64
from torch import Tensor

from lineament.bases import Basis
from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.subspace.clock import Refresh, RefreshClock
from lineament.subspace.moments import carry, require_carried
from lineament.subspace.projections import (
    MatrixPlanes,
    PlaneOfSpace,
    PlanePerMatrix,
    Projection,
    at_least_float32,
)

# What a group holds besides settings; these belong to the model's parameters and not to the coefficients.
NO_SETTINGS = ("params", "param_names")
ONE_GROUP = (
    "one plane of the whole space has one set of coefficients and so one step size, and the optimizer has "
    "{n} parameter groups. Give it one group, or take MatrixPlanes, which keep a group for each tensor."
)


class SubspaceOptimizer(torch.optim.Optimizer):
    """Trains with any torch optimizer inside a plane: gradients are projected, and steps are led back to the weights.

    Use: `SubspaceOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-2), basis, space)`, then as any other optimizer:
    with gradient accumulation, with schedulers made of *this* object, as `Trainer(optimizers=(it, None))`. Clip
    gradients before `step`, as ever: what is clipped is the gradient of the real parameters. Moments are those of the
    coefficients: AdamW moves each by about the step size, so with k of n numbers a step is sqrt(n / k) times shorter
    at the same step size. Weight decay shrinks that part of the weights which lies in the plane. In bfloat16 and
    float16 models a float32 copy of the weights is kept, so that no small step is lost.

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
            is wrapped by a scheduler, or its state cannot be carried over although planes are refreshed; one plane with
            several groups, or refreshed without `fresh`.
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
        _require_fitting(optimizer, space)
        if self._clock.refreshes:
            require_carried(optimizer)
        self.projection: Projection
        if isinstance(basis, Basis):
            if len(optimizer.param_groups) != 1:
                raise InputError(ONE_GROUP.format(n=len(optimizer.param_groups)))
            if self._clock.refreshes and fresh is None:
                raise InputError("one plane of the whole space is refreshed with a basis that you make: give `fresh`.")
            self.projection = PlaneOfSpace(basis, space, fresh)
        else:
            self.projection = PlanePerMatrix(basis, space)
        self.space, self.refreshes, self.fill_unseen = space, list[int](), fill_unseen
        self._steps, self._open = 0, True
        super().__init__([dict(group) for group in optimizer.param_groups], dict(optimizer.defaults))
        self._open = False
        wide = [at_least_float32(p.dtype) for p in space.tensors]
        self._masters = [
            p if p.dtype == dtype else p.detach().to(dtype) for p, dtype in zip(space.tensors, wide, strict=True)
        ]
        shapes = zip(self.projection.slots, self.projection.owners, strict=True)
        self._slots = [torch.zeros(shape, dtype=dtype, device=space.tensors[i].device) for (shape, dtype), i in shapes]
        self._moved = [torch.zeros_like(slot) for slot in self._slots] if isinstance(basis, Basis) else []
        self.inner = self._inner(optimizer)
        if isinstance(basis, Basis):
            self._read_slots(range(1))

    @property
    def coefficients(self) -> Float64[Tensor, " rank"]:
        """How far training has gone along each column of the basis: theta - theta_start = U c, (rank,) float64.

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
            InputError: a gradient is sparse. NonFiniteError: a plane was to be made of a NaN.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for p in self.space.tensors]
        if any(g is not None and g.is_sparse for g in gradients):
            raise InputError("a gradient is sparse, and planes are made of dense ones; set sparse=False in embeddings.")
        if all(gradient is None for gradient in gradients):
            return loss
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

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs beside the model's weights to go on bit for bit."""
        body = super().state_dict()
        return {
            "state": {},
            "param_groups": body["param_groups"],
            "inner": self.inner.state_dict(),
            "projection": self.projection.state(),
            "clock": self._clock.state(),
            "slots": [slot.clone() for slot in self._slots],
            "moved": [moved.clone() for moved in self._moved],
            "masters": {i: self._masters[i].clone() for i in self._narrow()},
            "refreshes": list(self.refreshes),
            "steps": self._steps,
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state: planes, moments, coefficients; load the model's weights yourself.

        Raises:
            InputError: it is the state of another kind of optimizer, of other tensors, or of another basis.
        """
        if "projection" not in state_dict:
            raise InputError("this is no state of a SubspaceOptimizer; load that of one made in the same way.")
        kind = self.projection.state()["kind"]
        if state_dict["projection"]["kind"] != kind:
            raise InputError(f"the state is one of planes of {state_dict['projection']['kind']}, not of {kind}.")
        shapes, own = [[tuple(s.shape) for s in slots] for slots in (state_dict["slots"], self._slots)]
        if shapes != own:
            raise InputError(f"the state has coefficients of shapes {shapes[:3]}, and this optimizer {own[:3]}.")
        self.projection.load(state_dict["projection"])
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.inner.load_state_dict(state_dict["inner"])
        self._clock.load(state_dict["clock"])
        for mine, stored in zip(
            [*self._slots, *self._moved], [*state_dict["slots"], *state_dict["moved"]], strict=True
        ):
            mine.copy_(stored)
        for i in self._narrow():
            self._masters[i].copy_(state_dict["masters"][i])
        self.refreshes, self._steps = list(state_dict["refreshes"]), int(state_dict["steps"])

    def _inner(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Make the same optimizer over slots and plain tensors, whatever arguments its class takes."""
        inner = object.__new__(type(optimizer))
        inner.__dict__.update(optimizer.__dict__)
        inner.state = defaultdict(dict)
        trained = {id(self.space.tensors[i]): [self._masters[i]] for i in self.projection.plain}
        for slot, i in zip(self._slots, self.projection.owners, strict=True):
            trained.setdefault(id(self.space.tensors[i]), []).append(slot)
        inner.param_groups = [
            {**_settings(group), "params": [slot for p in group["params"] for slot in trained.get(id(p), [])]}
            for group in optimizer.param_groups
        ]
        return inner

    def _refresh(self, gradients: Sequence[Tensor | None]) -> bool:
        """Take new planes where they are due, and first ones where there are none; return whether any was taken."""
        due = self._clock.due()
        changes = self.projection.refresh(gradients, only_missing=not due)
        groups = {id(slot): group for group in self.inner.param_groups for slot in group["params"]}
        for i, change in changes.items():
            slot = self._slots[i]
            if change is not None and slot in self.inner.state:
                carry(self.inner.state[slot], groups[id(slot)], change, self.fill_unseen)
        if changes:
            self._read_slots(changes)
        if due:
            self.refreshes.append(self._steps)
            self._clock.restart()
        return bool(changes)

    @torch.no_grad()
    def _read_slots(self, which: Iterable[int]) -> None:
        """Set slots to U^T theta, so that weight decay and trust ratios see the weights."""
        small = self.projection.shrink(self._masters)
        for i in which:
            value = small[i]
            assert value is not None
            self._slots[i].copy_(value)

    def _move(self, gradients: Sequence[Tensor | None], small: Sequence[Tensor | None]) -> None:
        """Let the inner optimizer step, and lead what it did to the slots back to the weights."""
        for group, own in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update(_settings(group))  # schedulers act on the groups that one sees
        before = [slot.clone() for slot in self._slots]
        narrow = set(self.projection.plain) & set(self._narrow())
        tensors = [*self._slots, *(self._masters[i] for i in narrow)]
        for tensor, gradient in zip(tensors, [*small, *(gradients[i] for i in narrow)], strict=True):
            tensor.grad = None if gradient is None else gradient.to(tensor.dtype)
        self.inner.step()
        for group, own in zip(self.param_groups, self.inner.param_groups, strict=True):
            group.update(_settings(own))  # some optimizers keep counts in their groups
        steps: list[Tensor | None] = [
            None if slot.grad is None else slot - old for slot, old in zip(self._slots, before, strict=True)
        ]
        for i, update in self.projection.expand(steps):
            self._masters[i].add_(update)
        for moved, step in zip(self._moved, steps, strict=False):
            moved.add_(step if step is not None else 0)
        for slot in self._slots:
            slot.grad = None
        for i in self._narrow():
            self._masters[i].grad = None
            self.space.tensors[i].copy_(self._masters[i])

    def _energies(self, gradients: Sequence[Tensor | None], small: Sequence[Tensor | None]) -> tuple[float, float]:
        """Return |U^T g|^2 and |g|^2 over what has a plane."""
        inside = [tensor for tensor in small if tensor is not None]
        return _energy(inside), _energy(self.projection.inside(gradients))

    def _narrow(self) -> list[int]:
        """Positions of the tensors that have a wider copy."""
        pairs = zip(self.space.tensors, self._masters, strict=True)
        return [i for i, (p, master) in enumerate(pairs) if p.dtype != master.dtype]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in NO_SETTINGS}


def _energy(tensors: Sequence[Tensor]) -> float:
    """Sum of squares over all tensors."""
    norms = [torch.linalg.vector_norm(t, dtype=at_least_float32(t.dtype)).cpu() for t in tensors]
    return float(torch.stack(norms).double().square().sum()) if norms else 0.0


def _require_fitting(optimizer: torch.optim.Optimizer, space: ParameterSpace) -> None:
    """Raise `InputError` for an optimizer that cannot train coefficients in place of the space's tensors."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(p) for p in space.tensors}
    missing = [name for name, p in zip(space.names, space.tensors, strict=True) if id(p) not in held]
    if missing or held - wanted:
        raise InputError(
            "the optimizer and the space must have the same tensors: the optimizer lacks "
            f"{len(missing)} of the space's {len(space.names)} ({', '.join(missing[:3]) or 'none'}) and holds "
            f"{len(held - wanted)} others. Make the optimizer of `space.tensors`."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("L-BFGS evaluates losses many times in a step, which planes cannot follow. Take another.")
    if any(optimizer.state.values()):
        raise InputError(
            f"the {type(optimizer).__name__} has a state for the real parameters already, which coefficients cannot "
            "take over. Give one that has not stepped, of a class that makes its state in its first step."
        )
    if getattr(optimizer.step, "_wrapped_by_lr_sched", False):
        raise InputError("a scheduler was made of the optimizer itself; make it of the SubspaceOptimizer instead.")
