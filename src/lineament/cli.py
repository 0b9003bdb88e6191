"""The command line: parse, call, print. Every flag is a typed field below; settings are keys of `Settings`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lineament import __version__
from lineament.commands.job_flags import ExecutorFlags
from lineament.commands.recordings.flags import Advise, Analyze, RecordFromCheckpoints
from lineament.commands.recordings.flags import run as run_recording
from lineament.commands.run.flags import Run, Sweep
from lineament.commands.run.flags import run as run_jobs
from lineament.commands.steer.flags import Steer
from lineament.commands.steer.flags import run as run_steer
from lineament.errors import LineamentError


@dataclass(frozen=True)
class SearchFlags:
    """What is searched, and how."""

    run: tyro.conf.Positional[Path | None] = None
    """run folder whose damaged, trained or fresh point is searched around; or else --model, --adapter and --task"""
    model: str | None = None
    """smollm2-135m, a local folder, a .gguf file or a hub name"""
    adapter: Path | None = None
    """PEFT adapter folder to search around"""
    task: str | None = None
    """task that members are scored on; default the run's first"""
    point: str = "broken"
    """point of the run: broken, star or start"""
    seed: int | None = None
    """seed of the run, and of the draws; default the run's first, or 0"""
    budget: int = 2000
    """member evaluations in all, the probe's included"""
    method: str = "one_shot"
    """one_shot, recentre (move to the best), es (evolution strategy) or cmaes"""
    population: int = 64
    """members per generation"""
    basis: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """where to draw, repeatable: full, gradient, prefix, krylov, random or FILE.safetensors; default what there is"""
    rank: int = 10
    """directions of each basis"""
    sigma: float | None = None
    """standard deviation per coordinate; default by plan and probe"""
    probe: int = 16
    """draws per region and sigma of the probe; 0 trusts the plan"""
    examples: int = 16
    """training examples that members are scored on"""
    keep: int = 8
    """members that are kept, and whose majority votes"""
    save_kept: bool = False
    """write every kept member as an adapter folder, not the winner alone"""
    no_gradients: bool = False
    """forward passes only: no plan from gradient and curvature"""
    plan: bool = False
    """print the plan and stop before an evaluation is spent"""
    memory_mib: int = 1024
    """bound on what a pass of members holds beyond the model, MiB"""
    out: Path | None = None
    """folder of the search; default runs/search-TASK-METHOD"""
    resume: bool = False
    """go on with the search in --out"""
    threads: int = 2
    """torch threads"""
    device: str = "auto"
    """auto, cpu or cuda"""


@dataclass(frozen=True)
class Search(ExecutorFlags, SearchFlags):
    """Random search around a model's weights that tells its odds before it spends the budget.

    Plans from one gradient and a few curvature probes, spends a small probe of the budget where that plan cannot say
    how far to go, then searches with forward passes only and saves the winner as a PEFT adapter.
    """

    quiet: bool = False
    """no progress"""
    debug: bool = False
    """show tracebacks"""


@dataclass(frozen=True)
class Report:
    """Write report.html again from a run's records; needs no model."""

    run: tyro.conf.Positional[Path]
    """run folder"""


@dataclass(frozen=True)
class Claims:
    """Print a run's verdicts."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    json: bool = False
    """print claims.json instead of a table"""


@dataclass(frozen=True)
class Runs:
    """List the runs below a folder."""

    root: tyro.conf.Positional[Path] = Path("runs")
    """folder to look in"""


@dataclass(frozen=True)
class Compare:
    """Show two runs' claims side by side, and the settings in which they differ."""

    first: tyro.conf.Positional[Path]
    """run folder"""
    second: tyro.conf.Positional[Path]
    """run folder"""


@dataclass(frozen=True)
class Export:
    """Print every figure of a run, one row each."""

    run: tyro.conf.Positional[Path]
    """run folder"""
    csv: bool = False
    """as CSV"""


@dataclass(frozen=True)
class Cache:
    """List or delete cached base models."""

    action: tyro.conf.Positional[Literal["list", "clear"]] = "list"
    """list or clear"""


@dataclass(frozen=True)
class Keys:
    """List every settings key with its default, type, range, unit and meaning."""


DESCRIPTION = (
    "Measure the local linear structure of neural networks: which directions are real, how far they reach, how fast "
    "they go stale. Exit codes: 0 done, 1 the run failed, 2 bad usage or input. --version prints the version."
)
COMMANDS = {
    "run": Run,
    "sweep": Sweep,
    "search": Search,
    "steer": Steer,
    "analyze": Analyze,
    "advise": Advise,
    "record-from-checkpoints": RecordFromCheckpoints,
    "report": Report,
    "claims": Claims,
    "runs": Runs,
    "compare": Compare,
    "export": Export,
    "cache": Cache,
    "keys": Keys,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 the run failed, 2 bad usage or input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"lineament {__version__}")
        return 0
    command: Any = tyro.cli(_commands(), args=given, prog="lineament", description=DESCRIPTION)
    try:
        code = _dispatch(command)
        sys.stdout.flush()  # a reader who has gone is noticed here, not while Python exits
        return code
    except LineamentError as error:
        if getattr(command, "debug", False):
            raise
        print(f"lineament: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough, as in `lineament export RUN --csv | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 1
    except OSError as error:  # outside the files that are written whole
        if getattr(command, "debug", False):
            raise
        from lineament.records import what_to_do

        print(f"lineament: {error}. {what_to_do(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = " Run the same command with --resume." if hasattr(command, "resume") else ""
        print(f"lineament: interrupted; what was finished stays.{again}", file=sys.stderr)
        return 1


def _commands() -> Any:
    """A union of dataclasses that tyro turns into subcommands."""
    kinds = [Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in COMMANDS.items()]
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    return union


def _dispatch(command: Any) -> int:
    if isinstance(command, Keys):
        from lineament.commands.keys import print_keys

        return print_keys()
    # torch and transformers take seconds to import; --help, keys and usage errors do without them
    from lineament.commands import inspect as commands

    match command:
        case Run() | Sweep():
            return run_jobs(command)
        case Search():
            return _search(command)
        case Steer():
            return run_steer(command)
        case Analyze() | Advise() | RecordFromCheckpoints():
            return run_recording(command)
        case Report():
            return commands.report(command.run)
        case Claims():
            return commands.claims(command.run, command.json)
        case Runs():
            return commands.runs(command.root)
        case Compare():
            return commands.compare(command.first, command.second)
        case Export():
            return commands.export(command.run, command.csv)
        case _:
            return commands.cache(command.action)


def _search(options: Search) -> int:
    from lineament.commands import inspect as commands
    from lineament.commands.search.command import Request
    from lineament.commands.search.driver import SearchOptions

    chosen = SearchOptions(
        method=options.method,
        budget=options.budget,
        population=options.population,
        sigma=options.sigma,
        probe_draws=options.probe,
        examples=options.examples,
        keep=options.keep,
        gradients=not options.no_gradients,
        memory_bytes=options.memory_mib * 2**20,
    )
    same = ("run", "model", "adapter", "task", "point", "seed", "rank", "out", "resume", "threads", "device")
    shared = {name: getattr(options, name) for name in same}
    request = Request(
        **shared,
        bases=options.basis,
        plan_only=options.plan,
        options=chosen,
        save_kept=options.save_kept,
        executor=options.executor_options(),
    )
    return commands.search(request, options.quiet)


if __name__ == "__main__":
    sys.exit(main())
