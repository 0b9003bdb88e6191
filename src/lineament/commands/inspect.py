"""What each command does, as plain functions of parsed options. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lineament.claims.claims_file import read_claims
from lineament.claims.verdict import Claim
from lineament.commands.job_flags import JobFlags
from lineament.commands.sweep.command import SweepRequest, show_sweep_plan, write_all
from lineament.commands.sweep.command import sweep as run_sweep
from lineament.commands.sweep.folder import SweepFolder
from lineament.commands.sweep.grid import Grid
from lineament.commands.terminal import claims_table, job_progress, sweep_table
from lineament.errors import InputError, LineamentError
from lineament.measurements.measurement import need_recovery
from lineament.problems.kinds import kind_named
from lineament.problems.synthetic import cache_folder
from lineament.records import Record, delete_leftovers, load_records, read_json, record_files
from lineament.runs.executors.driver import Driver, Failure, settle_finished
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.standing import standing
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, seeds_of, validate, write_results
from lineament.runs.planning import Plan, plan
from lineament.runs.tracking import tracking
from lineament.settings.plain import flattened
from lineament.settings.settings import Settings

if TYPE_CHECKING:
    from lineament.commands.search.command import Request

console = Console(highlight=False, soft_wrap=False)
MOST_FAILURES_SHOWN = 10


def run(settings: Settings, out: Path, flags: JobFlags) -> int:
    """Run every missing job, then write claims and report; returns the exit code."""
    executor = checked_executor(flags, settings)
    if flags.dry_run:
        return show_plan(settings, executor.n_workers)
    validate(settings)
    folder = RunFolder(out)
    folder.check(settings, flags.resume)
    jobs = [Job(settings, seed, out, f"seed {seed}") for seed in seeds_of(settings)]
    # A user's model is loaded before anything is written: a wrong name or module leaves no trace.
    ready = make_problem(settings, jobs[0].seed) if kind_named(settings.problem).takes_model else None
    notes = ready.notes if ready else ()
    if executor.name != "serial":
        ready = None  # workers load their own; this process need not hold a model meanwhile
    # Trackers and executors that cannot be had are known before anything is written.
    with tracking(flags.track, out) as after, open_pool(executor, out, settings, ready) as pool, folder.locked():
        folder.open(settings, flags.resume)
        for note in notes:
            folder.log(note)
            if not flags.quiet:
                print(f"{settings.model.name}: {note}.", file=sys.stderr)
        now = standing(jobs)
        settle_finished(now.unnoted, after)
        for job in now.missing:
            folder.mark(job.name, "planned")
        with job_progress(flags.quiet, flags.log_file) as progress:
            failures = Driver(now.missing, executor, progress, after=after).run(pool)
        say_failed(failures)
        if not record_files(folder.records):
            raise LineamentError(f"no record was finished; see {out / 'log.txt'}. Fix the cause and use --resume.")
        claims = write_results(out)
    _print_results(out, claims, settings)
    return 1 if failures else 0


def sweep(grid: Grid, out: Path, flags: JobFlags) -> int:
    """Run every missing job of every cell, then write results, tables and report; returns the exit code."""
    executor = checked_executor(flags, grid.base)
    if flags.dry_run:
        show_sweep_plan(grid, out, executor.n_workers, console)
        return 0
    with tracking(flags.track, out) as after:
        request = SweepRequest(grid, out, executor, flags.resume, flags.quiet, after, say_failed)
        failures, results = run_sweep(request, partial(job_progress, flags.quiet, flags.log_file))
    console.print(sweep_table(results))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    return 1 if failures else 0


def checked_executor(flags: JobFlags, settings: Settings) -> ExecutorOptions:
    """How jobs are run, and what else can be known to be wrong about the flags.

    Raises:
        InputError: names the flag, what was given and what is allowed.
    """
    executor = flags.executor_options()
    executor.require_allowed()
    if flags.require_interval and settings.seeds < 2:
        raise InputError("--require-interval needs at least two seeds; one was asked for. Use --seeds 3.")
    if flags.log_file and not flags.log_file.parent.is_dir():
        raise InputError(f"--log-file {flags.log_file}: the folder {flags.log_file.parent} does not exist.")
    return executor


def say_failed(failures: Sequence[Failure]) -> None:
    """Name jobs that were given up on stderr, the first few with their reasons."""
    for failure in failures[:MOST_FAILURES_SHOWN]:
        print(f"{failure.task.label} failed: {failure.message}", file=sys.stderr)
    if (more := len(failures) - MOST_FAILURES_SHOWN) > 0:
        print(f"and {more} more failed; the log has all.", file=sys.stderr)


def search(request: Request, quiet: bool) -> int:
    """Plan, probe and search; the winner and the kept members go to the search's folder."""

    from lineament.commands.search.command import search as run_request  # its PEFT takes seconds to import

    @contextmanager
    def progress() -> Iterator[Callable[[str, int, int], None]]:
        with job_progress(quiet) as show:
            yield partial(show, f"seed {request.seed or 0}")

    return run_request(request, progress, console)


