"""A search from plan to winner: every generation is written when it is scored, so an interrupted search goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lineament.commands.search.chunks import losses_body, read_losses
from lineament.commands.search.flags import SearchOptions
from lineament.commands.search.methods import METHODS, Generation, Method, Position
from lineament.commands.search.plan import PROBE_FACTORS, LocalPlan, Probe, local_plan, probe, probe_sigmas
from lineament.commands.search.target import Target
from lineament.errors import InputError, NonFiniteError
from lineament.files.writing import write_json
from lineament.population.population import Population, ranked
from lineament.population.region import Region, SearchSpace, fresh_products, measured_space
from lineament.problems.problem import IGNORED, Batch, Evaluation, answers
from lineament.vectors.hessian import HessianOperator

# Probing the curvature stops at this relative standard error of tr H, and at this many probes at the latest.
CURVATURE_ERROR, MAX_CURVATURE_PROBES = 0.2, 32
# What is reported while members are scored.
SEARCHING, PROBING = "searching", "probing"
# Called with (what is being done, evaluations done, evaluations in all).
Progress = Callable[[str, int, int], None]
# Scores a generation: called with its number, the generation, and where to report the count of members scored.
Score = Callable[[int, Generation, Callable[[int], None]], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """What the search will do, and the gain it predicts on the scored batch and on fresh data."""

    region: str
    sigma: float
    n: int
    source: str
    gain: float | None
    low: float | None
    high: float | None
    fresh_gain: float | None


@dataclass(frozen=True)
class Outcome:
    """Result of a search.

    Attributes:
        gain: of the winner on the scored batch, nats per target token.
        positions: the kept members, best first.
        held_out: base, winner -> held-out evaluation; vote -> accuracy of the kept members' majority.
    """

    choice: Choice
    gain: float
    n_evaluations: int
    n_failed: int
    losses: tuple[float, ...]
    positions: tuple[Position, ...]
    base: Evaluation
    winner: Evaluation
    vote_accuracy: float


def plan_locally(
    target: Target, regions: Sequence[Region], batch: Batch, options: SearchOptions, progress: Progress
) -> list[LocalPlan]:
    """Measure gradient and curvature of every region, and predict the gain of the best of `budget` draws there."""
    streams, spaces = target.streams, list[SearchSpace]()
    operator = HessianOperator(target.problem, batch)
    for place, region in enumerate(regions):
        progress(f"curvature of {region.name}", place, len(regions))
        spaces.append(measured_space(operator, region, streams, CURVATURE_ERROR, MAX_CURVATURE_PROBES))
    operator.release()
    products = fresh_products(target.problem, target.problem.fixed(target.task, "validation"), spaces)
    return [local_plan(space, product, options.budget) for space, product in zip(spaces, products, strict=True)]


def choose(
    target: Target,
    regions: Sequence[Region],
    plans: Sequence[LocalPlan],
    population: Population,
    options: SearchOptions,
    progress: Progress,
) -> tuple[Choice, list[Probe]]:
    """Choose region and sigma of the largest predicted gain: by the probe, or by the local plan without one."""
    by_name = {plan.space.name: plan for plan in plans}
    left = options.budget - probe_cost(regions, options)
    probes: list[Probe] = []
    if not options.probe:
        return _planned(plans, regions, options), []
    numbers = range(options.probe)
    for place, region in enumerate(regions):
        progress(f"{PROBING} {region.name}", place, len(regions))
        sigmas = [options.sigma] if options.sigma else probe_sigmas(region, by_name.get(region.name))
        tried = [probe(population, region, target.streams, sigma, numbers, left) for sigma in sigmas]
        probes += [item for item in tried if item is not None]
    if not probes:
        raise NonFiniteError("every probed member failed: the objective is not finite anywhere near this point.")
    best = max(probes, key=lambda item: item.gain)
    # The largest of several noisy predictions errs upwards: the chosen one is made again from fresh draws.
    region = next(item for item in regions if item.name == best.region)
    fresh = range(options.probe, 2 * options.probe)
    again = probe(population, region, target.streams, best.sigma, fresh, left) or best
    return _probed(again, by_name.get(best.region), left), probes


def n_sigmas(options: SearchOptions) -> int:
    """Count the sigmas that are probed in each region."""
    return 1 if options.sigma else len(PROBE_FACTORS)


def probe_cost(regions: Sequence[Region], options: SearchOptions) -> int:
    """Count the evaluations that the probe spends: every region and sigma once, the chosen one twice."""
    return options.probe * (1 + len(regions) * n_sigmas(options))


def run_search(
    target: Target,
    region: Region,
    choice: Choice,
    population: Population,
    options: SearchOptions,
    folder: Path,
    progress: Progress,
    score: Score | None = None,
) -> Outcome:
    """Spend the budget, keep the best members, and evaluate the winner and the vote on held-out data.

    Args:
        score: how generations are scored; default by `population`, in this process.
    """
    streams = target.streams
    method = METHODS[options.method](region, streams, choice.sigma, population.base)
    losses, positions = _spend(method, population, choice.n, options, folder, progress, score)
    finite = ranked(losses)
    if not finite:
        raise NonFiniteError(f"all {len(losses)} members scored {losses[0]}; there is no winner.")
    order = finite[: options.keep]
    kept = tuple(positions[i] for i in order)
    progress("evaluating on held-out data", 0, 1)
    deltas = torch.stack([position.delta(region, streams) for position in kept])
    held_out = target.problem.fixed(target.task, "held_out")
    base = target.problem.evaluate(held_out)
    theta = target.problem.parameters.read()
    with target.problem.parameters.temporarily(theta + deltas[0].to(theta)):
        winner = target.problem.evaluate(held_out)
    return Outcome(
        choice,
        float(population.base - losses[order[0]]),
        len(losses),
        len(losses) - len(finite),
        tuple(float(losses[i]) for i in order),
        kept,
        base,
        winner,
        vote_accuracy(target, deltas, held_out),
    )


def vote_accuracy(target: Target, deltas: Tensor, batch: Batch) -> float:
    """Return the accuracy of the members' majority answer per target token; ties go to the better member's answer."""
    problem, theta, votes = target.problem, target.problem.parameters.read(), []
    for delta in deltas:
        answered = []
        with problem.parameters.temporarily(theta + delta.to(theta)), torch.no_grad():
            for part in batch.chunks(problem.chunk):
                part = part.to(problem.device)
                answered.append(answers(problem.logits(part), batch.choices)[part.targets != IGNORED])
        votes.append(torch.cat(answered))
    ballots = torch.stack(votes)
    # How many members agree with each member's answer; the first of the most popular ones wins.
    agreement = (ballots[:, None] == ballots[None]).sum(dim=1)
    winner = ballots.gather(0, agreement.argmax(dim=0, keepdim=True))[0]
    targets = batch.targets[batch.targets != IGNORED].to(winner.device)
    return float((winner == targets).double().mean())


def _spend(
    method: Method,
    population: Population,
    n: int,
    options: SearchOptions,
    folder: Path,
    progress: Progress,
    score: Score | None = None,
) -> tuple[np.ndarray, list[Position]]:
    losses: list[float] = []
    positions: list[Position] = []
    number = 0
    while len(losses) < n:
        size = min(options.population, n - len(losses))
        generation = method.ask(size)
        file = folder / "generations" / f"{number:05d}.json"
        if file.exists():
            scored = _read_generation(file, size)
        elif score is None:
            scored = population.score(generation.members).losses
            write_json(file, losses_body(scored))
        else:
            scored = score(number, generation, _counted(progress, len(losses), n))
            write_json(file, losses_body(scored))
        method.tell(scored)
        losses += scored.tolist()
        positions += generation.positions
        number += 1
        if number == 1 and not np.isfinite(scored).any():
            raise NonFiniteError(f"all {len(scored)} members of the first generation failed; lower sigma.")
        progress(SEARCHING, len(losses), n)
    return np.asarray(losses), positions


def _read_generation(file: Path, size: int) -> np.ndarray:
    scored = read_losses(file)
    if len(scored) != size:
        raise InputError(
            f"{file} is damaged: losses has {len(scored)} entries for {size} members. Delete it: they are scored again."
        )
    return scored


def _counted(progress: Progress, before: int, n: int) -> Callable[[int], None]:
    """Return a callback for the count of members that are scored, `before` others having been scored earlier."""
    return lambda done: progress(SEARCHING, before + done, n)


def _probed(best: Probe, plan: LocalPlan | None, n: int) -> Choice:
    fresh = _on_fresh_data(best.gain, plan) if plan else None
    return Choice(best.region, best.sigma, n, "probe", best.gain, best.low, best.high, fresh)


def _on_fresh_data(gain: float, plan: LocalPlan) -> float | None:
    """Return the gain on fresh data; None where its share is not told from zero."""
    return None if plan.fresh_share is None else gain * plan.fresh_share


def _planned(plans: Sequence[LocalPlan], regions: Sequence[Region], options: SearchOptions) -> Choice:
    """Choose the largest second-order gain without a probe, at the given sigma or at each region's own best."""
    n = options.budget
    known = [
        (gain, sigma, plan)
        for plan in plans
        if (sigma := options.sigma or plan.best_sigma) is not None and (gain := plan.gain_at(sigma)) is not None
    ]
    if known:
        gain, sigma, plan = max(known, key=lambda item: item[0])
        return Choice(plan.space.name, sigma, n, "local plan", gain, None, None, _on_fresh_data(gain, plan))
    if options.sigma is not None:
        return Choice(regions[0].name, options.sigma, n, "given sigma", None, None, None, None)
    reasons = "; ".join(f"{plan.space.name}: {plan.why_no_best_sigma}" for plan in plans) or "no gradients"
    raise InputError(f"no region has a best sigma to search at ({reasons}): give --sigma, or --probe above 0.")


def saved(outcome: Outcome, plans: Sequence[LocalPlan], probes: Sequence[Probe]) -> dict[str, Any]:
    """Return the JSON of a finished search: plan, probe, choice, outcome and the kept members in numbers."""
    return {
        "schema": 1,
        "plans": [
            {
                "region": plan.space.name,
                "dimension": plan.space.dimension,
                **asdict(plan.space.at),
                "trace_stderr": plan.space.trace_stderr,
                "curvature": plan.curvature,
                "best_sigma": plan.best_sigma,
                "why_no_best_sigma": plan.why_no_best_sigma,
                "gain": plan.gain,
                "density": plan.density,
                "transfer": plan.transfer,
                "transfer_stderr": plan.transfer_stderr if np.isfinite(plan.transfer_stderr) else None,
            }
            for plan in plans
        ],
        "probes": [asdict(item) for item in probes],
        "choice": asdict(outcome.choice),
        "outcome": {key: value for key, value in asdict(outcome).items() if key not in ("choice", "positions")},
        "members": [asdict(position) for position in outcome.positions],
    }
