"""What is measured: a model, its tasks and its loss behind one small interface.

Every problem predicts target tokens at known positions. Loss is cross entropy in nats per target token, of a batch the
mean over examples of each one's mean; accuracy is the share of target tokens whose logit is the largest among the
task's allowed answers (`choices`). Examples of a task may have different numbers of targets: the places that do not
count have target `IGNORED`, and come last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.errors import InputError, unknown_name
from lineament.parameters import ParameterSpace, hash_tensors
from lineament.settings.settings import Settings

Split = Literal["train", "validation", "evaluation", "held_out"]
# The fixed sets of a task.
SPLITS: tuple[Split, ...] = ("validation", "evaluation", "held_out")
Corruption = Literal["wrong", "uniform", "shuffled"]
# As everywhere in torch and transformers: no target is here.
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Examples of one task, or of several after `join`.

    Attributes:
        input_ids: (n_examples, length) token ids, padded on the right.
        attention_mask: (n_examples, length), 1 for real tokens.
        positions: (n_examples, n_targets), positions whose logits predict the targets; 0 where none counts.
        targets: (n_examples, n_targets) token ids, or `IGNORED`.
        choices: token ids among which accuracy is judged, `range(n_vocabulary)` where any token may be the answer;
            empty after joining different tasks.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor
    choices: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, index: slice | Tensor) -> Batch:
        """Return the examples at `index`, without columns that are padding in all of them."""
        mask = self.attention_mask[index]
        length = int(mask.sum(dim=1).max())
        ids, positions, targets = self.input_ids[index], self.positions[index], self.targets[index]
        return Batch(ids[:, :length], mask[:, :length], positions, targets, self.choices)

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yield consecutive pieces of at most `size` examples."""
        return (self.rows(slice(start, start + size)) for start in range(0, len(self), size))

    @property
    def n_counted(self) -> int:
        """Targets that count, over all examples."""
        return int((self.targets != IGNORED).sum())

    def last_target(self) -> Batch:
        """Return the same examples with their last target position alone."""
        last = (self.targets != IGNORED).sum(dim=1, keepdim=True) - 1
        return replace(self, positions=self.positions.gather(1, last), targets=self.targets.gather(1, last))

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on a device."""
        moved = {k: getattr(self, k).to(device) for k in ("input_ids", "attention_mask", "positions", "targets")}
        return replace(self, **moved)

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """Concatenate batches, padding to the longest, in tokens and in targets."""
        length = max(batch.input_ids.shape[1] for batch in batches)
        n_targets = max(batch.targets.shape[1] for batch in batches)

        def padded(tensor: Tensor, width: int = length, value: int = 0) -> Tensor:
            return functional.pad(tensor, (0, width - tensor.shape[1]), value=value)

        same = all(batch.choices == batches[0].choices for batch in batches)
        return Batch(
            torch.cat([padded(batch.input_ids) for batch in batches]),
            torch.cat([padded(batch.attention_mask) for batch in batches]),
            torch.cat([padded(batch.positions, n_targets) for batch in batches]),
            torch.cat([padded(batch.targets, n_targets, IGNORED) for batch in batches]),
            batches[0].choices if same else (),
        )


@dataclass(frozen=True)
class Evaluation:
    """Mean loss (nats per target token) and accuracy (fraction of target tokens) over a batch."""

    loss: float
    accuracy: float


class Problem(ABC):
    """A model with its tasks. Subclasses say how to make logits and examples; everything else follows.

    Attributes:
        name: its kind, as records carry it.
        model_name: identity of the model, for records.
        tasks: task names.
        model: the module; kept in evaluation mode, so that dropout never makes a loss random.
        parameters: the measured parameters, as one flat vector.
        device: where the model lives; batches are moved there.
        chunk: examples per forward pass; bounds memory, changes no result beyond rounding.
        starts_trained: whether the model already knows the tasks where it is made. If it does and all its weights are
            measured, that is the operating point; otherwise the measured parameters are trained to it.
        operating_point: theta_star (n_params,) on the CPU where it was trained elsewhere, as with an adapter folder:
            then nothing is trained to it.
        start_known: whether theta_star was trained from the theta_start that the problem is made at. If not,
            theta_start is the model with a fresh adapter, and what is measured near the way from it is left out.
        vmaps: whether `torch.func.vmap` can map its forward pass over stacked parameters.
        notes: what a user should know about how the problem was made, one sentence each.
    """

    name: str
    model_name: str
    tasks: tuple[str, ...]
    model: nn.Module
    parameters: ParameterSpace
    device: torch.device = torch.device("cpu")
    chunk: int = 512
    starts_trained: bool = False
    operating_point: Tensor | None = None
    start_known: bool = True
    vmaps: bool = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Compute logits at the batch's target positions, (n_examples, n_targets, n_vocabulary)."""

    @abstractmethod
    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        """Draw n training examples of a task with `generator`."""

    @abstractmethod
    def fixed(self, task: str, split: Split) -> Batch:
        """Return the fixed set of a task; splits share no example."""

    def contrast_kind(self, task: str) -> Literal["statement", "answer"]:
        """Say what a steering vector of the task contrasts: prompts by their label, or the answers to one prompt."""
        return "statement"

    def neutral(self, task: str, n: int) -> Batch:
        """Return up to n token rows not about `task`: other tasks' held-out inputs, unless a subclass has better.

        A problem of one task has nothing else: then it is that task's own.
        """
        others = [name for name in self.tasks if name != task] or [task]
        share = -(-n // len(others))
        parts = [self.fixed(name, "held_out").rows(slice(0, share)) for name in others]
        # Positions and targets do not matter, and may be of different numbers in different tasks.
        return Batch.join([part.last_target() for part in parts]).rows(slice(0, n))

    def remade(self, settings: Settings) -> Problem:
        """Make the same problem of the same seed with another width or adapter rank, at theta_start.

        Raises:
            InputError: this kind of problem cannot be made again from settings.
        """
        raise InputError(f"a problem of kind {self.name!r} cannot be made again with other settings.")

    def example_losses(self, batch: Batch) -> Tensor:
        """Compute each example's loss, the mean over its target tokens, (n_examples,), differentiable."""
        batch = batch.to(self.device)
        return mean_losses(self.logits(batch), batch.targets)

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean loss over the batch, scalar, differentiable."""
        return self.example_losses(batch).mean()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Evaluation:
        """Compute loss and accuracy over a batch of one task, without gradients."""
        total_loss = total_correct = 0.0
        for part in batch.chunks(self.chunk):
            part = part.to(self.device)
            logits = self.logits(part).double()
            losses = functional.cross_entropy(logits.flatten(0, 1), part.targets.flatten(), reduction="sum")
            total_loss += float(losses)
            total_correct += float((answers(logits, batch.choices) == part.targets).sum())
        n_targets = batch.n_counted
        return Evaluation(total_loss / n_targets, total_correct / n_targets)

    def evaluate_all(self, split: Split) -> dict[str, Evaluation]:
        """Evaluate every task on its fixed set of a split."""
        return {task: self.evaluate(self.fixed(task, split)) for task in self.tasks}

    def model_hash(self) -> str:
        """Hash the names, shapes and bytes of every parameter of the model as it stands."""
        return hash_tensors(self.model.named_parameters())

    def require_task(self, task: str) -> None:
        """Raise `InputError` with the nearest match unless the task exists."""
        if task not in self.tasks:
            raise unknown_name("task", task, self.tasks)


def mean_losses(logits: Tensor, targets: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Average cross entropy over each row's targets that count, (n_examples,), differentiable.

    Args:
        logits: (n_examples, n_targets, n_vocabulary). targets: (n_examples, n_targets), or `IGNORED`.
        dtype: in which means are taken; default that of the logits.
    """
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    # asking whether all count would make a GPU wait in every pass
    return losses.view_as(targets).to(dtype or losses.dtype).sum(dim=1) / (targets != IGNORED).sum(dim=1)


def answers(logits: Tensor, choices: Sequence[int]) -> Tensor:
    """Return the token with the largest logit among the choices, (n_examples, n_targets)."""
    if isinstance(choices, range):  # every token: no copy of the logits
        return logits[..., choices.start : choices.stop].argmax(dim=-1) + choices.start
    allowed = torch.tensor(choices, device=logits.device)
    return allowed[logits[..., allowed].argmax(dim=-1)]


def corrupted(
    batch: Batch, how: Corruption, generator: np.random.Generator, shift: int = 1, group: int | None = None
) -> Batch:
    """Return the same inputs with other targets; inputs, teacher-forced answers included, stay as they are.

    Args:
        how: `wrong`: each answer replaced by the one `shift` places on in `choices`, never right;
            `uniform`: answers drawn uniformly from `choices`; `shuffled`: targets permuted between examples, or, where
            examples have different numbers of them, between all places that count.
        shift: 1 .. len(choices) - 1.
        group: where rows are alike, each `group` examples get the `shuffled` targets of the next `group`, so that a
            balanced group stays balanced; by default the targets of the whole batch are permuted.
    """
    counted = batch.targets != IGNORED
    if how == "shuffled":
        return replace(batch, targets=_shuffled(batch.targets, counted, generator, group))
    n_choices, device = len(batch.choices), batch.targets.device
    if how == "uniform":
        place = torch.from_numpy(generator.integers(n_choices, size=tuple(batch.targets.shape))).to(device)
    elif 1 <= shift < n_choices:
        place = (_places(batch.targets, batch.choices) + shift) % n_choices
    else:
        raise InputError(f"shift {shift} for wrong labels; allowed: 1 to {n_choices - 1}.")
    found = place + batch.choices.start if isinstance(batch.choices, range) else _tokens(batch.choices, place)
    return replace(batch, targets=torch.where(counted, found, batch.targets))


def balanced_parts(batch: Batch, n_parts: int) -> list[Batch]:
    """Deal a batch into parts that hold every target equally often, give or take one.

    Cut by position, each would have a chance majority of one label, opposite in the two of two halves.
    """
    classes = torch.unique(batch.targets, dim=0, return_inverse=True)[1]
    order = torch.argsort(classes, stable=True)
    return [batch.rows(order[start::n_parts].sort().values) for start in range(min(n_parts, len(batch)))]


def _tokens(choices: Sequence[int], place: Tensor) -> Tensor:
    return torch.tensor(choices, device=place.device)[place]


def _shuffled(targets: Tensor, counted: Tensor, generator: np.random.Generator, group: int | None = None) -> Tensor:
    if bool((counted == counted[:1]).all()):  # rows of one kind stay whole
        size = group or len(targets)
        inside = [start + generator.permutation(size) for start in range(0, len(targets), size)]
        order = np.concatenate([*inside[1:], inside[0]])
        return targets[torch.from_numpy(order).to(targets.device)]
    found, order = targets.clone(), generator.permutation(int(counted.sum()))
    found[counted] = targets[counted][torch.from_numpy(order).to(targets.device)]
    return found


def _places(targets: Tensor, choices: Sequence[int]) -> Tensor:
    """Return where each target stands among the choices."""
    if isinstance(choices, range):
        return targets - choices.start
    return (targets[..., None] == torch.tensor(choices, device=targets.device)).int().argmax(dim=-1)


def padded_rows(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """Pad token rows of different lengths on the right; the wanted position is each row's last token."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return Batch(ids, mask, mask.sum(dim=1, keepdim=True) - 1, torch.zeros(len(rows), 1, dtype=torch.long))


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Pick (n_rows, length, width) -> (n_rows, n_targets, width) at positions (n_examples, n_targets).

    n_rows may be a multiple of n_examples: copies of the whole batch, one after the other.
    """
    positions = positions.repeat(len(hidden) // len(positions), 1)
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def chosen_device(name: str) -> torch.device:
    """Choose the device; `auto` is cuda when there is one, and `InputError` says that cuda is absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch sees none. Use --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
