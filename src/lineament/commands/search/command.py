"""`lineament search`: plan, probe and search, then write the winner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lineament.command_line.written import line_of
from lineament.commands.search.driver import (
    CURVATURE_ERROR,
    MAX_CURVATURE_PROBES,
    PROBING,
    SEARCHING,
    Choice,
    Progress,
    Score,
    choose,
    n_sigmas,
    plan_locally,
    probe_cost,
    run_search,
    saved,
)
from lineament.commands.search.flags import Search, SearchOptions
from lineament.commands.search.plan import LocalPlan, Probe
from lineament.commands.search.tables import (
    print_choice,
    print_impossible,
    print_no_probe,
    print_outcome,
    print_plan,
    print_what_a_plan_took,
)
from lineament.commands.search.target import Target, default_bases, from_adapter, from_run, make_regions, run_settings
from lineament.commands.search.workers import spread, workers_settings
from lineament.commands.terminal import job_progress, say_next
from lineament.commands.time_left import Whole
from lineament.errors import InputError
from lineament.files.folders import require_unused, require_writable
from lineament.files.naming import safe_name
from lineament.files.schemas import read_ours
from lineament.files.writing import write_bytes, write_json
from lineament.population.population import Population
from lineament.population.region import Region
from lineament.problems.adapters import save_adapter
from lineament.problems.problem import Batch
from lineament.problems.stored_adapters import adapter_settings
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.folder import RunFolder, differences
from lineament.runs.job import make_problem
from lineament.settings.reading import updated


def search(flags: Search) -> int:
    """Plan, probe and search; the winner and the kept members go to the search's folder. Return the exit code."""
    flags.check()
    torch.set_num_threads(flags.threads)
    with _progress(flags) as progress:
        progress("loading the model", 0, 1)
        target = _target(flags)
    names = flags.basis or default_bases(target, gradients=flags.gradients)
    regions = make_regions(target, names, flags.rank, gradients=flags.gradients)
    _require_budget(regions, flags)
    out = flags.out or Path("runs") / f"search-{safe_name(target.task)}-{flags.method}"
    identity = _identity(flags, target, names)
    if not flags.plan:
        _require_same(out, identity, flags.resume)
    batch = target.batch(flags.examples, "selection")
    with _progress(flags) as progress:
        plans = plan_locally(target, regions, batch, flags, progress) if flags.gradients else []
    print_plan(target, plans, flags.budget)
    if flags.plan:
        _print_prediction(flags, target, regions, plans, batch)
        say_next(flags.quiet, [line_of("search", replace(flags, plan=False))])
        return 0
    with _pool(flags, target, out) as pool, RunFolder(out).locked(), _progress(flags) as progress:
        write_json(out / "request.json", identity)
        population = Population(target.problem, batch, memory_bytes=flags.memory_bytes)
        print_impossible(plans, population.base)
        choice, probes = _choice(out, lambda: choose(target, regions, plans, population, flags, progress))
        print_choice(choice, probes)
        region = next(item for item in regions if item.name == choice.region)
        with _score(pool, flags, target, region, population, out) as score:
            outcome = run_search(target, region, choice, population, flags, out, progress, score)
        write_json(out / "search.json", saved(outcome, plans, probes))
        for number, position in enumerate(outcome.positions if flags.save_kept else outcome.positions[:1]):
            folder = out / "kept" / f"{number + 1}" if number else out / "winner"
            _save_member(target, position.delta(region, target.streams), folder)
    print_outcome(outcome, out)
    if target.problem.parameters.space.kind == "lora_factors":
        say_next(
            flags.quiet, [f"lineament adapters {quote(str(out / 'winner'))}  # what the adapter that was found holds"]
        )
    return 0


def _print_prediction(
    flags: Search, target: Target, regions: Sequence[Region], plans: Sequence[LocalPlan], batch: Batch
) -> None:
    """Spend the probe alone, and print what a search of this budget should gain."""
    if not flags.probe:
        print_no_probe(plans, flags.sigma)
        return
    population = Population(target.problem, batch, memory_bytes=flags.memory_bytes)
    print_impossible(plans, population.base)
    with _progress(flags) as progress:
        choice, probes = choose(target, regions, plans, population, flags, progress)
    print_choice(choice, probes)
    print_what_a_plan_took(probe_cost(regions, flags), choice)


def _require_budget(regions: Sequence[Region], options: SearchOptions) -> None:
    cost = probe_cost(regions, options)
    if cost + options.population > options.budget:
        raise InputError(
            f"the probe of {len(regions)} regions costs {cost} evaluations, which leaves no population of a budget of "
            f"{options.budget}: lower --probe, name fewer --basis, or raise --budget."
        )


