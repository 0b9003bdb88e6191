"""How much of a recovery do k numbers bring back? Training inside k directions, beside random, blind and static ones.

    python benchmarks/few_numbers.py runs/demo --out few-numbers.jsonl
    python benchmarks/few_numbers.py runs/lm --ranks 20 --multiples 3 --out few-numbers-lm.jsonl
    python benchmarks/few_numbers.py --table few-numbers.jsonl

RUN is a finished run folder; its recoveries are trained again from the damaged point, as by `lineament advise --check`:
on their own batches, with their optimizer and length (to 1.2 T), each with the step size that is best on validation: of
those that the command tries, or of `--multiples` of what makes steps as long as the recovery's. The figure is the share
of the recovery's fall in held-out loss. `prefix`: the span of the first k updates. `static`: the top k directions of 64
minibatch gradients at the damaged point. `random`: k random directions. `blind`: the span of k updates of the optimizer
on Gaussian gradients. `searched`: the prefix's k numbers (`searched-random`: those of the
random directions) found without a gradient, by the evolution strategy of `lineament search --method es` in populations
of 12, each on the recovery's next batch, with as many forward passes as the training takes when its backward pass
counts as two; sigma stays and is best on validation of those whose draws are as long as `--draws` of the recovery's
displacement. A result is appended to --out when it is there, and is not made again. Intervals of the table: Student t
over seeds, of each task.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lineament.advice.inside import Inside, Plane, best_of, step_factors, trained_inside
from lineament.advice.options import CheckOptions
from lineament.advice.run import CheckedRun
from lineament.advice.span_check import blind_basis
from lineament.advice.training import recovery_training
from lineament.bases import Basis, from_vectors, random_basis, top_directions
from lineament.claims.intervals import over_seeds
from lineament.commands.search.methods import EvolutionStrategy
from lineament.population.region import Region
from lineament.problems.factory import factory_of
from lineament.problems.progress import silent
from lineament.runs.folder import RunFolder
from lineament.study.case import Case
from lineament.study.points import DAMAGED
from lineament.study.study import Study, prepare_study

SEARCHED = {"searched": "prefix", "searched-random": "random"}
BASES = ("prefix", "static", "random", "blind", *SEARCHED)
POPULATION = 12  # 4 + 3 log(20), Hansen 2016
PASSES = 3  # a forward and a backward pass of one step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a finished run folder")
    parser.add_argument("--out", type=Path, default=Path("few-numbers.jsonl"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: all of the run's")
    parser.add_argument("--tasks", nargs="+", help="default: all of the run's targets")
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=BASES)
    parser.add_argument("--multiples", type=float, nargs="+", help="step sizes that are tried, over the usual one")
    parser.add_argument(
        "--draws", type=float, nargs="+", default=[0.1, 0.3], help="lengths of the search's draws, in |D|"
    )
    parser.add_argument("--table", type=Path, help="print the table of results that are there, and stop")
    asked = parser.parse_args()
    if asked.table:
        print("\n".join(table(results(asked.table))))
        return
    if asked.run is None:
        parser.error("name a run folder, or --table FILE.")
    torch.set_num_threads(1)
    for line in measured(asked):
        with asked.out.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(line, file=sys.stderr, flush=True)


def measured(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the results that --out lacks: all tasks of a seed before the next seed, the prefix before its controls."""
    settings = RunFolder(asked.run).settings()
    there = {key(line) for line in results(asked.out)}
    for seed in asked.seeds or range(settings.seed, settings.seed + settings.seeds):
        problem = None
        for task in asked.tasks or settings.task.targets:
            wanted = [(rank, name) for rank in asked.ranks for name in asked.bases]
            wanted = [one for one in wanted if (task, seed, *one) not in there]
            if not wanted:
                continue
            problem = problem or factory_of(settings).make(settings, seed, silent)
            case = Case(problem, settings, task, seed, RunFolder(asked.run).study_files(task, seed))
            run, study = prepared(case)
            for rank, name in wanted:
                began = time.perf_counter()
                found = answer(run, basis(run, study, name, rank), name, asked)
                share = run.drop.share(found.losses)
                yield {
                    "task": task,
                    "seed": seed,
                    "rank": rank,
                    "basis": name,
                    "share": share.value,
                    "stderr": share.stderr,
                    "start": float(run.drop.start.mean()),
                    "end": float(run.drop.end.mean()),
                    "steps": run.n_steps,
                    "factor": found.factor if name in SEARCHED else found.factor / step_factors(run, rank)[1],
                    "multiples": asked.multiples,
                    "seconds": time.perf_counter() - began,
                }


