"""What is measured: a model, its tasks and its loss behind one small interface.

Every problem predicts target tokens at known positions. Loss is cross entropy in nats per target token; accuracy is
the share of target tokens whose logit is the largest among the task's allowed answers (`choices`).
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
from lineament.settings import Settings

Split = Literal["train", "validation", "evaluation", "held_out"]
# The fixed sets of a task.
SPLITS: tuple[Split, ...] = ("validation", "evaluation", "held_out")
Corruption = Literal["wrong", "uniform", "shuffled"]


@dataclass(frozen=True)
class Batch:
    """Examples of one task, or of several after `join`.

    Attributes:
        input_ids: (n_examples, length) token ids, padded on the right.
        attention_mask: (n_examples, length), 1 for real tokens.
        positions: (n_examples, n_targets), positions whose logits predict the targets.
        targets: (n_examples, n_targets) token ids.
        choices: token ids among which accuracy is judged; empty after joining different tasks.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    targets: Tensor
    choices: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    def rows(self, index: slice | Tensor) -> Batch:
        """The examples at `index`, without columns that are padding in all of them."""
        mask = self.attention_mask[index]
        length = int(mask.sum(dim=1).max())
        ids, positions, targets = self.input_ids[index], self.positions[index], self.targets[index]
        return Batch(ids[:, :length], mask[:, :length], positions, targets, self.choices)

    def chunks(self, size: int) -> Iterator[Batch]:
        """Consecutive pieces of at most `size` examples."""
        return (self.rows(slice(start, start + size)) for start in range(0, len(self), size))

    def last_target(self) -> Batch:
        """The same examples with their last target position alone."""
        return replace(self, positions=self.positions[:, -1:], targets=self.targets[:, -1:])

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = {k: getattr(self, k).to(device) for k in ("input_ids", "attention_mask", "positions", "targets")}
        return replace(self, **moved)

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """Concatenate batches, padding to the longest; all must have equally many targets per example."""
        length = max(batch.input_ids.shape[1] for batch in batches)

        def padded(tensor: Tensor) -> Tensor:
            return functional.pad(tensor, (0, length - tensor.shape[1]))

        same = all(batch.choices == batches[0].choices for batch in batches)
        return Batch(
            torch.cat([padded(batch.input_ids) for batch in batches]),
            torch.cat([padded(batch.attention_mask) for batch in batches]),
            torch.cat([batch.positions for batch in batches]),
            torch.cat([batch.targets for batch in batches]),
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
        name: `synthetic` or `lm`.
        model_name: identity of the model, for records.
        tasks: task names.
        model: the module; kept in evaluation mode, so that dropout never makes a loss random.
        space: the measured parameters.
        device: where the model lives; batches are moved there.
        chunk: examples per forward pass; bounds memory, changes no result beyond rounding.
        starts_trained: whether the model already knows the tasks where it is made. If it does and all its weights are
            measured, that is the operating point; otherwise the measured parameters are trained to it.
    """

    name: str
    model_name: str
    tasks: tuple[str, ...]
    model: nn.Module
    space: ParameterSpace
    device: torch.device = torch.device("cpu")
    chunk: int = 512
    starts_trained: bool = False

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Logits at the batch's target positions, (n_examples, n_targets, n_vocabulary)."""

    @abstractmethod
    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        """n training examples of a task, drawn with `generator`."""

    @abstractmethod
    def fixed(self, task: str, split: Split) -> Batch:
        """The fixed set of a task; splits share no example."""

    def contrast_kind(self, task: str) -> Literal["statement", "answer"]:
        """What a steering vector of the task contrasts: prompts by their label, or the answers to one prompt."""
        return "statement"

    def neutral(self, task: str, n: int) -> Batch:
        """Up to n token rows that are not about `task`: other tasks' held-out inputs, unless a subclass has better.

        A problem of one task has nothing else: then it is that task's own.
        """
        others = [name for name in self.tasks if name != task] or [task]
        share = -(-n // len(others))
        parts = [self.fixed(name, "held_out").rows(slice(0, share)) for name in others]
        # Positions and targets do not matter, and may be of different numbers in different tasks.
        return Batch.join([part.last_target() for part in parts]).rows(slice(0, n))

    def remade(self, settings: Settings) -> Problem:
        """The same problem of the same seed with another width or adapter rank, at theta_start.

        Raises:
            InputError: this kind of problem cannot be made again from settings.
        """
        raise InputError(f"a problem of kind {self.name!r} cannot be made again with other settings.")

    def example_losses(self, batch: Batch) -> Tensor:
        """Loss of each example, the mean over its target tokens, (n_examples,), differentiable."""
        batch = batch.to(self.device)
        logits = self.logits(batch)
        losses = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view_as(batch.targets).mean(dim=1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over the batch, scalar, differentiable."""
        return self.example_losses(batch).mean()

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Evaluation:
        """Loss and accuracy over a batch of one task, without gradients."""
        total_loss = total_correct = 0.0
        for part in batch.chunks(self.chunk):
            part = part.to(self.device)
            logits = self.logits(part).double()
            losses = functional.cross_entropy(logits.flatten(0, 1), part.targets.flatten(), reduction="sum")
            choices = torch.tensor(batch.choices, device=logits.device)
            answers = choices[logits[..., choices].argmax(dim=-1)]
            total_loss += float(losses)
            total_correct += float((answers == part.targets).sum())
        n_targets = batch.targets.numel()
        return Evaluation(total_loss / n_targets, total_correct / n_targets)

    def evaluate_all(self, split: Split) -> dict[str, Evaluation]:
        """Every task on its fixed set of a split."""
        return {task: self.evaluate(self.fixed(task, split)) for task in self.tasks}

    def model_hash(self) -> str:
        """Short hash over the names, shapes and bytes of every parameter of the model as it stands."""
        return hash_tensors(self.model.named_parameters())

    def require_task(self, task: str) -> None:
        """Raise `InputError` with the nearest match unless the task exists."""
        if task not in self.tasks:
            raise unknown_name("task", task, self.tasks)


def corrupted(batch: Batch, how: Corruption, generator: np.random.Generator, shift: int = 1) -> Batch:
    """The same inputs with other targets; inputs, teacher-forced answers included, stay as they are.

    Args:
        how: `wrong`: each answer replaced by the one `shift` places on in `choices`, never right;
            `uniform`: answers drawn uniformly from `choices`; `shuffled`: targets permuted between examples.
        shift: 1 .. len(choices) - 1.
    """
    choices = torch.tensor(batch.choices, device=batch.targets.device)
    if how == "shuffled":
        order = torch.from_numpy(generator.permutation(len(batch))).to(batch.targets.device)
        return replace(batch, targets=batch.targets[order])
    if how == "uniform":
        drawn = torch.from_numpy(generator.integers(len(choices), size=tuple(batch.targets.shape)))
        return replace(batch, targets=choices[drawn.to(choices.device)])
    if not 1 <= shift < len(choices):
        raise InputError(f"shift {shift} for wrong labels; allowed: 1 to {len(choices) - 1}.")
    place = (batch.targets[..., None] == choices).int().argmax(dim=-1)
    return replace(batch, targets=choices[(place + shift) % len(choices)])


def padded_rows(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """Token rows of different lengths as a batch padded on the right; the wanted position is each row's last token."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return Batch(ids, mask, mask.sum(dim=1, keepdim=True) - 1, torch.zeros(len(rows), 1, dtype=torch.long))


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """(n_rows, length, width) -> (n_rows, n_targets, width) at positions (n_examples, n_targets).

    n_rows may be a multiple of n_examples: copies of the whole batch, one after the other.
    """
    positions = positions.repeat(len(hidden) // len(positions), 1)
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def chosen_device(name: str) -> torch.device:
    """`auto` is cuda when there is one; `InputError` if cuda is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch sees none. Use --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
