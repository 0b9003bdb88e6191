"""What recording costs, and how fast a recording answers questions.

    python benchmarks/recorder.py [--steps 12]

1. Share of a training step that `Recorder.append` takes, LoRA on SmolLM2-135M, 16 statements a step, AdamW.
2. 1 000 capture queries on a 256-step trajectory of 300 000 parameters through its Gram matrix, against the same
   queries by QR in parameter space (timed on 5), with the largest difference between the two answers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lineament.parameters import ParameterSpace
from lineament.problems.language_model import LanguageModelProblem
from lineament.settings.presets import resolve
from lineament.streams import Streams
from lineament.study.training import make_optimizer
from lineament.vectors.recording.writer import Recorder


def recording_share(steps: int) -> None:
    settings = resolve("lm", "quick", [])
    problem = LanguageModelProblem(settings, seed=0)
    optimizer = make_optimizer(problem.parameters.tensors, settings.recovery)
    training, recording = [], []
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(problem.parameters, Path(folder) / "rows")
        for step in range(steps + 1):
            batch = problem.sample("numbers", 16, Streams(0).generator(step))
            start = time.perf_counter()
            problem.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            middle = time.perf_counter()
            recorder.append()
            if step:  # the first step warms up
                training.append(middle - start)
                recording.append(time.perf_counter() - middle)
        flush = time.perf_counter()
        recorder.close()
        per_step_flush = (time.perf_counter() - flush) / recorder.n_steps
    step_s, append_s = statistics.median(training), statistics.median(recording) + per_step_flush
    print(f"LM step {step_s:.3f} s, {problem.parameters.n_params} parameters; recording {append_s * 1e3:.2f} ms a step")
    print(f"recording / step = {append_s / step_s:.2%} (goal: at most 2 %)")


def query_speed(n_steps: int = 256, n_params: int = 300_000, n_queries: int = 1000) -> None:
    module = nn.Linear(n_params, 1, bias=False)
    generator = Streams(0).generator("queries")
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(ParameterSpace.trainable(module), Path(folder) / "rows")
        drift = torch.zeros(n_params)
        for _ in range(n_steps):
            drift = 0.9 * drift + torch.from_numpy(generator.standard_normal(n_params, dtype=np.float32))
            with torch.no_grad():
                module.weight.add_(1e-3 * drift)
            recorder.append()
        trajectory = recorder.close()
        start = time.perf_counter()
        gram = trajectory.gram()
        gram_s = time.perf_counter() - start
        picks = [np.sort(1 + generator.permutation(n_steps)[:20]) for _ in range(n_queries)]
        whole = gram.displacement(1, n_steps)
        start = time.perf_counter()
        fast = [gram.capture(gram.span(steps.tolist()), whole) for steps in picks]
        fast_s = time.perf_counter() - start
        rows = trajectory.updates(1, n_steps).rows.double()
        total = rows.sum(dim=0)
        start = time.perf_counter()
        slow = []
        for steps in picks[:5]:
            q, _ = torch.linalg.qr(rows[steps - 1].T)
            slow.append(float((q.T @ total).square().sum() / total.square().sum()))
        slow_s = (time.perf_counter() - start) / 5
    difference = max(abs(a - b) for a, b in zip(fast, slow, strict=False))
    print(f"{n_steps} steps of {n_params} parameters: Gram matrix once {gram_s:.2f} s")
    print(f"{n_queries} rank-20 captures in {fast_s:.2f} s ({fast_s / n_queries * 1e3:.2f} ms each; goal: at most 1 s)")
    ratio = slow_s * n_queries / fast_s
    print(f"by QR in parameter space {slow_s * 1e3:.0f} ms each, {ratio:.0f}x; largest difference {difference:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    torch.set_num_threads(2)
    query_speed()
    recording_share(parser.parse_args().steps)


if __name__ == "__main__":
    main()