@contextmanager
def _progress(flags: Search) -> Iterator[Progress]:
    """Show what is being done and, by members scored, which take nearly all of the time, what is left of the whole."""
    whole, first = Whole(), list[int]()
    with job_progress(flags.quiet, whole=whole) as show:

        def progress(what: str, done: int, total: int) -> None:
            scored = _scored(flags, what, done, total)
            if scored is None or not first:
                whole.begin()
            if scored is not None:
                first[:] = first or [scored[0]]  # of a search that goes on, some were scored earlier
                whole.count(scored[0] - first[0], scored[1] - first[0])
            show(f"seed {flags.seed or 0}", what, done, total)

        yield progress


def _scored(flags: Search, what: str, done: int, total: int) -> tuple[int, int] | None:
    """Return how many members are scored by now, and how many will be, from what is told; None before the probe."""
    if what == SEARCHING:
        return flags.budget - total + done, flags.budget
    if what.startswith(PROBING):
        of_region = flags.probe * n_sigmas(flags)
        return done * of_region, flags.probe + total * of_region if flags.plan else flags.budget
    return None


def _target(flags: Search) -> Target:
    here = {"threads": flags.threads, "device": flags.device}
    if flags.run is not None:
        settings, task, seed = run_settings(flags.run, flags.task, flags.seed)
        settings = updated(settings, here, "a flag")
        return from_run(flags.run, settings, make_problem(settings, seed), task, seed, flags.point)
    # `check` has refused a command line that lacks one of them.
    assert flags.model is not None
    assert flags.adapter is not None
    assert flags.task is not None
    settings = updated(adapter_settings(flags.model, flags.adapter, flags.seed or 0), here, "a flag")
    return from_adapter(settings, make_problem(settings, settings.seed), flags.task, flags.adapter)


def _pool(executor: ExecutorOptions, target: Target, out: Path) -> AbstractContextManager[Pool | None]:
    """Open workers for the whole search; None scores in this process, where the model is loaded already."""
    return nullcontext() if executor.executor == "serial" else open_pool(executor, out, workers_settings(target))


@contextmanager
def _score(
    pool: Pool | None, executor: ExecutorOptions, target: Target, region: Region, population: Population, out: Path
) -> Iterator[Score | None]:
    if pool is None:
        yield None
        return
    with spread(pool, executor, target, region, population, out) as workers:
        yield workers.score


def _identity(flags: Search, target: Target, names: Sequence[str]) -> dict[str, Any]:
    """Return what makes two searches the same one."""
    return {
        "schema": 1,
        "task": target.task,
        "point": target.point,
        "seed": target.seed,
        "weights": target.problem.model_hash(),
        "bases": list(names),
        "rank": flags.rank,
        "threads": flags.threads,
        **flags.identity(),
        "curvature_error": CURVATURE_ERROR,
        "most_probes": MAX_CURVATURE_PROBES,
    }


def _require_same(out: Path, identity: Mapping[str, Any], resume: bool) -> None:
    file = out / "request.json"
    require_writable(out)
    if not file.exists():
        require_unused(out)
        return
    held = read_ours(file, {1: "request"}, "Choose another --out.")
    if changed := differences(held, identity):
        raise InputError(f"{out} holds another search ({changed}). Choose another --out.")
    if not resume:
        raise InputError(f"{out} already holds this search. Add --resume to go on with it.")


def _choice(out: Path, make: Callable[[], tuple[Choice, list[Probe]]]) -> tuple[Choice, list[Probe]]:
    """Read the choice of an interrupted search, or make one."""
    file = out / "choice.json"
    if file.exists():
        body = read_ours(file, {1: "choice"}, "Delete it: the probe is made again.")
        return Choice(**body["choice"]), [Probe(**item) for item in body["probes"]]
    choice, probes = make()
    write_json(file, {"schema": 1, "choice": asdict(choice), "probes": [asdict(item) for item in probes]})
    return choice, probes


def _save_member(target: Target, delta: Tensor, folder: Path) -> None:
    """Save a member's weights as a PEFT folder or, where all weights are searched, as tensors."""
    theta = target.problem.parameters.read()
    moved = theta + delta.to(theta)
    if target.problem.parameters.space.kind == "lora_factors":
        save_adapter(target.problem.parameters, moved, folder)
        return
    tensors = dict(zip(target.problem.parameters.names, target.problem.parameters.unflatten(moved), strict=True))
    write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