def show_plan(settings: Settings, workers: int) -> int:
    """Print what the run would take, measured on a probe; writes nothing."""
    validate(settings)
    found: Plan = plan(settings, workers)
    table = Table("stage", "passes", "minutes", title="one job (a seed with all its targets)", title_justify="left")
    for stage in found.stages:
        table.add_row(stage.name, f"{stage.examples:,} examples", f"{stage.seconds / 60:.1f}")
    console.print(table)
    console.print(
        f"{found.n_jobs} jobs over {workers} process(es): about {found.seconds / 60:.0f} min, "
        f"{found.memory_bytes / 2**30:.1f} GiB memory per process, {found.disk_bytes / 2**20:.0f} MiB disk."
    )
    return 0


def report(path: Path) -> int:
    """Rewrite what is made from the records alone: claims.json and report.html, of a sweep its tables too."""
    folder = RunFolder(path)
    if SweepFolder(path).config.exists():
        with folder.locked():
            write_all(SweepFolder(path))
        print(path / "report.html")
        return 0
    folder.settings()
    with folder.locked():
        write_results(path)
    print(path / "report.html")
    return 0


def claims(path: Path, as_json: bool) -> int:
    """Print the verdicts, of a sweep those of every cell."""
    sweeps = SweepFolder(path).results
    if sweeps.exists():
        body = read_json(sweeps)
        print(json.dumps(body, indent=1)) if as_json else console.print(sweep_table(body))
        return 0
    held = _claims_of(path)
    if as_json:
        print(json.dumps(read_json(path / "claims.json"), indent=1))
    else:
        console.print(claims_table(held))
    return 0


def runs(root: Path) -> int:
    """List run folders below a folder."""
    if not root.is_dir():
        raise InputError(f"{root} is no folder.")
    table = Table("run", "problem", "model", "seeds", "jobs done")
    table.columns[0].overflow = "fold"
    for config in sorted(root.glob("**/config.toml")):
        folder = RunFolder(config.parent)
        settings = folder.settings()
        jobs = read_json(folder.state)["jobs"] if folder.state.exists() else {}
        done = sum(job["status"] == "done" for job in jobs.values())
        row = [
            str(config.parent.relative_to(root)),
            settings.problem,
            settings.model.name,
            str(settings.seeds),
            f"{done}/{len(jobs)}",
        ]
        table.add_row(*row)
    console.print(table)
    return 0


def compare(first: Path, second: Path) -> int:
    """Claims of two runs side by side, and the settings in which they differ."""
    pairs = [{(claim.id, claim.task): claim for claim in _claims_of(path)} for path in (first, second)]
    table = Table("claim", "task", first.name, second.name)
    for key in dict.fromkeys([*pairs[0], *pairs[1]]):
        table.add_row(*key, *(_short(found.get(key)) for found in pairs))
    console.print(table)
    for line in _differences(RunFolder(first).settings(), RunFolder(second).settings()):
        console.print(line, markup=False)
    return 0


def export(path: Path, as_csv: bool) -> int:
    """Every figure as one row of CSV on stdout."""
    if not as_csv:
        raise InputError("nothing to export to: add --csv.")
    if SweepFolder(path).config.exists():
        raise InputError(f"{path} is a sweep: its figures are in {SweepFolder(path).records_table.name}, one row each.")
    records = load_records(RunFolder(path).records)
    if not records:
        raise InputError(f"{path} holds no records.")
    labels = sorted({label for record in records for figure in record.quantities for label in figure.labels})
    writer = csv.writer(sys.stdout)
    writer.writerow(["measurement", "target", "seed", "quantity", *labels, "value", "stderr", "null", "unit", "reason"])
    for record in records:
        for figure in record.quantities:
            own = [figure.labels.get(label, "") for label in labels]
            tail = [figure.value, figure.stderr, figure.null, figure.unit, figure.reason]
            writer.writerow([record.measurement, record.target, record.seed, figure.name, *own, *tail])
    return 0


