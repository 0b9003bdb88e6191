"""What recording and analysing cost, against parameters, steps and LoRA rank: seconds and peak memory of each stage.

    python benchmarks/scaling.py [--headline] [--threads 2]

Recordings are random walks of LoRA factors, made on disk. Each stage runs in a process of its own, whose peak resident
memory is what the operating system says. `--headline` adds 1 000 steps of 5 million parameters in bfloat16 (10 GB of
disk while it runs). Prints tables, the exponents fitted to them, and an estimate for a 7 B model.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.spans import capture_figures, span_figures
from lineament.parameters import ParameterSpace
from lineament.vectors.effective import effective_gram
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch, capture_error, distortion
from lineament.vectors.recording.writer import Recorder

WIDTH = 512
STAGES = ("gram", "captures", "dw_gram")
# (parameters, steps, rank), one of them varied at a time.
CASES = [
    *((n, 200, 8) for n in (100_000, 400_000, 1_600_000)),
    *((400_000, steps, 8) for steps in (50, 100, 400, 800)),
    *((400_000, 200, rank) for rank in (1, 4, 16, 64)),
]
HEADLINE = (5_000_000, 1_000, 2)
# Llama 7 B: (count, d_out, d_in) of the linear layers of its 32 blocks.
LLAMA_7B = ((4 * 32, 4096, 4096), (2 * 32, 11008, 4096), (32, 4096, 11008))


class Factors(nn.Module):
    """Adapted weights of WIDTH x WIDTH with their factors under PEFT's names, and nothing else."""

    def __init__(self, n_modules: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Adapted(rank) for _ in range(n_modules))


class Adapted(nn.Module):
    """One pair of factors."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.scaling = {"default": 2.0}
        self.lora_A = nn.ModuleDict({"default": nn.Linear(WIDTH, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, WIDTH, bias=False)})


def make(folder: Path, n_params: int, steps: int, rank: int, dtype: torch.dtype) -> tuple[int, float]:
    """A recorded random walk with momentum; returns (parameters, seconds an append takes)."""
    model = Factors(max(1, round(n_params / (2 * WIDTH * rank))), rank)
    space = ParameterSpace.trainable(model, "lora_factors")
    recorder = Recorder(space, folder, dtype, about={"beta1": 0.9})
    generator, spent = torch.Generator().manual_seed(0), 0.0
    velocity = [torch.zeros_like(p) for p in space.tensors]
    for _ in range(steps):
        with torch.no_grad():
            for p, v in zip(space.tensors, velocity, strict=True):
                v.mul_(0.9).add_(torch.randn(p.shape, generator=generator), alpha=1e-3)
                p.add_(v)
        start = time.perf_counter()
        recorder.append()
        spent += time.perf_counter() - start
    recorder.close()
    return space.n_params, spent / steps


def stage(name: str, folder: Path, threads: int) -> None:
    """Run one stage on a recording and print its seconds and the process's peak memory."""
    torch.set_num_threads(threads)
    before = peak_mib()
    trajectory = Trajectory(folder)
    gram = trajectory.gram() if name == "captures" else None
    start = time.perf_counter()
    if name == "gram":
        trajectory.gram()
    elif name == "dw_gram":
        effective_gram(trajectory)
    else:
        assert gram is not None
        options = AnalysisOptions()
        capture_figures(gram, {}, options, "parameters")
        list(span_figures(gram, trajectory.steps, options, "parameters"))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib(), "before_mib": before}))


def peak_mib() -> float:
    """Most resident memory of this process so far. Not ru_maxrss: that begins at what the parent held at the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def measured(case: tuple[int, int, int], dtype: torch.dtype, threads: int) -> dict[str, float]:
    """Seconds and peak memory of every stage for one recording, which is deleted afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lineament-scaling-"))
    try:
        n_params, append_s = make(folder / "rows", *case, dtype)
        found = {"n_params": n_params, "steps": case[1], "rank": case[2], "append_ms": 1e3 * append_s}
        for name in STAGES:
            command = [sys.executable, __file__, "--stage", name, "--folder", str(folder / "rows")]
            done = subprocess.run(
                [*command, "--threads", str(threads)], capture_output=True, text=True, check=True
            ).stdout
            body = json.loads(done)
            found[f"{name}_s"], found[f"{name}_mib"] = body["seconds"], body["peak_mib"]
            found["idle_mib"] = body["before_mib"]
        return found
    finally:
        shutil.rmtree(folder)


