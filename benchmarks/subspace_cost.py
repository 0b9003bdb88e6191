"""What training in planes costs beside the forward and backward pass, and what retention adds to it.

    python benchmarks/subspace_cost.py [--steps 40]

The same gradients go to AdamW, to AdamW in planes that stay, and to the same with retention followed at every step, in
turns and in another order each time, on one thread; step sizes are 0, so that all of them see one model. Shares are of
a whole step (passes and optimizer), medians over steps of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lineament import MatrixPlanes, ParameterSpace, RetentionRule, SubspaceOptimizer, random_basis
from lineament.problems.adapters import attach_lora, usual_targets
from lineament.problems.loading import load_model
from lineament.settings.model import LoraSettings
from lineament.streams import Streams


def gpt2(width: int, layers: int) -> nn.Module:
    config = GPT2Config(vocab_size=1000, n_positions=64, n_embd=width, n_layer=layers, n_head=4)
    return GPT2LMHeadModel(config)


def smollm2() -> nn.Module:
    base, _ = load_model("smollm2-135m", "float32")
    return attach_lora(base, LoraSettings(), 0, usual_targets(base))


def measure(name: str, model: nn.Module, planes: MatrixPlanes, batch: tuple[int, int], steps: int) -> None:
    space = ParameterSpace.trainable(model)
    ids = torch.randint(0, 1000, batch)

    def adamw() -> torch.optim.Optimizer:
        return torch.optim.AdamW(space.tensors, lr=0.0)

    basis = random_basis(space.space, 10, Streams(0).generator("basis"))
    lasting = RetentionRule(share=1e-6)
    optimizers = {
        "AdamW": adamw(),
        "planes": SubspaceOptimizer(adamw(), planes, space),
        "planes, retention": SubspaceOptimizer(adamw(), planes, space, refresh=lasting),
        "10 coefficients": SubspaceOptimizer(adamw(), basis, space),
        "10 coefficients, retention": SubspaceOptimizer(adamw(), basis, space, refresh=lasting, fresh=lambda: basis),
    }
    passes: list[float] = []
    spent: dict[str, list[float]] = {key: [] for key in optimizers}
    for step in range(steps + 2):
        start = time.process_time()
        model(input_ids=ids, labels=ids).loss.backward()
        passes.append(time.process_time() - start)
        keys = list(optimizers)[step % 5 :] + list(optimizers)[: step % 5]
        for key in keys:
            start = time.process_time()
            optimizers[key].step()
            spent[key].append(time.process_time() - start)
        model.zero_grad()
    passes = passes[2:]  # the first ones warm up and make planes
    spent = {key: times[2:] for key, times in spent.items()}
    print(f"{name}: {space.n_params:,} parameters, passes {statistics.median(passes) * 1e3:.1f} ms")
    for key, times in spent.items():
        print(f"  {key}: {statistics.median(times) * 1e3:.2f} ms a step")
    for key in ("planes", "10 coefficients"):
        pairs = zip(spent[f"{key}, retention"], spent[key], strict=True)
        added = statistics.median(one - two for one, two in pairs)
        whole = statistics.median(passes) + statistics.median(spent[key])
        print(f"  retention adds {added / whole:.2%} of a step to {key} (goal: at most 2 %)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--smollm2", action="store_true", help="LoRA on SmolLM2-135M too")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    skip = ("wte", "wpe")
    measure("GPT-2, width 128", gpt2(128, 4), MatrixPlanes(8, skip), (16, 64), options.steps)
    measure("GPT-2, width 256", gpt2(256, 4), MatrixPlanes(8, skip), (16, 64), options.steps)
    if options.smollm2:
        measure("SmolLM2-135M, LoRA", smollm2(), MatrixPlanes(2), (4, 32), options.steps)


if __name__ == "__main__":
    main()