def cache(action: str) -> int:
    """List or delete cached base models."""
    files = sorted(cache_folder().glob("*.safetensors"))
    for file in files:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
        if action == "clear":
            file.unlink()
    if action == "clear":
        delete_leftovers(cache_folder())
    print(f"{len(files)} cached base model(s) {'deleted' if action == 'clear' else ''}".rstrip())
    return 0


def _print_results(out: Path, found: Sequence[Claim], settings: Settings) -> None:
    records = load_records(RunFolder(out).records)
    n_seeds = len({record.seed for record in records})
    noun = "seed" if n_seeds == 1 else "seeds"
    targets = ", ".join(settings.task.targets)
    space = "LoRA factors" if settings.recovery.space == "lora" else "all weights"
    done = "damaged and recovered" if need_recovery(settings.measure) else "at the operating point"
    console.print(f"[bold]{settings.model.name}[/], {done}: {targets}; {space}; {n_seeds} {noun}")
    for target in settings.task.targets:
        evaluated = [r for r in records if r.target == target and any(r.select("evaluation"))]
        if evaluated:
            console.print(_effects_table(evaluated, target))
            _warn_of_weak_damage(evaluated, target, settings.recovery.threshold)
    console.print(claims_table(found))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)


def _effects_table(records: Sequence[Record], target: str) -> Table:
    """Accuracy of every task at the three points of the target's study, mean over the seeds that reached each."""
    n_recovered = len(_accuracies(records, target, "recovered"))
    some = "" if n_recovered == len(records) else f" ({n_recovered} of {len(records)} seeds)"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("accuracy", overflow="fold")
    for name in ("trained", "damaged", f"recovered{some}"):
        table.add_column(name, justify="right", no_wrap=True)
    tasks = dict.fromkeys(str(figure.labels["task"]) for r in records for figure in r.select("evaluation"))
    for task in tasks:
        cells = [_accuracies(records, task, point) for point in ("star", "broken", "recovered")]
        shown = [f"{fmean(values):.2f}" if values else "-" for values in cells]
        table.add_row(f"{task} (damaged)" if task == target else task, *shown)
    return table


def _warn_of_weak_damage(records: Sequence[Record], target: str, threshold: float) -> None:
    """A target that damage left above the threshold "recovers" at the first step, and captures then say little."""
    pairs = [(_accuracies([r], target, "star"), _accuracies([r], target, "broken")) for r in records]
    weak = [broken for star, broken in pairs if star and broken and broken[0] >= threshold * star[0]]
    if weak:
        print(
            f"warning: in {len(weak)} of {len(records)} seed(s), damage left {target} at {threshold:g} of its trained "
            "accuracy or above, where it counts as recovered. Raise damage.steps or damage.lr in another run.",
            file=sys.stderr,
        )


def _accuracies(records: Sequence[Record], task: str, point: str) -> list[float]:
    found = [record.value("evaluation", point=point, task=task, statistic="accuracy") for record in records]
    return [value for value in found if value is not None]


def _claims_of(path: Path) -> list[Claim]:
    if not (path / "claims.json").exists():
        raise InputError(f"{path} holds no claims.json: it is no finished run. `lineament runs` lists runs.")
    return read_claims(path)


def _short(claim: Claim | None) -> str:
    if claim is None:
        return "not measured"
    measured = "-" if claim.measured is None else f"{claim.measured:.2f}"
    interval = f" \\[{claim.low:.2f}, {claim.high:.2f}]" if claim.low is not None and claim.high is not None else ""
    return f"{measured}{interval} {claim.verdict}"


def _differences(first: Settings, second: Settings) -> list[str]:
    a, b = (dict(flattened(asdict(s))) for s in (first, second))
    return [f"{key}: {a[key]} | {b[key]}" for key in a if a[key] != b[key]]
