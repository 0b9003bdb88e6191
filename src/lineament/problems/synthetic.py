"""The embedded problem: a small transformer trained from scratch on token-level tasks chosen by a task token.

An example is [task, x_1 .. x_n, separator, y_1 .. y_(n-1)] and the targets are y_1 .. y_n. Training data are drawn
afresh at every step; the fixed sets come from other streams of the same seed (10^n inputs: a shared one is unlikely,
and shared between validation, evaluation and held-out it is excluded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from lineament.errors import InputError, unknown_name
from lineament.files.tensors import MADE_AGAIN, load_tensors
from lineament.parameters import ParameterSpace
from lineament.problems.base_cache import cache_folder, keep_base, require_cache
from lineament.problems.factory import Factory
from lineament.problems.problem import SPLITS, Batch, Problem, Split, chosen_device
from lineament.problems.progress import Progress
from lineament.problems.synthetic_tasks import N_DIGITS, TASKS
from lineament.problems.transformer import Transformer
from lineament.settings.agreements import Agreement
from lineament.settings.plain import digest, to_dict
from lineament.settings.settings import Settings
from lineament.streams import Streams

# Called with (steps done, steps in all) while the base model is trained.
OnStep = Callable[[int, int], None]
N_VOCABULARY = N_DIGITS + len(TASKS) + 1
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
SEPARATOR = N_VOCABULARY - 1
# Inputs of so many digits never run out.
MANY_DIGITS = 12
# Model settings that decide the base model; the others are for language models.
SHAPE = ("name", "width", "layers", "heads", "length")


class SyntheticProblem(Problem):
    """The trained transformer of one seed, with full weights or a fresh LoRA adapter as the measured space.

    Args:
        settings: model, task, training, lora and recovery.space decide the problem.
        seed: everything random.
        progress: called with (step, steps) while the base model is trained.
    """

    name = "synthetic"
    starts_trained = True
    vmaps = True

    def __init__(self, settings: Settings, seed: int, progress: OnStep | None = None) -> None:
        self.tasks = task_names(settings)
        self.streams = Streams(seed).child("synthetic")
        self.length = settings.model.length
        self.model_name = f"synthetic transformer {settings.model.layers}x{settings.model.width}"
        self._fixed = {task: self._draw_fixed(task, settings.task.evaluation_examples) for task in self.tasks}
        base = trained_base(self, settings, progress)
        self.device = chosen_device(settings.device)
        base.to(self.device)
        if settings.recovery.space == "lora":
            from lineament.problems.adapters import attach_lora  # PEFT takes seconds to import

            self.model = attach_lora(base, settings.lora, self.streams.integer("adapter"), LORA_TARGETS)
            self.parameters = ParameterSpace.trainable(self.model, "lora_factors")
        else:
            self.model = base
            self.parameters = ParameterSpace.trainable(base)

    def logits(self, batch: Batch) -> Tensor:
        return self.model(batch.input_ids, batch.positions)  # type: ignore[no-any-return]

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        return self._batch(task, generator.integers(N_DIGITS, size=(n, self.length)))

    def fixed(self, task: str, split: Split) -> Batch:
        return self._fixed[task][split]

    def remade(self, settings: Settings) -> SyntheticProblem:
        return SyntheticProblem(settings, self.streams.seed)

    def _draw_fixed(self, task: str, n: int) -> dict[Split, Batch]:
        generator = self.streams.generator("fixed", task)
        drawn = generator.integers(N_DIGITS, size=(5 * n, self.length))
        distinct = generator.permutation(np.unique(drawn, axis=0))
        if len(distinct) < 3 * n:
            raise InputError(f"model.length {self.length} gives too few inputs for 3 sets of {n} examples.")
        return {split: self._batch(task, distinct[i * n : (i + 1) * n]) for i, split in enumerate(SPLITS)}

    def _batch(self, task: str, digits: np.ndarray) -> Batch:
        n, length = digits.shape
        answers = TASKS[task].answer(digits)
        first = np.full((n, 1), N_DIGITS + list(TASKS).index(task))
        ids = np.concatenate([first, digits, np.full((n, 1), SEPARATOR), answers[:, :-1]], axis=1)
        input_ids = torch.from_numpy(ids)
        positions = torch.arange(length + 1, 2 * length + 1).expand(n, -1)
        targets = torch.from_numpy(np.ascontiguousarray(answers))
        return Batch(input_ids, torch.ones_like(input_ids), positions, targets, tuple(range(TASKS[task].n_answers)))


def task_names(settings: Settings) -> tuple[str, ...]:
    """Return the problem's tasks in registry order; `InputError` with the nearest match for an unknown one."""
    for name in settings.task.names:
        if name not in TASKS:
            raise unknown_name("task", name, TASKS)
    return tuple(name for name in TASKS if not settings.task.names or name in settings.task.names)