def sketch_row(threads: int) -> None:
    """Error of sketched captures against the exact ones, beside the stated bound."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        n_params, _ = make(Path(folder) / "rows", 1_600_000, 200, 8, torch.float32)
        trajectory, sketch = Trajectory(Path(folder) / "rows"), Sketch(n_params, 2**16)
        start = time.perf_counter()
        rows = torch.stack([sketch.apply(trajectory.updates(t, t).rows[0]) for t in range(1, 201)])
        per_row = (time.perf_counter() - start) / 200
        gram, seen = trajectory.gram(), (rows @ rows.T).numpy()
        whole, errors = gram.displacement(1, 200), []
        sketched = type(gram)(seen, gram.space)
        for k in (1, 2, 5, 10, 20):
            exact, found = (g.capture(g.prefix(k), whole) for g in (gram, sketched))
            errors.append((k, exact, abs(found - exact), capture_error(exact, distortion(sketch.size, k + 1))))
    print(f"\nSketch of {n_params:,} parameters to {sketch.size:,} numbers, {1e3 * per_row:.1f} ms a row:")
    for k, exact, error, bound in errors:
        print(f"  rank {k:2d}: capture {exact:.4f}, error {error:.5f}, bound {bound:.3f} (probability 0.95)")


def exponent(rows: list[dict[str, float]], x: str, y: str) -> float:
    """Slope of log y on log x."""
    return float(np.polyfit(np.log([r[x] for r in rows]), np.log([max(r[y], 1e-6) for r in rows]), 1)[0])


def paper_estimate(bytes_per_s: float, rank: int = 16, steps: int = 1_000) -> str:
    """What a 7 B model with LoRA on all linear layers would take, from its shapes and a measured reading speed."""
    n_params = sum(count * rank * (d_out + d_in) for count, d_out, d_in in LLAMA_7B)
    disk = {name: n_params * size * steps / 2**30 for name, size in (("float32", 4), ("bfloat16", 2))}
    products = sum(count * (steps * rank) ** 2 * (d_out + d_in) for count, d_out, d_in in LLAMA_7B)
    return (
        f"Llama 7 B, rank {rank} on all linear layers: {n_params / 1e6:.1f} M parameters; {steps} steps take "
        f"{disk['float32']:.0f} GiB as float32 and {disk['bfloat16']:.0f} GiB as bfloat16; Gram matrix in "
        f"{n_params * 2 * steps / bytes_per_s / 60:.0f} min at the speed measured here; dW Gram matrix "
        f"{products / 1e12:.0f} T multiplications"
    )


def table(rows: list[dict[str, float]]) -> None:
    head = ("n_params", "steps", "rank", "append_ms", *(f"{s}_{u}" for s in STAGES for u in ("s", "mib")))
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        cells = [f"{row[h]:,.0f}" if row[h] >= 100 or h in ("steps", "rank") else f"{row[h]:.3g}" for h in head]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--headline", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.stage:
        stage(options.stage, options.folder, options.threads)
        return
    rows = [measured(case, torch.float32, options.threads) for case in CASES]
    print(f"memory of a process with torch before a stage: {rows[0]['idle_mib']:.0f} MiB\n")
    table(rows)
    by = {"n_params": rows[:3], "steps": [rows[1], *rows[3:7]], "rank": [rows[1], *rows[7:]]}
    for x, own in by.items():
        slopes = ", ".join(f"{s} {exponent(own, x, f'{s}_s'):.2f}" for s in STAGES)
        print(f"exponents in {x}: append {exponent(own, x, 'append_ms'):.2f}, {slopes}")
    sketch_row(options.threads)
    largest = max(rows, key=lambda row: row["n_params"] * row["steps"])
    print("\n" + paper_estimate(largest["n_params"] * 4 * largest["steps"] / largest["gram_s"]))
    if options.headline:
        print("\nheadline (bfloat16 rows):")
        found = measured(HEADLINE, torch.bfloat16, options.threads)
        table([found])
        most = max(found[f"{name}_mib"] for name in STAGES)
        above = math.ceil(most - found["idle_mib"])
        print(f"peak memory of any stage {most:.0f} MiB (goal: at most 1024), {above} above an idle process")


if __name__ == "__main__":
    main()
