"""Recording a run of transformers' `Trainer`, or of a trainer built on it such as TRL's `SFTTrainer`.

A callback is handed the model but no batch and no trainer. Updates are read after each optimizer step, in
`on_step_end`; gradients, if asked for, just before it, in `on_pre_optimizer_step`, where they are accumulated,
unscaled and clipped.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lineament.errors import InputError
from lineament.parameters import ParameterSpace, SpaceKind
from lineament.problems.factor_pairs import FACTOR, why_no_pairs
from lineament.subspace.optimizer import SubspaceOptimizer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.watch import innermost
from lineament.vectors.recording.writer import Recorder

AS_WEIGHTS = (
    "the adapter is recorded as plain weights, without dW: {reason}. Figures of its factors depend on how they are "
    "scaled, and are not to be compared between adapters."
)
SHARDED = (
    "{what} shards parameters over processes, so that none of them holds the values that are to be recorded. Record "
    "a run on one device or with plain data parallelism, or save whole checkpoints and use `lineament "
    "record-from-checkpoints`."
)


class LineamentCallback(TrainerCallback):
    """Records every trainable parameter's updates to a folder while a `Trainer` trains.

    Use: `Trainer(..., callbacks=[LineamentCallback("recording")])`. Gradient accumulation, mixed precision and clipping
    are the trainer's business: one update is one optimizer step. A run that resumes from a checkpoint goes on with its
    recording; rows that were taken after the checkpoint are made again. Under plain data parallelism the main process
    records.

    Args:
        folder: where the recording goes. It may hold one only if training resumes.
        every: record each k-th optimizer step; a row is then the update of k steps.
        gradients: record the gradient of each recorded step too, as the optimizer gets it (accumulated and clipped).
        dtype: float32, or bfloat16 for half the disk; rounding errors do not add up.
        sketch: record a sketch of each row instead of the row.
        task: name of what is trained, for tables.

    An adapter is recorded as pairs of factors, and figures are given for dW = scale B A too, where PEFT's own change of
    the weights is that. Where it is not, as for layers of experts (`target_parameters`), DoRA or factors of which one
    is frozen, the trainable parameters are recorded as plain weights, with a warning and the reason.

    Raises (when training starts):
        InputError: parameters are sharded (FSDP, DeepSpeed ZeRO-3), nothing is trainable, the folder holds another
            run's recording, or training resumes where nothing was recorded.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        every: int = 1,
        gradients: bool = False,
        dtype: torch.dtype = torch.float32,
        sketch: Sketch | None = None,
        task: str = "",
    ) -> None:
        self.folder, self.every, self.gradients, self.dtype = Path(folder), every, gradients, dtype
        self.sketch, self.task = sketch, task
        self.recorder: Recorder | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the recording, or resume it."""
        if not state.is_world_process_zero:
            return
        model: nn.Module = kwargs["model"]
        _refuse_sharded(args, model)
        if self.gradients and args.fp16 and not args.max_grad_norm:
            raise InputError(
                "with fp16 and no clipping the trainer's gradients are scaled by the loss scale when they can be read. "
                "Set max_grad_norm (a large one clips nothing), use bf16, or record updates alone."
            )
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError("the model has no trainable parameter to record; set requires_grad on some.")
        kind, reason = _kind(model)
        if reason is not None:
            warnings.warn(AS_WEIGHTS.format(reason=reason), stacklevel=2)
        space = ParameterSpace.trainable(model, kind)
        if state.global_step and (self.folder / "index.json").exists():
            self.recorder = Recorder.resume(
                space,
                self.folder,
                at_step=state.global_step,
                dtype=self.dtype,
                every=self.every,
                gradients=self.gradients,
                sketch=self.sketch,
                optimizer=innermost(kwargs.get("optimizer")),
            )
            return
        self.recorder = Recorder(
            space,
            self.folder,
            dtype=self.dtype,
            every=self.every,
            gradients=self.gradients,
            sketch=self.sketch,
            first_step=state.global_step,
            about=self._about(model, reason) | _about_optimizer(args, innermost(kwargs.get("optimizer"))),
            optimizer=innermost(kwargs.get("optimizer")),
        )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the gradient that the optimizer is about to get."""
        if self.recorder and self.gradients:
            self.recorder.take_gradient()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the update that the optimizer made."""
        if self.recorder:
            self.recorder.append()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what was recorded so far: the checkpoint can be resumed from."""
        if self.recorder:
            self.recorder.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the recording, and say where it is and what to do with it, unless the trainer shows no progress."""
        if self.recorder is None:
            return
        n_steps = self.recorder.close().n_steps
        self.recorder = None
        if not args.disable_tqdm:
            place = shlex.quote(str(self.folder))
            said = f"{n_steps} updates recorded: {self.folder}\nnext:\n  lineament advise {place}"
            tqdm.write(said, file=sys.stderr)  # beside the trainer's bar, which still stands there

    def trajectory(self) -> Trajectory:
        """Return the recording, for analysis."""
        return Trajectory(self.folder)

    def _about(self, model: nn.Module, reason: str | None) -> dict[str, str | float | int]:
        facts: dict[str, str | None] = {
            "task": self.task or None,
            "model": getattr(getattr(model, "config", None), "_name_or_path", None) or type(model).__name__,
            "no_factors": reason,
        }
        return {key: value for key, value in facts.items() if value is not None}


def _about_optimizer(args: TrainingArguments, optimizer: torch.optim.Optimizer | None) -> dict[str, str | float | int]:
    """Return name and step size of the optimizer that steps, which need not be the one that the arguments name.

    Step sizes are those before a schedule; several groups may have several.
    """
    if optimizer is None or "Dummy" in type(optimizer).__name__:  # of libraries that step by ways of their own
        return {"optimizer": str(getattr(args.optim, "value", args.optim)), "lr": float(args.learning_rate)}
    name = type(optimizer).__name__
    if isinstance(optimizer, SubspaceOptimizer):
        name = f"{name} of {type(optimizer.inner).__name__}"
    sizes = list(dict.fromkeys(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups))
    return {"optimizer": name, "lr": sizes[0] if len(sizes) == 1 else ", ".join(f"{size:g}" for size in sizes)}


def _kind(model: nn.Module) -> tuple[SpaceKind, str | None]:
    """Return `lora_factors` if pairs of factors and nothing else are trainable, else `full` and why no factors."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not any(FACTOR.fullmatch(name) for name in names):
        return "full", None
    reason = why_no_pairs(model, names)
    return ("lora_factors", None) if reason is None else ("full", reason)


def _refuse_sharded(args: TrainingArguments, model: nn.Module) -> None:
    for parameter in model.parameters():
        if hasattr(parameter, "ds_id"):
            raise InputError(SHARDED.format(what="DeepSpeed ZeRO-3"))
        if type(parameter).__name__ == "FlatParameter" or type(parameter.data).__name__ == "DTensor":
            raise InputError(SHARDED.format(what="FSDP"))
    if getattr(args, "fsdp", None):
        raise InputError(SHARDED.format(what="FSDP"))
