"""Small trainings with a known answer: a linear layer with or without a LoRA adapter, taught another matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lineament.advice.training import Training
from lineament.parameters import ParameterSpace
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.writer import Recorder

WIDTH = 8
BatchLoss = Callable[[int], Tensor]


class Layer(nn.Module):
    """One linear layer, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False).double()
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


def adapted(rank: int) -> nn.Module:
    """The layer, frozen, with a fresh adapter of scale 1 in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["linear"], bias="none")
        return get_peft_model(Layer(), config).double()


def inputs(stream: int, n: int = 64) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(stream), dtype=torch.float64)


def training(model: nn.Module, target: Tensor, scales: Tensor | float = 1.0) -> Training:
    """Squared error of the layer's output against that of `target`, (WIDTH, WIDTH); every step has its own inputs.

    Args:
        scales: standard deviation of each input, (WIDTH,).
    """

    def errors(x: Tensor) -> Tensor:
        x = x * scales
        return (model(x) - x @ target.T).square().sum(dim=1)

    held_out, validation = inputs(10**6, 256), inputs(10**6 + 1, 256)

    def on_validation() -> float:
        with torch.no_grad():
            return float(errors(validation).mean())

    return Training(model, lambda step: errors(inputs(step)).mean(), lambda: errors(held_out), on_validation)


def recorded(
    folder: Path, own: Training, optimizer: torch.optim.Optimizer, steps: int, *, gradients: bool = False
) -> Trajectory:
    """Train, record, and put the model's weights back."""
    space = ParameterSpace.trainable(
        own.model, "lora_factors" if any(".lora_" in name for name, _ in own.model.named_parameters()) else "full"
    )
    with space.restored():
        recorder = Recorder(space, folder, dtype=torch.float64, gradients=gradients, optimizer=optimizer)
        for step in range(steps):
            optimizer.zero_grad()
            own.loss(step).backward()
            if gradients:
                recorder.take_gradient()
            optimizer.step()
            recorder.append()
        optimizer.zero_grad()
        return recorder.close()


def with_values(*values: float) -> Tensor:
    """A matrix of these singular values in random directions."""
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q for _ in "ab")
    k = len(values)
    return left[:, :k] * torch.tensor(values, dtype=torch.float64) @ right[:k]
