"""Anyone's own module and examples as a problem: a model that gives logits, and a pool of examples per task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.problems.problem import SPLITS, Batch, Problem, Split, at_positions
from lineament.streams import Streams


class InMemoryProblem(Problem):
    """A module and examples that fit in memory.

    Args:
        model: `model(input_ids, attention_mask=...)` gives logits (n, length, n_vocabulary), or an object with
            `.logits`. Its parameters that require a gradient are measured.
        data: task -> all its examples as one `Batch` with `choices` set.
        evaluation_examples: examples in each of validation, evaluation and held-out, drawn without overlap.
        seed: decides the splits.
        kind: `full`, or `lora_factors` if the trainable parameters are a PEFT adapter's.

    Raises:
        InputError: no task, a task without `choices`, or with too few examples for three such sets and training.
    """

    name = "in_memory"
    starts_trained = True

    def __init__(
        self,
        model: nn.Module,
        data: Mapping[str, Batch],
        evaluation_examples: int,
        seed: int,
        *,
        kind: str = "full",
        model_name: str | None = None,
    ) -> None:
        if not data:
            raise InputError("no task was given; data maps task names to batches of examples.")
        self.model, self.tasks = model.eval(), tuple(data)
        self.model_name = model_name or type(model).__name__
        self.parameters = ParameterSpace.trainable(model, "lora_factors" if kind == "lora_factors" else "full")
        self.device = self.parameters.tensors[0].device
        streams = Streams(seed).child("in memory")
        self._train: dict[str, Batch] = {}
        self._fixed: dict[tuple[str, Split], Batch] = {}
        for task, batch in data.items():
            self._divide(task, batch, evaluation_examples, streams.generator(task))

    def logits(self, batch: Batch) -> Tensor:
        output = self.model(batch.input_ids, attention_mask=batch.attention_mask)
        logits: Tensor = getattr(output, "logits", output)
        return at_positions(logits, batch.positions)

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        pool = self._train[task]
        return pool.rows(torch.from_numpy(generator.choice(len(pool), size=n, replace=n > len(pool))))

    def fixed(self, task: str, split: Split) -> Batch:
        return self._fixed[task, split]

    def _divide(self, task: str, batch: Batch, n: int, generator: np.random.Generator) -> None:
        if not batch.choices:
            raise InputError(f"task {task!r} has no `choices`: the token ids among which accuracy is judged.")
        if len(batch) < 4 * n:
            raise InputError(f"task {task!r} has {len(batch)} examples; three sets of {n} and training need {4 * n}.")
        batch = batch.to(torch.device("cpu"))  # where examples of every problem are kept and divided
        order = torch.from_numpy(generator.permutation(len(batch)))
        for i, split in enumerate(SPLITS):
            self._fixed[task, split] = batch.rows(order[i * n : (i + 1) * n])
        self._train[task] = batch.rows(order[3 * n :])
