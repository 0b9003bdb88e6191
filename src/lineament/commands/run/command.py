"""`lineament run`: carry out every missing job of a run, then write claims and report."""

from __future__ import annotations

import sys

from rich.table import Table

from lineament.commands.run.flags import Run
from lineament.commands.run.summary import next_commands, print_summary
from lineament.commands.terminal import console, job_progress, print_failures, say_end, steps_shown
from lineament.commands.time_left import Whole
from lineament.errors import LineamentError
from lineament.problems.kinds import kind_named
from lineament.problems.problem import Problem, chosen_device
from lineament.records import record_files
from lineament.runs.executors.driver import Driver, settle_finished
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.standing import standing
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, seeds_of, validate, write_results
from lineament.runs.planning import plan, stage_passes
from lineament.runs.tracking import tracking
from lineament.settings.settings import Settings


def run(flags: Run) -> int:
    """Run every missing job, then write claims and report; return the exit code."""
    file, _ = flags.read_config()
    settings = flags.settings(file)
    flags.check(settings)
    if flags.dry_run:
        return print_plan(settings, flags.n_workers)
    validate(settings)
    if flags.executor != "ray":  # its nodes may have another
        chosen_device(settings.device)
    out = flags.out or flags.default_out(settings)
    folder = RunFolder(out)
    folder.check(settings, flags.resume)
    ready = _loaded_early(settings, flags.quiet)
    notes = ready.notes if ready else ()
    if flags.executor != "serial":
        ready = None  # workers load their own; this process need not hold a model meanwhile
    # Missing trackers and executors are noticed before anything is written.
    with tracking(flags.track, out) as after, open_pool(flags, out, settings, ready) as pool, folder.locked():
        folder.open(settings, flags.resume)
        _note(folder, settings, notes, flags.quiet)
        now = standing([Job(settings, seed, out, f"seed {seed}") for seed in seeds_of(settings)])
        settle_finished(now.unnoted, after)
        for job in now.missing:
            folder.mark(job.name, "planned")
        with job_progress(flags.quiet, flags.log_file, Whole(flags.n_workers, *stage_passes(settings))) as progress:
            failures = Driver(now.missing, flags, progress, after=after).run(pool)
        print_failures(failures)
        if not record_files(folder.records):
            raise LineamentError(f"no record was finished; see {out / 'log.txt'}. Fix the cause and use --resume.")
        claims = write_results(out)
    print_summary(out, claims, settings)
    say_end(flags.quiet, out / "report.html", next_commands(out, settings))
    return 1 if failures else 0


def print_plan(settings: Settings, workers: int) -> int:
    """Print what the run would take, measured on a probe; write nothing."""
    validate(settings)
    estimate = plan(settings, workers)
    table = Table("stage", "passes", "minutes", title="one job (a seed with all its targets)", title_justify="left")
    for stage in estimate.stages:
        table.add_row(stage.name, f"{stage.examples:,} examples", f"{stage.seconds / 60:.1f}")
    console.print(table)
    console.print(
        f"{estimate.n_jobs} jobs over {workers} process(es): about {estimate.seconds / 60:.0f} min, "
        f"{estimate.memory_bytes / 2**30:.1f} GiB memory per process, {estimate.disk_bytes / 2**20:.0f} MiB disk."
    )
    return 0


def _loaded_early(settings: Settings, quiet: bool) -> Problem | None:
    """Load a user's model before anything is written: a wrong name or module leaves no trace."""
    if not kind_named(settings.problem).takes_model:
        return None
    with steps_shown(quiet, 1) as step:
        step(f"loading {settings.model.name}", 0)
        return make_problem(settings, settings.seed)


def _note(folder: RunFolder, settings: Settings, notes: tuple[str, ...], quiet: bool) -> None:
    """Write what is to be known of the model to the log and to stderr."""
    for note in notes:
        folder.log(note)
        if not quiet:
            print(f"{settings.model.name}: {note}.", file=sys.stderr)
