"""The registry of small problems: a line here, and every test over `CASES` runs on a new problem the same day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from lineament.parameters import ParameterSpace
from lineament.problems.adapters import attach_lora
from lineament.problems.problem import Batch, Problem, Split, at_positions
from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.model import LoraSettings, ModelSettings
from lineament.settings.settings import Settings
from lineament.settings.task import TaskSettings
from lineament.settings.training import RecoverySettings, TrainingSettings
from lineament.streams import Streams

N_NOISE = 64
N_WORDS = 13


class Point(nn.Module):
    """A model that is nothing but its parameter vector."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)


class QuadraticProblem(Problem):
    """loss_i = 1/2 (theta - c)' H (theta - c) + z_i . theta in float64, example i chosen by its one token.

    Attributes:
        hessian: H, (n, n). centre: c. noise: z, (N_NOISE, n).
    """

    name = "quadratic"
    model_name = "quadratic"
    tasks = ("bowl",)

    def __init__(self, eigenvalues: np.ndarray, seed: int = 0, noise: float = 0.1) -> None:
        generator, n = Streams(seed).generator("quadratic"), len(eigenvalues)
        rotation = np.linalg.qr(generator.standard_normal((n, n)))[0]
        self.hessian = torch.from_numpy(rotation * eigenvalues @ rotation.T)
        self.centre = torch.from_numpy(generator.standard_normal(n))
        self.noise = noise * torch.from_numpy(generator.standard_normal((N_NOISE, n)))
        self.model = Point(torch.from_numpy(generator.standard_normal(n)))
        self.parameters = ParameterSpace.trainable(self.model)

    def example_losses(self, batch: Batch) -> Tensor:
        shift = self.model.theta - self.centre
        return shift @ self.hessian @ shift / 2 + self.noise[batch.input_ids[:, 0]] @ self.model.theta

    def exact_gradient(self, batch: Batch) -> Tensor:
        """H (theta - c) + mean z."""
        shift = self.model.theta.detach() - self.centre
        return self.hessian @ shift + self.noise[batch.input_ids[:, 0]].mean(dim=0)

    def logits(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        ids = torch.from_numpy(generator.integers(N_NOISE, size=(n, 1)))
        return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), torch.zeros_like(ids), (0, 1))

    def fixed(self, task: str, split: Split) -> Batch:
        return self.sample(task, 8, Streams(1).generator(split))


class WordsProblem(Problem):
    """Prompts of 3 to 7 random words, padded on the right, one target word after each."""

    name = "words"
    tasks = ("words",)

    def __init__(self, model: nn.Module, space: ParameterSpace, logits: Callable[[Batch], Tensor]) -> None:
        self.model, self.parameters, self._logits = model.eval(), space, logits
        self.model_name = type(model).__name__

    def logits(self, batch: Batch) -> Tensor:
        return self._logits(batch)

    def sample(self, task: str, n: int, generator: np.random.Generator) -> Batch:
        lengths = torch.from_numpy(generator.integers(3, 8, size=n))
        width = int(lengths.max())
        mask = (torch.arange(width) < lengths[:, None]).long()
        ids = torch.from_numpy(generator.integers(1, N_WORDS, size=(n, width))) * mask
        targets = torch.from_numpy(generator.integers(1, N_WORDS, size=(n, 1)))
        return Batch(ids, mask, lengths[:, None] - 1, targets, tuple(range(N_WORDS)))

    def fixed(self, task: str, split: Split) -> Batch:
        return self.sample(task, 8, Streams(1).generator(split))


class ConvToy(nn.Module):
    """Embedding, causal running mean, and two of transformers' Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(N_WORDS, 8)
        self.first = Conv1D(12, 8)
        self.norm = nn.LayerNorm(12)
        self.second = Conv1D(N_WORDS, 12)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.3)

    def forward(self, ids: Tensor) -> Tensor:
        counts = torch.arange(1, ids.shape[1] + 1)[:, None]
        mixed = self.embed(ids).cumsum(dim=1) / counts
        return self.second(self.norm(functional.gelu(self.first(mixed))))


class Linear(nn.Module):
    """Somebody's own layer that happens to have this name; it scales the rows of its weight to length one."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(d_out, d_in)), nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, functional.normalize(self.weight, dim=1), self.bias)


class LayerNorm(nn.Module):
    """nanoGPT's, whose bias is optional and whose attributes are not torch's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(0.5, 1.5, width)), None

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Borrowed(nn.Module):
    """torch's own Linear, whose weight is also used without calling it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + functional.linear(x * x, self.inner.weight)


