"""The summary printed at the end of a run: accuracies, claims, and what to type next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lineament.claims.registry import CLAIMS
from lineament.claims.verdict import Claim
from lineament.commands.terminal import console, name_foreign
from lineament.commands.verdict_tables import claims_table
from lineament.measurements.measurement import need_recovery
from lineament.records import Record, load_records
from lineament.runs.folder import RunFolder
from lineament.settings.settings import Settings


def print_summary(out: Path, claims: Sequence[Claim], settings: Settings) -> None:
    """Print accuracies at the three points and the claims."""
    folder = RunFolder(out).records
    records = load_records(folder)
    name_foreign(folder)
    n_seeds = len({record.seed for record in records})
    noun = "seed" if n_seeds == 1 else "seeds"
    targets = ", ".join(settings.task.targets)
    space = "LoRA factors" if settings.recovery.space == "lora" else "all weights"
    done = "damaged and recovered" if need_recovery(settings.measure) else "at the operating point"
    console.print(Text.assemble((settings.model.name, "bold"), f", {done}: {targets}; {space}; {n_seeds} {noun}"))
    for target in settings.task.targets:
        evaluated = [r for r in records if r.target == target and any(r.select("evaluation"))]
        if evaluated:
            console.print(_effects_table(evaluated, target))
            _warn_of_weak_damage(evaluated, target, settings.recovery.threshold)
    console.print(claims_table(claims))
    if len({claim.task for claim in claims}) == 1:  # of several tasks the report has the sentences
        for claim in claims:
            console.print(verdict_sentence(claim))
        console.print()


def verdict_sentence(claim: Claim) -> Text:
    """Say in one sentence what a verdict means, after the claim that it is of."""
    rule = CLAIMS[claim.id]
    undecided = f"It is open whether {rule.title[:1].lower()}{rule.title[1:]}."
    words = {"supported": rule.holds, "not_supported": rule.fails, "inconclusive": undecided}
    return Text.assemble((f"{claim.id}: ", "dim"), words[claim.verdict])


def next_commands(out: Path, settings: Settings) -> list[str]:
    """Return what to type next, for a run with this folder."""
    place = shlex.quote(str(out))
    if not need_recovery(settings.measure):
        return [f"lineament claims {place}", f"lineament export {place} --csv > {shlex.quote(out.name)}.csv"]
    return [
        f"lineament advise {place}  # what the recorded recovery says about practice",
        f"lineament search {place} --plan  # what random search would gain around the damaged point",
        f"lineament export {place} --csv > {shlex.quote(out.name)}.csv  # every number, one row each",
    ]


def _effects_table(records: Sequence[Record], target: str) -> Table:
    """Show every task's accuracy at the three points of the target's study, mean over the seeds that reached each."""
    n_recovered = len(_accuracies(records, target, "recovered"))
    some = "" if n_recovered == len(records) else f" ({n_recovered} of {len(records)} seeds)"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("accuracy", overflow="fold")
    for name in ("trained", "damaged", f"recovered{some}"):
        table.add_column(name, justify="right", no_wrap=True)
    tasks = dict.fromkeys(str(quantity.labels["task"]) for r in records for quantity in r.select("evaluation"))
    for task in tasks:
        cells = [_accuracies(records, task, point) for point in ("star", "broken", "recovered")]
        shown = [f"{fmean(values):.2f}" if values else "-" for values in cells]
        table.add_row(f"{task} (damaged)" if task == target else task, *shown)
    return table


def _warn_of_weak_damage(records: Sequence[Record], target: str, threshold: float) -> None:
    """Warn of a target that damage left above the threshold: it "recovers" at once, and captures say little."""
    pairs = [(_accuracies([r], target, "star"), _accuracies([r], target, "broken")) for r in records]
    weak = [broken for star, broken in pairs if star and broken and broken[0] >= threshold * star[0]]
    if weak:
        print(
            f"warning: in {len(weak)} of {len(records)} seed(s), damage left {target} at {threshold:g} of its trained "
            "accuracy or above, where it counts as recovered. Raise damage.steps or damage.lr in another run.",
            file=sys.stderr,
        )


def _accuracies(records: Sequence[Record], task: str, point: str) -> list[float]:
    values = [record.value("evaluation", point=point, task=task, statistic="accuracy") for record in records]
    return [value for value in values if value is not None]
