"""Training time and accuracy of the embedded base model, per preset and seed, on one thread.

python benchmarks/base_model.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import torch

from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.presets import resolve
from lineament.settings.reading import updated


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("| preset | seed | steps | training, s | lowest held-out accuracy (task) |\n|---|---|---|---|---|")
    for preset in ("quick", "full"):
        settings = updated(resolve("synthetic", preset, []), {"recovery.space": "full"}, "benchmark")
        for seed in seeds:
            with tempfile.TemporaryDirectory() as cache:  # an empty cache, so that the base is trained
                os.environ["LINEAMENT_CACHE"] = cache
                start = time.perf_counter()
                problem = SyntheticProblem(settings, seed)
                seconds = time.perf_counter() - start
            accuracies = {task: found.accuracy for task, found in problem.evaluate_all("held_out").items()}
            worst = min(accuracies, key=lambda task: accuracies[task])
            row = f"{preset}, {len(accuracies)} tasks | {seed} | {settings.training.steps} | {seconds:.0f}"
            print(f"| {row} | {accuracies[worst]:.4f} ({worst}) |", flush=True)


if __name__ == "__main__":
    main()
