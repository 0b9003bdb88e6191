"""Scoring a population of LoRA members: one shared pass against the loop that a good PEFT user would write.

    python benchmarks/population.py [--members 64] [--pairs 5] [--examples 1 2 8 64]

SmolLM2-135M, LoRA rank 8 on q and v. All ways in turn in one process, medians over interleaved rounds after a warm-up:

- limit: one forward pass of the unperturbed model without an adapter over the same members x examples rows, in the same
  chunks, last-position logits only; and the bare products of that pass (its linear layers alone, on random input).
- lineament: `Population.score`, noise made beforehand in all three (its cost is printed on its own).
- PEFT loop: per member copy the member's factors into the adapter, forward the batch with last-position logits only,
  restore the factors at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lineament.parameters import ParameterSpace, Space
from lineament.population.members import GaussianMembers
from lineament.population.population import MOST_TOKENS_PER_PASS, Population
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import Batch
from lineament.settings.presets import resolve
from lineament.streams import Streams

SIGMA = 1e-3


@dataclass(frozen=True)
class MadeMembers:
    """Members whose noise was made beforehand."""

    rows: Tensor
    space: Space

    def __len__(self) -> int:
        return len(self.rows)

    def deltas(self, start: int, stop: int) -> Tensor:
        return self.rows[start:stop]


def peft_loop(problem: LanguageModelProblem, batch: Batch, rows: Tensor) -> list[float]:
    """One member after the other: set, score, and restore at the end."""
    theta, losses = problem.parameters.read(), []
    with torch.no_grad():
        for row in rows:
            problem.parameters.write(theta + row)
            losses.append(float(problem.loss(batch)))
        problem.parameters.write(theta)
    return losses


def plain_forward(problem: LanguageModelProblem, batch: Batch, n: int) -> None:
    """The base model over n copies of the batch, in chunks of as many rows as a population takes."""
    copies = max(1, min(n, -(-MOST_TOKENS_PER_PASS // batch.input_ids.numel())))
    with torch.no_grad(), problem.model.disable_adapter():  # type: ignore[operator]
        for start in range(0, n, copies):
            index = torch.arange(len(batch)).repeat(min(copies, n - start))
            problem.logits(batch.rows(index))


def bare_products(problem: LanguageModelProblem, batch: Batch, n: int) -> None:
    """The base model's linear layers alone, over the same rows; the head at the last position only."""
    copies = max(1, min(n, -(-MOST_TOKENS_PER_PASS // batch.input_ids.numel())))
    tokens, head = batch.input_ids.numel(), problem.model.get_output_embeddings()  # type: ignore[operator]
    layers = [m for name, m in problem.model.named_modules() if isinstance(m, nn.Linear) and "lora_" not in name]
    with torch.no_grad():
        for start in range(0, n, copies):
            c = min(copies, n - start)
            inputs = {width: torch.randn(c * tokens, width) for width in {m.in_features for m in layers}}
            for layer in layers:
                x = inputs[layer.in_features]
                layer(x[: c * len(batch)] if layer is head else x)


def rounds(ways: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(pairs + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def upper_half(problem: LanguageModelProblem) -> list[str]:
    """The measured tensors of the upper half of the layers."""
    n_layers = problem.model.config.num_hidden_layers  # type: ignore[union-attr]
    return [n for n in problem.parameters.names if int(n.split(".layers.")[1].split(".")[0]) >= n_layers // 2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--examples", type=int, nargs="+", default=[1, 2, 8, 64])
    options = parser.parse_args()
    torch.set_num_threads(2)
    n = options.members
    problem = LanguageModelProblem(resolve("lm", "quick", []), seed=0)
    every = problem.parameters
    spaces = {"all layers": every, "upper half": ParameterSpace(every.module, upper_half(problem), "lora_factors")}
    start = time.perf_counter()
    GaussianMembers(every, Streams(0), range(n), SIGMA).deltas(0, n)
    print(f"noise of {n} members of {every.n_params} parameters: {time.perf_counter() - start:.2f} s")
    print("| statements | tokens | way | median s (range) | against the limit | PEFT loop / lineament |")
    print("|---|---|---|---|---|---|")
    for size in options.examples:
        batch = problem.sample("words", size, Streams(0).generator("batch"))
        for label, space in spaces.items():
            problem.parameters = space
            made = GaussianMembers(space, Streams(0), range(n), SIGMA).deltas(0, n)
            members = MadeMembers(made, space.space)
            population = Population(problem, batch)
            ways: dict[str, Callable[[], object]] = {
                "plain": lambda b=batch: plain_forward(problem, b, n),
                "products": lambda b=batch: bare_products(problem, b, n),
                "lineament": lambda p=population, m=members: p.score(m),
                "loop": lambda b=batch, r=made: peft_loop(problem, b, r),
            }
            times = rounds(ways, options.pairs if size <= 8 else min(options.pairs, 2))
            middle = {name: statistics.median(found) for name, found in times.items()}
            ratio = [b / a for a, b in zip(times["lineament"], times["loop"], strict=True)]
            for name, taken in times.items():
                spread = f"{middle[name]:.2f} ({min(taken):.2f}-{max(taken):.2f})"
                against = f"{middle[name] / middle['plain']:.2f}"
                last = (
                    f"**{statistics.median(ratio):.2f}** ({min(ratio):.2f}-{max(ratio):.2f})"
                    if name == "lineament"
                    else ""
                )
                print(
                    f"| {size} | {batch.input_ids.shape[1]} | {name}, {label} | {spread} | {against} | {last} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
