"""Gram matrix of 64 per-example gradients, LoRA on SmolLM2-135M: against one plain pass and against vmap(grad).

    python benchmarks/gradient_gram.py [--examples 64] [--repeats 5]

Limit: one batched forward and backward pass over the same examples, the least that any exact method needs. Peer:
`torch.func.vmap(grad)`, which materialises every gradient, then an SVD. All three are timed in turn in one process; the
ratio of medians counts. Peak memory of each is read in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import Batch
from lineament.settings.presets import resolve
from lineament.streams import Streams
from lineament.vectors.gradients import gradient_gram


def problem_and_batch(n: int) -> tuple[LanguageModelProblem, Batch]:
    torch.set_num_threads(2)
    problem = LanguageModelProblem(resolve("lm", "quick", []), seed=0)
    # B = 0 in a fresh adapter would make every gradient of A zero; a small one makes the comparison fair.
    noise = torch.from_numpy(Streams(0).generator("b").standard_normal(problem.parameters.n_params)).float()
    problem.parameters.write(problem.parameters.read() + 1e-3 * noise)
    return problem, problem.sample("words", n, Streams(0).generator("batch"))


def plain_pass(problem: LanguageModelProblem, batch: Batch) -> None:
    problem.parameters.gradient(problem.loss(batch))


def ours(problem: LanguageModelProblem, batch: Batch) -> Tensor:
    gram = gradient_gram(problem, batch)
    torch.linalg.eigvalsh(gram)
    return gram


def by_vmap(problem: LanguageModelProblem, batch: Batch) -> Tensor:
    """Per-example gradients by vmap(grad) and singular values by SVD; returns their Gram matrix."""
    fixed = {n: p.detach() for n, p in problem.model.named_parameters() if n not in problem.parameters.names}
    moving = {n: p.detach() for n, p in zip(problem.parameters.names, problem.parameters.tensors, strict=True)}

    def loss(parameters: dict[str, Tensor], ids: Tensor, mask: Tensor, position: Tensor, target: Tensor) -> Tensor:
        output = torch.func.functional_call(
            problem.model,
            {**fixed, **parameters},
            kwargs={"input_ids": ids[None], "attention_mask": mask[None], "use_cache": False},
        )
        return cross_entropy(output.logits[0].index_select(0, position), target)

    with sdpa_kernel(SDPBackend.MATH):
        found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))(
            moving, batch.input_ids, four_dimensional(batch.attention_mask), batch.positions, batch.targets
        )
    rows = torch.cat([found[name].flatten(1) for name in problem.parameters.names], dim=1)
    torch.linalg.svdvals(rows)
    return rows.double() @ rows.double().T


def four_dimensional(mask: Tensor) -> Tensor:
    """An explicit additive causal mask per example, (n, 1, length, length): mask creation has no vmap rule."""
    length = mask.shape[1]
    causal = torch.ones(length, length).tril()
    allowed = causal[None, None] * mask[:, None, None, :]
    return (1 - allowed) * torch.finfo(torch.float32).min


WAYS: dict[str, Callable[[LanguageModelProblem, Batch], object]] = {
    "plain forward and backward (limit)": plain_pass,
    "lineament gradient_gram": ours,
    "vmap(grad) + SVD": by_vmap,
}


def high_water_mib() -> float:
    """Largest resident memory since the last reset, MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**10


def peak_memory(way: str, n: int, answers: multiprocessing.Queue) -> None:
    problem, batch = problem_and_batch(n)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of loading the model is not the pass's
    before = high_water_mib()
    WAYS[way](problem, batch)
    answers.put(high_water_mib() - before)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    problem, batch = problem_and_batch(options.examples)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for repeat in range(options.repeats + 1):
        for name, way in WAYS.items():
            start = time.perf_counter()
            way(problem, batch)
            if repeat:
                times[name].append(time.perf_counter() - start)
    first, second = ours(problem, batch), by_vmap(problem, batch)
    largest = torch.linalg.eigvalsh(second).max()
    print(f"{options.examples} examples of {batch.input_ids.shape[1]} tokens, {problem.parameters.n_params} parameters")
    print(f"Gram, relative Frobenius difference: {float((first - second).norm() / second.norm()):.1e}")
    eigenvalues = torch.linalg.eigvalsh(first) - torch.linalg.eigvalsh(second)
    print(f"eigenvalues, largest difference over the largest: {float(eigenvalues.abs().max() / largest):.1e}")
    limit = statistics.median(times["plain forward and backward (limit)"])
    print("| way | median s (range) | ratio to the limit | peak memory, MiB |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for name, taken in times.items():
        answers: multiprocessing.Queue = context.Queue()
        process = context.Process(target=peak_memory, args=(name, options.examples, answers))
        process.start()
        memory = answers.get(timeout=600)
        process.join()
        median = statistics.median(taken)
        spread = f"{min(taken):.2f}-{max(taken):.2f}"
        print(f"| {name} | {median:.2f} ({spread}) | {median / limit:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