class Placed(nn.Module):
    """Adds position embeddings as nanoGPT does: looked up once for the whole batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Embedding(16, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places(torch.arange(x.shape[1]))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module with initial weights that are the same every time; the global generator is given back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def moved(problem: Problem, size: float = 0.1) -> Problem:
    """The problem a little away from where it starts, so that no LoRA factor is zero."""
    theta = problem.parameters.read(torch.float64)
    noise = torch.from_numpy(Streams(5).generator("moved").standard_normal(len(theta)))
    problem.parameters.write(theta + size * noise)
    return problem


def tiny_settings(space: str = "full", **model: int) -> Settings:
    """A synthetic problem that trains in a quarter of a second."""
    return Settings(
        model=ModelSettings(**{"width": 16, "layers": 1, "heads": 2, "length": 4, **model}),
        task=TaskSettings(names=("copy", "increment", "parity"), evaluation_examples=16),
        training=TrainingSettings(steps=30, batch=24),
        lora=LoraSettings(rank=2, alpha=4),
        recovery=RecoverySettings(space=space),
    )


def trained_settings(space: str = "full") -> Settings:
    """A synthetic problem that knows its tasks after a second or two; the base is cached for the session."""
    return replace(
        tiny_settings(space, width=32, layers=1, heads=2),
        training=TrainingSettings(steps=300, lr=1e-2, batch=96),
    )


def quadratic() -> Problem:
    return QuadraticProblem(np.linspace(0.1, 2.0, 12))


def transformer_full() -> Problem:
    return SyntheticProblem(tiny_settings("full", layers=2), 0)


def transformer_lora() -> Problem:
    return moved(SyntheticProblem(tiny_settings("lora"), 0))


def conv1d(**parts: Callable[[], nn.Module]) -> Problem:
    """The Conv1D toy, with some of its parts replaced."""

    def make() -> nn.Module:
        toy = ConvToy()
        for name, part in parts.items():
            setattr(toy, name, part())
        return toy

    model = seeded(make)
    return WordsProblem(model, ParameterSpace.trainable(model), lambda b: at_positions(model(b.input_ids), b.positions))


def gpt2_full() -> Problem:
    """Tied input and output embeddings, and positions that are embedded once for the whole batch."""
    config = GPT2Config(vocab_size=N_WORDS, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = seeded(lambda: GPT2LMHeadModel(config))

    def logits(batch: Batch) -> Tensor:
        return at_positions(
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.positions
        )

    return moved(WordsProblem(model, ParameterSpace.trainable(model), logits), 0.05)


def llama_lora() -> Problem:
    config = LlamaConfig(
        vocab_size=N_WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = attach_lora(
        seeded(lambda: LlamaForCausalLM(config)), LoraSettings(rank=2, alpha=4), 3, ("q_proj", "v_proj")
    )

    def logits(batch: Batch) -> Tensor:
        return at_positions(
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.positions
        )

    return moved(WordsProblem(model, ParameterSpace.trainable(model, "lora_factors"), logits))


@dataclass(frozen=True)
class Case:
    """A registered problem.

    Attributes:
        make: a fresh copy each time. task: the task to draw from.
        padded: whether examples differ in length. hooked: whether the types of all layers are known to the hooks.
        one_pass: whether one pass with hooks gives the gradients, so that nothing has to be done group by group.
    """

    make: Callable[[], Problem]
    task: str
    padded: bool = False
    hooked: bool = True
    one_pass: bool = True

    def batch(self, problem: Problem, n: int, name: str = "batch") -> Batch:
        """n examples from a fixed stream."""
        return problem.sample(self.task, n, Streams(2).generator(name))


CASES = {
    "quadratic": Case(quadratic, "bowl", hooked=False, one_pass=False),
    "transformer_full": Case(transformer_full, "copy"),
    "transformer_lora": Case(transformer_lora, "copy"),
    "conv1d": Case(conv1d, "words", padded=True),
    "gpt2_full": Case(gpt2_full, "words", padded=True, one_pass=False),
    "llama_lora": Case(llama_lora, "words", padded=True),
    "own_linear": Case(lambda: conv1d(first=lambda: Linear(8, 12)), "words", True, hooked=False, one_pass=False),
    "own_layer_norm": Case(lambda: conv1d(norm=lambda: LayerNorm(12)), "words", True, hooked=False, one_pass=False),
    "borrowed_weight": Case(lambda: conv1d(norm=lambda: Borrowed(12)), "words", True, one_pass=False),
    "shared_positions": Case(lambda: conv1d(norm=lambda: Placed(12)), "words", True, one_pass=False),
}
every_problem = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
one_pass_problems = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.one_pass], ids=[n for n, c in CASES.items() if c.one_pass]
)
padded_problems = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.padded], ids=[n for n, c in CASES.items() if c.padded]
)
hooked_problems = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.hooked], ids=[n for n, c in CASES.items() if c.hooked]
)