def trained_base(problem: SyntheticProblem, settings: Settings, progress: OnStep | None) -> Transformer:
    """Load this seed's base model from the cache, or train it now and cache it by its config hash."""
    model = _fresh_model(problem, settings)
    path = base_file(settings, problem.streams.seed)
    if path.exists():
        model.load_state_dict(load_tensors(path, "the cached base model", MADE_AGAIN, model.state_dict()))
    else:
        _train_base(problem, model, settings, progress)
        keep_base(path.name, save(model.state_dict()))
    return model.eval()


def base_file(settings: Settings, seed: int) -> Path:
    """Return where the base model of a seed is cached, once it is trained."""
    shape = {key: value for key, value in to_dict(settings.model).items() if key in SHAPE}
    body = {
        "model": shape,
        "training": to_dict(settings.training),
        "tasks": task_names(settings),
        "seed": seed,
        "threads": settings.threads,
        "torch": torch.__version__,
    }
    return cache_folder() / f"synthetic-{digest(body)}.safetensors"


def _fresh_model(problem: SyntheticProblem, settings: Settings) -> Transformer:
    m = settings.model
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the GPUs' generators too
        torch.default_generator.manual_seed(problem.streams.integer("initial weights"))
        return Transformer(N_VOCABULARY, 2 * m.length + 1, m.width, m.layers, m.heads)


def _train_base(problem: SyntheticProblem, model: Transformer, settings: Settings, progress: OnStep | None) -> None:
    training, streams = settings.training, problem.streams.child("base training")
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, training.steps))
    problem.model = model
    per_task = max(1, training.batch // len(problem.tasks))
    for step in range(training.steps):
        parts = [problem.sample(task, per_task, streams.generator(task, step)) for task in problem.tasks]
        loss = problem.loss(Batch.join(parts))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if progress:
            progress(step + 1, training.steps)
    optimizer.zero_grad(set_to_none=True)  # a model from the cache has no gradients either


def _warm_cosine(step: int, steps: int, warmup: int = 50) -> float:
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + float(np.cos(np.pi * step / steps)))


def make(settings: Settings, seed: int, progress: Progress) -> SyntheticProblem:
    """Make the problem of a seed, with the base model from the cache or trained now."""
    return SyntheticProblem(settings, seed, lambda done, total: progress("training the base model", done, total))


def check(settings: Settings) -> Iterator[Agreement]:
    """Yield what the embedded transformer demands of the settings."""
    require_cache()
    for name in settings.lora.targets:
        yield name in LORA_TARGETS, str(unknown_name("module", name, LORA_TARGETS, "lora.targets"))
    model, n = settings.model, settings.task.evaluation_examples
    yield (
        model.name == "synthetic",
        f"model.name is {model.name}; the synthetic problem makes its own model, set by model.width, model.layers "
        "and model.heads. Use `lineament run lm` for another.",
    )
    # search.widths are looked at only when they are used, as all keys of `search`
    widths = settings.search.widths if "random_search" in settings.measure else ()
    for key, width in (("model.width", model.width), *(("search.widths", width) for width in widths)):
        yield width % model.heads == 0, f"{key} is {width}; it must be a multiple of model.heads, {model.heads}."
    yield (
        # three sets are cut from the different inputs among 5 n draws
        model.length >= MANY_DIGITS or 5 * n <= N_DIGITS**model.length,
        f"task.evaluation_examples is {n}; it must be at most a fifth of the 10^{model.length} inputs that "
        f"model.length {model.length} allows. Raise model.length.",
    )


FACTORY = Factory(make, task_names, check, base_file)