def prepared(case: Case) -> tuple[CheckedRun, Study]:
    """Load the stages of a study, and the recovery with its training."""
    study = prepare_study(case)
    trajectory = study.trajectory
    rule = trajectory.optimizer.groups[0].rule
    return CheckedRun.of(trajectory, recovery_training(case), rule, CheckOptions(seed=case.seed)), study


def basis(run: CheckedRun, study: Study, name: str, rank: int) -> Basis:
    name = SEARCHED.get(name, name)
    if name == "prefix":
        return from_vectors(run.trajectory.updates(1, rank), name)
    if name == "static":
        return top_directions(study.minibatch_gradients(DAMAGED, study.target), rank, name)
    if name == "random":
        return random_basis(run.space.space, rank, run.streams.generator("random", rank))
    return blind_basis(run, rank)


def answer(run: CheckedRun, plane: Basis, name: str, asked: argparse.Namespace) -> Inside:
    if name not in SEARCHED:
        return trained(run, plane, asked.multiples)
    return min((searched(run, plane, draw) for draw in asked.draws), key=lambda one: one.validation)


@torch.no_grad()
def searched(run: CheckedRun, plane: Basis, draw: float) -> Inside:
    """Move k numbers by an evolution strategy whose draws are `draw` of the recovery's displacement long."""
    sigma = draw * float((run.end - run.start).norm()) / plane.rank**0.5
    strategy = EvolutionStrategy(Region("prefix", run.space, plane), run.streams.child("searched"), sigma, 0.0)
    for step in range(PASSES * run.n_steps // POPULATION):
        members, losses = strategy.ask(POPULATION).members, []
        for delta in members.deltas(0, POPULATION):
            with run.space.temporarily(run.start + delta):
                losses.append(float(run.training.loss(step)))
        strategy.tell(np.asarray(losses))
    with run.space.temporarily(run.start + strategy.centre.delta(strategy.region, strategy.streams)):
        return Inside(run.held_out(), run.validation(), draw)


def trained(run: CheckedRun, plane: Basis, multiples: Sequence[float] | None) -> Inside:
    """Train with the step sizes of `advise --check`, or with these multiples of the usual one."""
    factors = step_factors(run, plane.rank)

    def train(factor: float) -> Inside:
        return trained_inside(run, Plane(plane), factor, lambda: None)

    if multiples is None:
        return best_of(train, factors)
    return min((train(multiple * factors[1]) for multiple in multiples), key=lambda one: one.validation)


def results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["task"], line["seed"], line["rank"], line["basis"]


def table(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield rows of a Markdown table: one for each task and rank, the mean share over seeds with its interval."""
    yield "| task | numbers | seeds | " + " | ".join(BASES) + " |"
    yield "|---|---|---|" + "---|" * len(BASES)
    for task, rank in sorted({(line["task"], line["rank"]) for line in lines}):
        own = [line for line in lines if (line["task"], line["rank"]) == (task, rank)]
        seeds = len({line["seed"] for line in own if line["basis"] == "prefix"})
        yield f"| {task} | {rank} | {seeds} | " + " | ".join(cell(own, name) for name in BASES) + " |"


def cell(lines: Sequence[dict[str, Any]], name: str) -> str:
    shares = [line["share"] for line in lines if line["basis"] == name]
    if not shares:
        return "-"
    found = over_seeds(shares)
    ends = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    values = ", ".join(f"{share:.2f}" for share in shares)
    return f"{np.mean(shares):.2f}{ends}" if len(shares) != 2 else values


if __name__ == "__main__":
    main()
