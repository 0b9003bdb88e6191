"""`lineament search`: plan, probe, search, and say what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import Tensor

from lineament import theory
from lineament.commands.search.driver import (
    Choice,
    Outcome,
    Progress,
    Score,
    SearchOptions,
    choose,
    plan_locally,
    probe_cost,
    run_search,
    saved,
)
from lineament.commands.search.methods import METHODS
from lineament.commands.search.plan import LocalPlan, Probe
from lineament.commands.search.target import (
    Target,
    adapter_settings,
    default_bases,
    from_adapter,
    from_run,
    make_regions,
    run_settings,
)
from lineament.commands.search.workers import spread, workers_settings
from lineament.errors import InputError, unknown_name
from lineament.population.population import Population
from lineament.population.region import Region
from lineament.problems.adapters import save_adapter
from lineament.records import read_json, write_bytes, write_json
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.folder import RunFolder, differences, require_unused, require_writable
from lineament.runs.job import make_problem
from lineament.settings.reading import updated

FEWEST_PER_GENERATION = 2


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked by `check` before anything is loaded or written.

    Attributes:
        run: a run folder; or else `model` and `adapter` say what is searched.
        bases: names of regions or basis files; empty lets the target decide.
        executor: where generations are scored; no part of what makes two searches the same one.
    """

    run: Path | None
    model: str | None
    adapter: Path | None
    task: str | None
    point: str
    seed: int | None
    bases: tuple[str, ...]
    rank: int
    out: Path | None
    resume: bool
    plan_only: bool
    threads: int
    device: str
    options: SearchOptions
    save_kept: bool = False
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)


def check(request: Request) -> None:
    """Refuse what can be known to be wrong beforehand."""
    options = request.options
    request.executor.require_allowed()
    if options.method not in METHODS:
        raise unknown_name("method", options.method, METHODS)
    if options.sigma is not None and not (options.sigma > 0 and math.isfinite(options.sigma)):
        raise InputError(f"--sigma {options.sigma}: it must be above 0 and finite.")
    for name, value, least in (
        ("--budget", options.budget, 1),
        ("--population", options.population, FEWEST_PER_GENERATION),
        ("--examples", options.examples, 1),
        ("--keep", options.keep, 1),
        ("--rank", request.rank, 1),
        ("--probe", options.probe_draws, 0),
        ("--threads", request.threads, 1),
    ):
        if value < least:
            raise InputError(f"{name} {value}: it must be at least {least}.")
    if options.budget < options.population:
        raise InputError(
            f"--budget {options.budget} is below one population of {options.population}; raise it or lower "
            "--population."
        )
    if (request.run is None) == (request.model is None or request.adapter is None):
        raise InputError("give a run folder, or --model with --adapter (and --task).")
    if request.run is None and request.task is None:
        raise InputError("--model needs --task: the statement task that members are scored on.")


def search(request: Request, progress_of: Callable[[], AbstractContextManager[Progress]], console: Console) -> int:
    """Run the whole tool; returns the exit code."""
    check(request)
    torch.set_num_threads(request.threads)
    target = _target(request)
    names = request.bases or default_bases(target, gradients=request.options.gradients)
    regions = make_regions(target, names, request.rank, gradients=request.options.gradients)
    options = request.options
    if not request.plan_only and probe_cost(regions, options) + options.population > options.budget:
        raise InputError(
            f"the probe of {len(regions)} regions costs {probe_cost(regions, options)} evaluations, which leaves no "
            f"population of a budget of {options.budget}: lower --probe, name fewer --basis, or raise --budget."
        )
    batch = target.batch(options.examples, "selection")
    plans = plan_locally(target, regions, batch, options) if options.gradients else []
    _print_plan(console, target, plans, options)
    if request.plan_only:
        return 0
    out = request.out or Path("runs") / f"search-{target.task}-{options.method}"
    identity = _identity(request, target, names)
    _require_same(out, identity, request.resume)
    with _pool(request.executor, target, out) as pool, RunFolder(out).locked(), progress_of() as progress:
        write_json(out / "request.json", identity)
        population = Population(target.problem, batch, memory_bytes=options.memory_bytes)
        choice, probes = _choice(out, lambda: choose(target, regions, plans, population, options, progress))
        _print_choice(console, choice, probes)
        region = next(item for item in regions if item.name == choice.region)
        with _score(pool, request.executor, target, region, population, out) as score:
            outcome = run_search(target, region, choice, population, options, out, progress, score)
        write_json(out / "search.json", saved(outcome, plans, probes))
        for number, position in enumerate(outcome.positions if request.save_kept else outcome.positions[:1]):
            folder = out / "kept" / f"{number + 1}" if number else out / "winner"
            _save_member(target, position.delta(region, target.streams), folder)
    _print_outcome(console, outcome, out)
    return 0


