"""Where a run's time goes, and how near each stage is to the machine's limit.

    lineament run synthetic --preset quick --seeds 1 --threads 1 --out runs/timed --log-file progress.txt
    python benchmarks/stage_times.py progress.txt synthetic --threads 1

A stage's time is from its first line to the next stage's first line, per seed; lines are written when a stage begins.
Its limit is the floating-point work of its passes (as `--dry-run` counts them, each of one example forward and
backward, counted by torch's FLOP counter) at the rate of a large matrix product on as many threads.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import defaultdict
from pathlib import Path

import torch
from chosen_settings import add_settings, settings_of
from torch.utils.flop_counter import FlopCounterMode

from lineament.runs.job import make_problem
from lineament.runs.planning import plan
from lineament.settings.settings import Settings
from lineament.streams import Streams

LINE = re.compile(r"\[\s*(?P<s>\d+) s\] seed (?P<seed>\d+): (?P<what>.+?) \((?P<done>\d+)/(?P<total>\d+)\)")
# Progress text -> stage of the table; the first that matches.
STAGES = {
    "training the base": "base model",
    "operating point": "operating point",
    "loading": "loading the model",
    "damaging": "damage",
    "recovering": "recovery",
    "gradient rank": "gradient rank",
    "basis": "bases and captures",
    "training inside": "training inside",
    "grid": "step size by damage grid",
    "drift": "drift",
    "done": "done",
}


def stage_times(lines: list[str]) -> dict[str, dict[str, float]]:
    """Seed -> stage -> seconds."""
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    last: dict[str, tuple[str, float]] = {}
    for line in lines:
        found = LINE.search(line)
        if not found:
            continue  # a warning of a library
        seed, now = found["seed"], float(found["s"])
        stage = next((name for key, name in STAGES.items() if key in found["what"]), found["what"])
        if seed in last:
            times[seed][last[seed][0]] += now - last[seed][1]
        last[seed] = (stage, now)
    return times


def planned_passes(settings: Settings) -> dict[str, int]:
    """Stage -> examples that pass forward and backward; both recoveries are one stage, as in the progress lines."""
    passes: dict[str, int] = defaultdict(int)
    for stage in plan(settings, workers=1).stages:
        passes["recovery" if stage.name.startswith("recovery") else stage.name] += stage.examples
    return passes


def flops_per_example(settings: Settings) -> float:
    """Floating-point operations of one example forward and backward, of the measured parameters."""
    problem = make_problem(settings, settings.seed)
    batch = problem.sample(settings.task.targets[0], 32, Streams(0).generator("flops"))
    with FlopCounterMode(display=False) as counter:
        problem.parameters.gradient(problem.loss(batch))
    return counter.get_total_flops() / 32


def product_rate(n: int = 2048, rounds: int = 5) -> float:
    """Best floating-point operations a second of an n x n float32 matrix product."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        _ = a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * n**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("progress", type=Path)
    add_settings(parser)
    options = parser.parse_args()
    settings = settings_of(options)
    torch.set_num_threads(settings.threads)
    rate, flops, passes = product_rate(), flops_per_example(settings), planned_passes(settings)
    times = stage_times(options.progress.read_text().splitlines())
    stages = list(dict.fromkeys(stage for of_seed in times.values() for stage in of_seed))
    print(f"{rate / 1e9:.0f} GFLOP/s, {flops / 1e6:.2f} MFLOP an example, seconds a seed over {len(times)} seeds")
    print("| stage | s | examples | limit, s | times the limit |\n|---|---|---|---|---|")
    for stage in stages:
        seconds = sum(of_seed[stage] for of_seed in times.values()) / len(times)
        if stage not in passes:
            print(f"| {stage} | {seconds:.1f} | - | - | - |")
            continue
        limit = passes[stage] * flops / rate
        print(f"| {stage} | {seconds:.1f} | {passes[stage]:,} | {limit:.2f} | {seconds / limit:.1f} |")


if __name__ == "__main__":
    main()
