"""What a search prints: its plan, its choice and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament import theory
from lineament.commands.search.driver import Choice, Outcome
from lineament.commands.search.plan import LocalPlan, Probe
from lineament.commands.search.target import Target
from lineament.commands.terminal import console
from lineament.records import MIN_STDERRS

# What the regions are that have a name of their own.
REGIONS = {
    "full": "all weights that may move",
    "random": "a plane of random directions",
    "gradient": "the plane of the task's gradients",
    "prefix": "that of the recovery's first updates",
}


def print_plan(target: Target, plans: Sequence[LocalPlan], n: int) -> None:
    """Print the geometry of every region at the point, and the gain that the best of n draws should have there."""
    where = f", task {target.task}, at {target.point}; budget {n} evaluations"
    console.print(Text.assemble((target.problem.model_name, "bold"), where))
    if not plans:
        console.print("No gradients: no gradient norm, curvature, density or best sigma; the probe alone decides.")
        return
    console.print(_plan_table(plans, n))
    known = [f"{name}, {REGIONS[name]}" for plan in plans if (name := plan.space.name) in REGIONS]
    if known:
        console.print(f"region: {'; '.join(known)}.")
    console.print("curvature: what the best draw meets, tr H + (q_N - 1) g'Hg / |g|² (± standard error of tr H).")
    console.print("gain: nats, second order, at the best sigma.")
    console.print("fresh: share of it on other data, first order (± standard error over parts of them).")
    _print_best(plans)


def _plan_table(plans: Sequence[LocalPlan], n: int) -> Table:
    table = Table(
        *("region", "dim", "|g|", "curvature", "density", "best sigma", f"gain of {n}", "fresh"),
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for plan in plans:
        at, gain = plan.space.at, "-" if plan.gain is None else f"{plan.gain:.3g}"
        trace = f"{plan.curvature:.3g}" + (f" ±{plan.space.trace_stderr:.2g}" if plan.space.trace_stderr else "")
        sigma = "none" if plan.best_sigma is None else f"{plan.best_sigma:.2g}"
        fresh = f"{100 * plan.transfer:.0f}±{plan.transfer_stderr:.0%}"  # no space: a row must fit 80 characters
        cells = [f"{at.gradient_norm:.3g}", trace, f"{plan.density:.2g}", sigma, gain, fresh]
        table.add_row(plan.space.name, f"{plan.space.dimension:,}", *cells)
    return table


def _print_best(plans: Sequence[LocalPlan]) -> None:
    known = [plan for plan in plans if plan.gain is not None and plan.best_sigma is not None]
    for plan in sorted(known, key=lambda item: -(item.gain or 0.0))[:1]:
        assert plan.best_sigma is not None
        half = theory.draws_needed((plan.gain or 0.0) / 2, 0.95, plan.best_sigma, plan.space.at.gradient_norm)
        console.print(f"best by this plan: {plan.space.name}; half of its gain takes {half} draws (95 %, first order).")
    unknown = [plan.space.name for plan in plans if plan.space.why_unknown_curvature(plan.n)]
    helped = [plan.space.name for plan in plans if plan.gain is None and plan.space.name not in unknown]
    overfit = [plan.space.name for plan in plans if plan.fresh_share is None]
    if overfit:
        console.print(
            f"The share on other data is not told from 0 in {', '.join(overfit)} (below {MIN_STDERRS:g} standard "
            "errors): nothing is predicted there for fresh data."
        )
    if helped:
        console.print(
            f"Curvature helps (it is below 0) in {', '.join(helped)}: no local number says how far to go, the probe "
            "decides."
        )
    if unknown:
        console.print(
            f"Curvature is not told from 0 in {', '.join(unknown)} (below {MIN_STDERRS:g} standard errors): "
            "neither its sign nor a best sigma is known, the probe decides."
        )


def print_choice(choice: Choice, probes: Sequence[Probe]) -> None:
    """Print what the probe measured, and what the search will do."""
    if probes:
        table = Table("region", "best sigma probed", "one draw: mean, spread", "predicted best [95 %]", box=SIMPLE_HEAD)
        for name in dict.fromkeys(p.region for p in probes):
            p = max((item for item in probes if item.region == name), key=lambda item: item.gain)
            best = f"{p.gain:.3g} [{p.low:.3g}, {p.high:.3g}]"
            table.add_row(name, f"{p.sigma:.2g}", f"{p.mean:.3g}, {p.spread:.3g}", best)
        console.print(table)
    interval = f" ({choice.low:.3g} to {choice.high:.3g})" if choice.low is not None and choice.high is not None else ""
    gain = "unknown" if choice.gain is None else f"{choice.gain:.3g}{interval} nats"
    fresh = "" if choice.fresh_gain is None else f", {choice.fresh_gain:.3g} on fresh data"
    what = f"{choice.region}, sigma {choice.sigma:.3g} ({choice.source}), {choice.n} draws"
    console.print(f"search: {what}; predicted {gain}{fresh}")


def print_impossible(plans: Sequence[LocalPlan], base: float) -> None:
    """Say which predictions exceed the loss that there is, nats: cross entropy cannot fall below zero."""
    beyond = [plan.space.name for plan in plans if plan.gain is not None and plan.gain > base]
    if beyond:
        console.print(
            f"The gain predicted in {', '.join(beyond)} is more than the loss at this point, {base:.3g} nats: the "
            "quadratic picture fails before so long a step."
        )


def print_what_a_plan_took(cost: int, choice: Choice) -> None:
    """Say that a probe was spent for the prediction, which the search itself begins with."""
    console.print(
        f"The probe took {cost} forward passes of the batch; the search begins with the same one and then draws "
        f"{choice.n} members. Nothing was written."
    )


def print_no_probe(plans: Sequence[LocalPlan], sigma: float | None) -> None:
    """Say what is missing without a probe."""
    if sigma is None and not any(plan.gain is not None for plan in plans):
        console.print("Without a probe nothing is predicted: leave --probe 0 out, or give --sigma.")


def print_outcome(outcome: Outcome, out: Path) -> None:
    """Print predicted beside achieved gains, and where the winner is."""
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