def _target(request: Request) -> Target:
    if request.run is not None:
        settings, task, seed = run_settings(request.run, request.task, request.seed)
        settings = updated(settings, {"threads": request.threads, "device": request.device}, "a flag")
        return from_run(request.run, settings, make_problem(settings, seed), task, seed, request.point)
    assert request.model is not None
    assert request.adapter is not None
    assert request.task is not None
    settings = adapter_settings(request.model, request.adapter, request.seed or 0)
    settings = updated(settings, {"threads": request.threads, "device": request.device}, "a flag")
    return from_adapter(settings, make_problem(settings, settings.seed), request.task, request.adapter)


def _pool(executor: ExecutorOptions, target: Target, out: Path) -> AbstractContextManager[Pool | None]:
    """Workers for the whole search; None scores in this process, where the model is loaded already."""
    return nullcontext() if executor.name == "serial" else open_pool(executor, out, workers_settings(target))


@contextmanager
def _score(
    pool: Pool | None, executor: ExecutorOptions, target: Target, region: Region, population: Population, out: Path
) -> Iterator[Score | None]:
    if pool is None:
        yield None
        return
    with spread(pool, executor, target, region, population, out) as workers:
        yield workers.score


def _identity(request: Request, target: Target, names: Sequence[str]) -> dict[str, Any]:
    """What makes two searches the same one."""
    options = {k: v for k, v in asdict(request.options).items() if k != "memory_bytes"}
    theta = target.problem.model_hash()
    where = {"task": target.task, "point": target.point, "seed": target.seed, "weights": theta}
    return {"schema": 1, **where, "bases": list(names), "rank": request.rank, "threads": request.threads, **options}


def _require_same(out: Path, identity: Mapping[str, Any], resume: bool) -> None:
    file = out / "request.json"
    require_writable(out)
    if not file.exists():
        require_unused(out)
        return
    if changed := differences(read_json(file), identity):
        raise InputError(f"{out} holds another search ({changed}). Choose another --out.")
    if not resume:
        raise InputError(f"{out} already holds this search. Add --resume to go on with it.")


def _choice(out: Path, make: Callable[[], tuple[Choice, list[Probe]]]) -> tuple[Choice, list[Probe]]:
    """The choice of an interrupted search, or a new one."""
    file = out / "choice.json"
    if file.exists():
        body = read_json(file)
        return Choice(**body["choice"]), [Probe(**item) for item in body["probes"]]
    choice, probes = make()
    write_json(file, {"schema": 1, "choice": asdict(choice), "probes": [asdict(item) for item in probes]})
    return choice, probes


