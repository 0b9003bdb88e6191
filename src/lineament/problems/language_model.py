"""Causal language models of transformers with a LoRA adapter of PEFT, on statements or a user's own examples.

Only the wanted positions go through the output head; `encoding` says what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from lineament.errors import InputError, unknown_name
from lineament.parameters import ParameterSpace, SpaceKind
from lineament.problems.adapters import (
    adapted_names,
    attach_lora,
    attach_stored,
    base_name,
    load_adapter,
    usual_targets,
)
from lineament.problems.encoding import EncodedPairs, Encoder, Example
from lineament.problems.factory import Factory
from lineament.problems.frozen_linear import quicken
from lineament.problems.labelled_data import Item, LabelledData, Pair, Passage, read_task
from lineament.problems.loading import load_model
from lineament.problems.neutral_text import NEUTRAL_TEXTS
from lineament.problems.problem import SPLITS, Batch, Problem, Split, at_positions, chosen_device, padded_rows
from lineament.problems.progress import Progress
from lineament.problems.statements import STATEMENT_TASKS, Labelled, Splits, Statement, split, split_by_group
from lineament.problems.stored_adapters import read_adapter
from lineament.problems.token_rows import TokenRows
from lineament.settings.model import ModelSettings
from lineament.settings.settings import Settings
from lineament.settings.task import data_name
from lineament.streams import Streams

# Logits of this many target tokens are held at once in a gradient pass: 200 MB of a vocabulary of 50,000.
MAX_TARGETS_AT_ONCE = 1024


class LanguageModelProblem(Problem):
    """A causal LM, a fresh adapter and statement tasks.

    Args:
        settings: model, task, lora and recovery.space decide the problem.
        seed: adapter, splits and batches; the checkpoint is the same for every seed.
        for_study: tasks are made ready, and what is wrong with them is found, at once; otherwise when they are asked
            for.

    With `model.adapter`, that folder's adapter is theta_star (`operating_point`). theta_start is `model.adapter_start`
    where given; otherwise it is the model with a fresh adapter of the same configuration (B = 0, so the model's own
    answers), from which theta_star was not trained (`start_known`).
    """

    name = "lm"
    chunk = 32  # examples whose activations are held at once in a gradient pass: about 1 GB for SmolLM2-135M

    def __init__(self, settings: Settings, seed: int, *, for_study: bool = True) -> None:
        self.streams = Streams(seed).child("lm")
        self.tasks = statement_task_names(settings)
        data = read_task(settings.task.data) if settings.task.data else None
        self._pairs_task = data.name if data and data.is_pairs else None
        if data and not data.is_labelled and data.name in settings.task.targets and "steering" in settings.measure:
            raise InputError(f"{data.path} has no two labels to steer between; leave steering out of --measure.")
        for folder in filter(None, (settings.model.adapter, settings.model.adapter_start)):
            read_adapter(Path(folder))  # what is wrong with it is known before a large model is loaded
        model, self.tokenizer = load_model(settings.model.name, settings.model.dtype)
        self.model_name = settings.model.name
        longest = getattr(model.config, "max_position_embeddings", None)
        n_vocabulary = len(model.get_output_embeddings().weight)
        n_embeddings = len(model.get_input_embeddings().weight)
        self.encoder = Encoder(TokenRows(self.tokenizer, n_embeddings, self.model_name), n_vocabulary, longest)
        self.device = chosen_device(settings.device)
        if settings.recovery.space == "lora":
            self.model: nn.Module = self._adapted(model, settings)
        else:
            self.model = model.requires_grad_(True).eval()
        self.model.to(self.device)
        quicken(self.model)
        kind: SpaceKind = "lora_factors" if settings.recovery.space == "lora" else "full"
        self.parameters = ParameterSpace.trainable(self.model, kind)
        if settings.model.adapter:
            self._take_adapter(settings.model)
        self._head: nn.Module = model.get_output_embeddings()  # now, since an adapter may have wrapped it
        self._fixed: dict[tuple[str, Split], Batch] = {}
        self._splits = self._draw_splits(settings.task.evaluation_examples, data, settings.task.text_tokens)
        if for_study:
            if data:
                self._require_encodable(data)
            for task in self.tasks:
                for name in SPLITS:
                    self.fixed(task, name)
            self.chunk = max(1, min(self.chunk, MAX_TARGETS_AT_ONCE // self._most_targets()))
        self.notes += (*(data.notes if data else ()), *self.encoder.rows.notes)

    def _most_targets(self) -> int:
        """Count the target places of an example in the task that has most."""
        return max(batch.targets.shape[1] for batch in self._fixed.values())

    def _adapted(self, model: nn.Module, settings: Settings) -> PeftModel:
        """Attach a fresh adapter: of settings.lora, or of the configuration of a given folder."""
        seed = self.streams.integer("adapter")
        if settings.model.adapter:
            adapted = attach_stored(model, Path(settings.model.adapter), seed)
        else:
            adapted = attach_lora(model, settings.lora, seed, usual_targets(model))
        adapted.peft_config["default"].base_model_name_or_path = settings.model.name  # not the path of a package
        self.notes = (f"adapter on {', '.join(adapted_names(adapted))}",)
        return adapted

    def _take_adapter(self, given: ModelSettings) -> None:
        """Take an adapter folder's weights as theta_star, and those it was trained from, if given, as theta_start."""
        folder, start = Path(given.adapter), Path(given.adapter_start)
        self.operating_point = load_adapter(self.parameters, folder).cpu()
        self.start_known = bool(given.adapter_start)
        if self.start_known:
            self.parameters.write(load_adapter(self.parameters, start))
        else:
            self.notes += (f"theta_start of {folder} is not known (model.adapter_start): static_start is left out",)
        if (base := base_name(folder)) and base != given.name:
            self.notes += (f"{folder} says that its base model is {base}; here it is on {given.name}",)

    def logits(self, batch: Batch) -> Tensor:
        with _only_at(self._head, batch.positions):
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        logits: Tensor = output.logits
        return logits.float() if logits.dtype == torch.bfloat16 else logits

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        # As many true as false statements, in random order: otherwise the labels' chance imbalance, not their content,
        # is most of a small batch's gradient, and a model at chance does not begin to learn.
        train = self._splits[task].train
        if not hasattr(train[0], "label"):
            return self.encode([train[i] for i in generator.choice(len(train), size=n, replace=n > len(train))])
        n_true = n // 2 + int(generator.integers(2)) * (n % 2)
        chosen: list[Labelled] = []
        for label, size in ((True, n_true), (False, n - n_true)):
            pool = [s for s in train if s.label == label]
            chosen += [pool[i] for i in generator.choice(len(pool), size=size, replace=size > len(pool))]
        return self.encode([chosen[i] for i in generator.permutation(n)])

    def fixed(self, task: str, split: Split) -> Batch:
        if (task, split) not in self._fixed:
            self._fixed[task, split] = self.encode(getattr(self._splits[task], split))
        return self._fixed[task, split]

    def neutral(self, task: str, n: int) -> Batch:
        rows = [self.encoder.rows.of(text)[: self.encoder.most_tokens] for text in NEUTRAL_TEXTS[:n]]
        return padded_rows(rows, self.encoder.rows.padding)

    def remade(self, settings: Settings) -> LanguageModelProblem:
        return LanguageModelProblem(settings, self.streams.seed)

    def statements(self, task: str) -> Splits[Any]:
        """Return the examples of a task, by split."""
        return self._splits[task]

    def contrast_kind(self, task: str) -> Literal["statement", "answer"]:
        return "answer" if task == self._pairs_task else "statement"

    def encode(self, examples: Sequence[Labelled | Item | Example], template: str = "", *, chat: bool = False) -> Batch:
        """Encode examples of one shape as token rows with targets; see `Encoder.encode`."""
        return self.encoder.encode(examples, template, chat=chat)

    def encode_pairs(self, pairs: Sequence[Pair], *, chat: bool = False) -> EncodedPairs:
        """Encode questions with two answers; see `Encoder.encode_pairs`."""
        return self.encoder.encode_pairs(pairs, chat=chat)

    def encode_continuations(
        self, items: Sequence[Statement | Pair], template: str = "", *, chat: bool = False
    ) -> Batch:
        """Encode texts with every token of their own as a target; see `Encoder.encode_continuations`."""
        return self.encoder.encode_continuations(items, template, chat=chat)

    def encode_texts(self, texts: Sequence[str]) -> Batch:
        """Encode texts without targets; see `Encoder.encode_texts`."""
        return self.encoder.encode_texts(texts)

    def _draw_splits(self, n: int, data: LabelledData | None, length: int) -> dict[str, Splits[Any]]:
        """Divide every task; statements and answer pairs by label, other shapes by group alone."""
        found: dict[str, Splits[Any]] = {}
        for task in self.tasks:
            generator = self.streams.generator("split", task)
            if data and task == data.name:
                found[task] = self._split_data(data, n, length, generator)
            else:
                found[task] = split(STATEMENT_TASKS[task](), n, generator)
        return found

    def _split_data(self, data: LabelledData, n: int, length: int, generator: np.random.Generator) -> Splits[Any]:
        if data.is_labelled:
            return split(data.items, n, generator)  # type: ignore[arg-type]
        if not isinstance(data.items[0], Passage):
            return split_by_group(data.items, n, generator)
        length = min(length, self.encoder.most_tokens or length)
        blocks, words = self.encoder.blocks([item for item in data.items if isinstance(item, Passage)], length)
        self.notes += (f"{data.path}: {words}",)
        return split_by_group(blocks, n, generator)

    def _require_encodable(self, data: LabelledData) -> None:
        """Refuse a row that cannot be encoded, naming its line, before anything is written."""
        if isinstance(data.items[0], Passage):
            return
        for item, line in zip(data.items, data.lines, strict=True):
            try:
                self.encode([item])
            except InputError as error:
                raise InputError(f"{data.path}, line {line}: {error}") from None


def statement_task_names(settings: Settings) -> tuple[str, ...]:
    """Return the tasks in registry order, the data file's last; `InputError` with the nearest for an unknown one."""
    known = [*STATEMENT_TASKS]
    if settings.task.data:
        name = data_name(settings.task.data)
        if name in known:
            raise InputError(f"the data file {settings.task.data} is named like the task {name!r}; rename it.")
        known.append(name)
    for name in settings.task.names:
        if name not in known:
            raise unknown_name("task", name, known)
    return tuple(name for name in known if not settings.task.names or name in settings.task.names)


@contextmanager
def _only_at(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """Let the output head see the wanted positions only: (n, length, width) -> (n, n_targets, width)."""

    def select(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (at_positions(inputs[0], positions),)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def make(settings: Settings, seed: int, progress: Progress) -> LanguageModelProblem:
    """Make the problem of a seed, which loads the model."""
    progress(f"loading {settings.model.name}", 0, 1)
    return LanguageModelProblem(settings, seed)


FACTORY = Factory(make, statement_task_names)
