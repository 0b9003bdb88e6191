"""Watching a torch optimizer while its updates are recorded: its rule, and its step size at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.vectors.blind import UpdateRule, rule_of_group
from lineament.vectors.recording.optimizer import NOT_GIVEN, GroupRule, RecordedOptimizer


class OptimizerWatch:
    """Notes the step sizes of a torch optimizer, at the moment at which it steps, by a hook of its own.

    Read after a step, or before it, they would be those of a neighbouring step, as the training calls its schedule.

    Args:
        optimizer: it, or a wrapper that holds it as `optimizer`; None where it is not known. What is known already, of
            updates that were made elsewhere, is kept as it is.
        space: the recorded parameters.
        before: what is known of the steps made so far, of a recording that goes on; n_steps says how many.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | RecordedOptimizer | None,
        space: ParameterSpace,
        before: RecordedOptimizer | None = None,
        n_steps: int = 0,
    ) -> None:
        self._calls, self._skipped, self._reason = n_steps, list[int](), ""
        self._noted: list[tuple[float, ...]] = []
        self._sizes: list[tuple[float, ...]] = []
        self._handle: Any = None
        self._stated = optimizer if isinstance(optimizer, RecordedOptimizer) else None
        self._optimizer = innermost(optimizer)
        if self._optimizer is None:
            self._reason = NOT_GIVEN
            return
        self._counts = _counts(self._optimizer, space)
        try:
            self._rules = self._rules_now()
        except InputError as error:
            self._reason = str(error)
            return
        if not self._rules:
            self._reason = "the optimizer holds copies of the recorded parameters, so that its groups cannot be told"
            return
        self._continue(before, n_steps)
        self._handle = self._optimizer.register_step_pre_hook(self._note)

    def advance(self, n_steps: int) -> None:
        """Count steps of the training; those at which the optimizer was not called are skipped ones."""
        if self._handle is None:
            return
        noted, self._noted = self._noted, []
        if len(noted) > n_steps:
            self._reason = f"the optimizer stepped {len(noted)} times where {n_steps} steps were recorded"
        self._sizes += noted
        self._skipped += range(self._calls + len(noted) + 1, self._calls + n_steps + 1)
        self._calls += n_steps

    def known(self) -> RecordedOptimizer:
        """Return what is known of the steps so far."""
        if self._stated is not None:
            return self._stated
        if self._reason:
            return RecordedOptimizer(reason=self._reason)
        if not self._sizes:
            return RecordedOptimizer(reason="the optimizer has not stepped yet")
        columns = zip(*self._sizes, strict=True)
        groups = [
            GroupRule(count, replace(rule, step_sizes=_shortened(sizes)))
            for (count, rule), sizes in zip(self._rules, columns, strict=True)
        ]
        return RecordedOptimizer(tuple(groups), tuple(self._skipped), reason="")

    def stop(self) -> None:
        """Take the hook off the optimizer."""
        if self._handle is not None:
            self._handle.remove()

    def _note(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._noted.append(tuple(float(group["lr"]) for _, group in self._held()))
        if not self._reason and self._rules_now() != self._rules:
            self._reason = "settings of the optimizer other than its step size changed during the run"

    def _held(self) -> list[tuple[int, Mapping[str, Any]]]:
        """(recorded parameters, settings) of the groups that hold some."""
        assert self._optimizer is not None
        groups = zip(self._counts, self._optimizer.param_groups, strict=False)
        return [(count, group) for count, group in groups if count]

    def _rules_now(self) -> list[tuple[int, UpdateRule]]:
        kind = type(self._optimizer).__name__
        return [(count, rule_of_group(kind, group, (1.0,))) for count, group in self._held()]

    def _continue(self, before: RecordedOptimizer | None, n_steps: int) -> None:
        """Go on from the step sizes of the rows that are kept, where they are of the same groups."""
        if before is None or n_steps == 0:
            return
        same = [(group.n_params, replace(group.rule, step_sizes=(1.0,))) for group in before.groups]
        if same != self._rules:
            self._reason = before.reason or "the optimizer is another than that of the steps recorded before"
            return
        self._skipped = [step for step in before.skipped if step <= n_steps]
        made = n_steps - len(self._skipped)
        self._sizes = [tuple(group.rule.at(step) for group in before.groups) for step in range(made)]


def innermost(optimizer: Any) -> torch.optim.Optimizer | None:
    """Return the torch optimizer inside wrappers such as accelerate's; None if there is none."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        if not hasattr(optimizer, "optimizer"):
            return None
        optimizer = optimizer.optimizer
    return optimizer


def _counts(optimizer: torch.optim.Optimizer, space: ParameterSpace) -> list[int]:
    """Count the recorded parameters in each group."""
    recorded = {id(tensor) for tensor in space.tensors}
    return [sum(p.numel() for p in group["params"] if id(p) in recorded) for group in optimizer.param_groups]


def _shortened(sizes: Sequence[float]) -> tuple[float, ...]:
    """Leave out repetitions at the end; the last step size of a rule holds on."""
    end = len(sizes)
    while end > 1 and sizes[end - 1] == sizes[end - 2]:
        end -= 1
    return tuple(sizes[:end])
