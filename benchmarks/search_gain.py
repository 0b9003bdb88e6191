"""Does the region that the plan prefers beat the whole space by as much as predicted, at an equal budget?

    python benchmarks/search_gain.py RUN [--budget 2000] [--examples 8] [--regions full gradient prefix]

Around the damaged point of a run: every region is probed, then spends the budget in one shot at its own sigma. Printed:
sigma, the gain predicted there (second order where there is a best sigma, and from the probe's log losses), and the one
achieved on the scored batch; then the achieved over the predicted ratio to the whole space. Goal: within 25 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lineament.commands.search.driver import plan_locally
from lineament.commands.search.flags import SearchOptions
from lineament.commands.search.plan import probe, probe_sigmas
from lineament.commands.search.target import from_run, make_regions, run_settings
from lineament.population.population import Population
from lineament.runs.job import make_problem

CHUNK = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--budget", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--probe", type=int, default=16)
    parser.add_argument("--regions", nargs="+", default=["full", "gradient", "prefix"])
    options = parser.parse_args()
    torch.set_num_threads(2)
    settings, task, seed = run_settings(options.run, None, None)
    target = from_run(options.run, settings, make_problem(settings, seed), task, seed, "broken")
    regions = make_regions(target, options.regions, 10, gradients=True)
    batch = target.batch(options.examples, "selection")
    chosen = SearchOptions(budget=options.budget, examples=options.examples)
    plans = {plan.space.name: plan for plan in plan_locally(target, regions, batch, chosen)}
    population = Population(target.problem, batch)
    print(f"{target.problem.model_name}, {task}, {options.budget} draws, base loss {population.base:.3f} nats")
    print("| region | tr H | best sigma | second-order gain | sigma used | foretold [95 %] | achieved | failed |")
    print("|---|---|---|---|---|---|---|---|")
    gains: dict[str, tuple[float, float]] = {}
    for region in regions:
        plan = plans[region.name]
        numbers = range(options.probe)
        sigmas = probe_sigmas(region, plan)
        tried = [probe(population, region, target.streams, s, numbers, options.budget) for s in sigmas]
        best = max((p for p in tried if p), key=lambda p: p.gain)
        fresh = range(options.probe, 3 * options.probe)
        again = probe(population, region, target.streams, best.sigma, fresh, options.budget)
        assert again is not None
        achieved, failed = float("-inf"), 0
        for start in range(0, options.budget, CHUNK):
            numbers = range(start, min(options.budget, start + CHUNK))
            scores = population.score(region.members(target.streams, numbers, best.sigma))
            achieved, failed = max(achieved, scores.gains[scores.best()[0]]), failed + scores.n_failed
        gains[region.name] = (again.gain, achieved)
        local = "-" if plan.best_sigma is None else f"{plan.best_sigma:.3g}"
        second = "curvature helps" if plan.gain is None else f"{plan.gain:.3f}"
        foretold = f"{again.gain:.3f} [{again.low:.3f}, {again.high:.3f}]"
        row = [region.name, f"{plan.space.at.trace:.3g}", local, second, f"{best.sigma:.3g}", foretold]
        print(f"| {' | '.join(row)} | {achieved:.3f} | {failed} |", flush=True)
    for name, (predicted, achieved) in gains.items():
        if name != "full" and "full" in gains:
            ratios = achieved / gains["full"][1], predicted / gains["full"][0]
            print(
                f"{name} / full: achieved {ratios[0]:.2f}, predicted {ratios[1]:.2f}: {ratios[0] / ratios[1] - 1:+.0%}"
            )


if __name__ == "__main__":
    main()
