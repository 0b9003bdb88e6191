"""What cutting an adapter costs in held-out loss, beside what it costs in |dW|.

    python benchmarks/truncated_loss.py runs/lm/adapters/words-seed0/star --seed 0 --examples 64

For an adapter of a study of `lineament run lm`: mean loss over the study's tasks at lower ranks, at the directions
above noise, and without the adapter, with the standard error of the paired difference from the whole one over examples.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lineament import StoredAdapter, adapter_spectrum, read_adapter
from lineament.merging.spectra import decompose
from lineament.problems.factor_names import PREFIX
from lineament.problems.language_model import LanguageModelProblem
from lineament.settings.presets import resolve


def cut_theta(adapter: StoredAdapter, ranks: dict[str, int]) -> tuple[Tensor, float]:
    """Return the factors, of the same shapes, of dW cut to a rank in each module, and the error in |dW|."""
    pieces, left_out, total = [], 0.0, 0.0
    for module, factors in adapter.factors.items():
        parts, rank = decompose(factors), ranks[module.removeprefix(PREFIX)]
        root = parts.values[:rank].sqrt()
        a, b = torch.zeros_like(factors.a), torch.zeros_like(factors.b)
        a[:rank] = root[:, None] * parts.right[:, :rank].T
        b[:, :rank] = parts.left[:, :rank] * root / factors.scale
        pieces += [a.reshape(-1), b.reshape(-1)]
        energies = parts.values.square()
        left_out, total = left_out + float(energies[rank:].sum()), total + float(energies.sum())
    return torch.cat(pieces), (left_out / total) ** 0.5


def cuts(adapter: StoredAdapter) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield cuts by name: module -> rank."""
    modules = adapter_spectrum(adapter).modules
    yield "whole", {module.module: len(module.values) for module in modules}
    yield "above noise", {module.module: module.above_floor or 0 for module in modules}
    for rank in (4, 2, 1):
        yield f"rank {rank}", {module.module: rank for module in modules}
    yield "without it", {module.module: 0 for module in modules}


def main() -> None:
    """Print a row per cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--examples", type=int, default=64)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    adapter = read_adapter(flags.adapter)
    changes = {"model.adapter": str(flags.adapter), "task.evaluation_examples": flags.examples}
    problem = LanguageModelProblem(resolve("lm", "quick", [("here", changes)]), seed=flags.seed)
    batches = [problem.fixed(task, "held_out") for task in problem.tasks]
    print("| cut | ranks, mean | off in dW | loss | more than whole | |\n|---|---|---|---|---|---|")
    whole: Tensor | None = None
    for name, ranks in cuts(adapter):
        theta, error = cut_theta(adapter, ranks)
        problem.parameters.write(theta)
        with torch.no_grad():
            losses = torch.cat([problem.example_losses(batch).double() for batch in batches])
        whole = losses if whole is None else whole
        more = losses - whole
        mean_rank = sum(ranks.values()) / len(ranks)
        spread, loss = float(more.std()) / len(more) ** 0.5, float(losses.mean())
        print(
            f"| {name} | {mean_rank:.1f} | {100 * error:.1f} % | {loss:.3f} | {float(more.mean()):+.4f} "
            f"| ±{spread:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
