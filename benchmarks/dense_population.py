"""Full-rank noise on the synthetic transformer: `torch.func` over members against writing each member in place.

    python benchmarks/dense_population.py [--members 64] [--rounds 5] [--examples 4 16 64]

All weights of the quick preset's model (two blocks, width 64). Both ways make their noise inside the timed part, from
the same streams; its share is printed. The loop writes theta + delta, scores the batch, and restores theta at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from lineament.population.members import GaussianMembers
from lineament.population.population import Population
from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.presets import resolve
from lineament.settings.reading import updated
from lineament.streams import Streams


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, nargs="+", default=[4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(2)
    settings = updated(resolve("synthetic", "quick", []), {"recovery.space": "full", "training.steps": 1}, "benchmark")
    problem = SyntheticProblem(settings, 0)
    members = GaussianMembers(problem.parameters, Streams(0), range(options.members), 1e-3)
    print(f"{options.members} members of {problem.parameters.n_params} parameters, two threads")
    print("| examples | in-place loop, s | torch.func, s | loop / torch.func | noise alone, s (share of each) |")
    print("|---|---|---|---|---|")
    for size in options.examples:
        batch = problem.sample("sort", size, Streams(0).generator("batch"))
        ways = {way: Population(problem, batch, way=way) for way in ("one_by_one", "functional")}
        times: dict[str, list[float]] = {"one_by_one": [], "functional": [], "noise": []}
        for turn in range(options.rounds + 1):
            for name in times:
                start = time.perf_counter()
                if name == "noise":
                    for i in range(len(members)):
                        members.deltas(i, i + 1)
                else:
                    ways[name].score(members)
                if turn:
                    times[name].append(time.perf_counter() - start)
        loop, ours, noise = (statistics.median(found) for found in times.values())
        ratios = [a / b for a, b in zip(times["one_by_one"], times["functional"], strict=True)]
        ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f})"
        shares = f"{noise:.3f} ({noise / loop:.0%}, {noise / ours:.0%})"
        print(f"| {size} | {loop:.3f} | {ours:.3f} | {ratio} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
