"""Twenty runs in one process leave it as it was: memory, descriptors, threads, hooks, flags, random streams."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lineament.api import measure
from lineament.problems.problem import Batch

N_DIGITS, RUNS, WARM_UP = 8, 20, 3
# Pages of a process come and go; a model or a recording that stays would be this much within a few runs.
MOST_GROWTH_BYTES = 24 * 2**20
SETTINGS: dict[str, Any] = {
    "measure": ["gradient_rank", "basis_capture", "basis_drift", "local_geometry"],
    "task.evaluation_examples": 16,
    "lora.rank": 1,
    "operating.steps": 3,
    "damage.steps": 3,
    "recovery.steps": 6,
    "measurement.ranks": [1],
    "measurement.headline_rank": 1,
    "measurement.gradients": 4,
    "measurement.minibatch": 2,
    "measurement.curvature_batch": 4,
    "measurement.drift_gradients": 2,
    "measurement.drift_rank": 1,
    "measurement.drift_lags": [1],
    "measurement.lanczos_steps": 2,
    "measurement.task_vector_steps": 1,
    "measurement.inside_steps": 1,
    "measurement.inside_batch": 2,
    "geometry.examples": 4,
    "geometry.held_out_examples": 4,
    "geometry.rotation_lags": [1],
    "geometry.prompts": 4,
}


class Tiny(nn.Module):
    """Reads two digits; the logits at every position are the answer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_DIGITS, 4)
        self.hidden = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1))
        self.head = nn.Linear(8, N_DIGITS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.embedding(input_ids).flatten(1)))
        return logits[:, None].expand(-1, input_ids.shape[1], -1)


def examples(n: int) -> Batch:
    ids = torch.randint(N_DIGITS, (n, 2), generator=torch.Generator().manual_seed(0))
    answers = ids.amax(dim=1, keepdim=True)
    return Batch(ids, torch.ones_like(ids), torch.full((n, 1), 1), answers, tuple(range(N_DIGITS)))


def state(model: nn.Module) -> dict[str, Any]:
    """What a library may use but not leave changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "torch threads": torch.get_num_threads(),
        "gradients on": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        # not Python's own `random`: beartype, which checks types under tests, draws from it
        "random": (torch.random.get_rng_state().tolist(), str(np.random.get_state())),  # noqa: NPY002
        "modules": [(name, type(module)) for name, module in model.named_modules()],
        "hooks": [len(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "modes": [module.training for module in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "folder": os.getcwd(),
    }


def n_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_twenty_runs_leave_the_process_as_it_was() -> None:
    torch.manual_seed(0)
    model, data = Tiny(), {"largest": examples(80), "other": examples(80)}
    weights = [p.detach().clone() for p in model.parameters()]
    for _ in range(WARM_UP):  # libraries are imported, and caches filled
        measure(model, data, settings=SETTINGS)
    before, tensors, memory = state(model), n_tensors(), memory_bytes()
    for _ in range(RUNS):
        measure(model, data, settings=SETTINGS)
    after = state(model)
    for what, value in before.items():
        assert after[what] == value, what
    assert n_tensors() == tensors
    assert memory_bytes() - memory < MOST_GROWTH_BYTES
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))