def _save_member(target: Target, delta: Tensor, folder: Path) -> None:
    """A member's weights, made again from its few numbers, as a PEFT folder or, of all weights, as tensors."""
    theta = target.problem.parameters.read()
    moved = theta + delta.to(theta)
    if target.problem.parameters.space.kind == "lora_factors":
        save_adapter(target.problem.parameters, moved, folder)
        return
    tensors = dict(zip(target.problem.parameters.names, target.problem.parameters.unflatten(moved), strict=True))
    write_bytes(folder / "model.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))


def _print_plan(console: Console, target: Target, plans: Sequence[LocalPlan], options: SearchOptions) -> None:
    n = options.budget
    where = f"task {target.task}, at {target.point}; budget {n} evaluations"
    console.print(f"[bold]{target.problem.model_name}[/], {where}")
    if not plans:
        console.print("No gradients: no gradient norm, curvature, density or best sigma; the probe alone decides.")
        return
    table = Table("region", "dim", "|g|", "tr H", "density", "best sigma", f"gain of {n}", "fresh", box=SIMPLE_HEAD)
    for plan in plans:
        at, helps = plan.space.at, plan.gain is None
        trace = f"{at.trace:.3g}" + (f" ±{plan.space.trace_stderr:.2g}" if plan.space.trace_stderr else "")
        gain = "-" if helps else f"{plan.gain:.3g}"
        sigma = "none" if plan.best_sigma is None else f"{plan.best_sigma:.2g}"
        cells = [f"{at.gradient_norm:.3g}", trace, f"{plan.density:.2g}", sigma, gain, f"{plan.transfer:.0%}"]
        table.add_row(plan.space.name, f"{plan.space.dimension:,}", *cells)
    console.print(table)
    console.print("gain: nats, second order, at the best sigma. fresh: share of it on other data, first order.")
    known = [plan for plan in plans if plan.gain is not None and plan.best_sigma is not None]
    for plan in sorted(known, key=lambda item: -(item.gain or 0.0))[:1]:
        assert plan.best_sigma is not None
        half = theory.draws_needed((plan.gain or 0.0) / 2, 0.95, plan.best_sigma, plan.space.at.gradient_norm)
        console.print(f"best by this plan: {plan.space.name}; half of its gain takes {half} draws (95 %, first order).")
    if len(known) < len(plans):
        helped = ", ".join(plan.space.name for plan in plans if plan.gain is None)
        console.print(f"Curvature helps in {helped}: no local figure says how far to go, the probe decides.")


def _print_choice(console: Console, choice: Choice, probes: Sequence[Probe]) -> None:
    if probes:
        table = Table("region", "best sigma probed", "one draw: mean, spread", "foretold best [95 %]", box=SIMPLE_HEAD)
        for name in dict.fromkeys(p.region for p in probes):
            p = max((item for item in probes if item.region == name), key=lambda item: item.gain)
            best = f"{p.gain:.3g} [{p.low:.3g}, {p.high:.3g}]"
            table.add_row(name, f"{p.sigma:.2g}", f"{p.mean:.3g}, {p.spread:.3g}", best)
        console.print(table, markup=False)
    interval = f" ({choice.low:.3g} to {choice.high:.3g})" if choice.low is not None and choice.high is not None else ""
    gain = "unknown" if choice.gain is None else f"{choice.gain:.3g}{interval} nats"
    fresh = "" if choice.fresh_gain is None else f", {choice.fresh_gain:.3g} on fresh data"
    what = f"{choice.region}, sigma {choice.sigma:.3g} ({choice.source}), {choice.n} draws"
    console.print(f"search: {what}; predicted {gain}{fresh}")


def _print_outcome(console: Console, outcome: Outcome, out: Path) -> None:
    table = Table("", "predicted", "achieved", box=SIMPLE_HEAD)
    choice, held_out = outcome.choice, outcome.base.loss - outcome.winner.loss
    shown = ["-" if x is None else f"{x:.3g}" for x in (choice.gain, choice.fresh_gain)]
    table.add_row("gain on the scored batch, nats", shown[0], f"{outcome.gain:.3g}")
    table.add_row("gain on held-out data, nats", shown[1], f"{held_out:.3g}")
    console.print(table)
    console.print(
        f"held-out accuracy: {outcome.base.accuracy:.3f} before, {outcome.winner.accuracy:.3f} winner, "
        f"{outcome.vote_accuracy:.3f} vote of the best {len(outcome.positions)}"
    )
    failed = f"; {outcome.n_failed} failed" if outcome.n_failed else ""
    console.print(f"{outcome.n_evaluations} members scored{failed}. winner: {out / 'winner'}", soft_wrap=True)
