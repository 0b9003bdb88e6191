"""The command line: parse, call, print. Every flag is a typed field below; settings are keys of `Settings`."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lineament import __version__
from lineament.errors import InputError, LineamentError, unknown_name
from lineament.presets import DEFAULT_MODELS, resolve
from lineament.recording_cli import Advise, Analyze, RecordFromCheckpoints
from lineament.recording_cli import run as run_recording
from lineament.settings import Settings, flat_keys, flattened, from_file, parse_assignment, to_dict
from lineament.steer_cli import Steer
from lineament.steer_cli import run as run_steer


@dataclass(frozen=True)
class Run:
    """Train, damage, recover and measure; writes a run folder with records, claims and report.

    Settings are chosen by --preset, --config and --set; `lineament keys` lists every key with meaning and default.
    """

    problem: tyro.conf.Positional[Literal["synthetic", "lm"] | None] = None
    """synthetic: the embedded transformer; lm: a causal language model. Optional with --config"""
    out: Path | None = None
    """run folder; default runs/PROBLEM-PRESET"""
    model: str | None = None
    """smollm2-135m, a local folder, a .gguf file or a hub name (lm only; default smollm2-135m)"""
    adapter: Path | None = None
    """PEFT LoRA folder that is the operating point, instead of training one (lm only)"""
    data: Path | None = None
    """your examples, which become the damaged task: JSONL, JSON, CSV, Parquet or text file, folder saved by datasets,
    or hf:NAME[:CONFIG][:SPLIT] (lm only)"""
    preset: str | None = None
    """quick: minutes; full: every basis, rank and the step-size by damage grid (default full)"""
    seeds: int | None = None
    """number of independent seeds; one seed gives no interval"""
    measure: str | None = None
    """measurements, comma separated: gradient_rank,basis_capture,basis_drift,random_search,steering"""
    device: str | None = None
    """auto, cpu or cuda"""
    threads: int | None = None
    """torch threads per job"""
    executor: Literal["serial", "processes"] = "serial"
    """where jobs run; the records are the same"""
    workers: int = 2
    """processes of --executor processes"""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """key=value, repeatable, e.g. --set recovery.lr=1e-3 --set damage.kind=ascent"""
    config: Path | None = None
    """TOML file with settings, e.g. the config.toml of another run"""
    resume: bool = False
    """go on with, or extend, the run in --out"""
    require_interval: bool = False
    """refuse to run with one seed"""
    dry_run: bool = False
    """print the estimated time, memory and disk, and stop"""
    quiet: bool = False
    """no progress"""
    log_file: Path | None = None
    """append progress lines to this file as well"""
    debug: bool = False
    """show tracebacks"""


@dataclass(frozen=True)
class Search:
    """Random search around a model's weights that tells its odds before it spends the budget.

    Plans from one gradient and a few curvature probes, spends a small probe of the budget where that plan cannot say
    how far to go, then searches with forward passes only and saves the winner as a PEFT adapter.
    """

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
    """List every settings key with its meaning, type and default."""


DESCRIPTION = (
    "Measure the local linear structure of neural networks: which directions are real, how far they reach, how fast "
    "they go stale. Exit codes: 0 done, 1 the run failed, 2 bad usage or input. --version prints the version."
)
COMMANDS = {
    "run": Run,
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
    # torch and transformers take seconds to import; --help and usage errors do without them
    from lineament import commands

    match command:
        case Run():
            return _run(command)
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
        case Cache():
            return commands.cache(command.action)
        case _:
            return _print_keys()


def _run(options: Run) -> int:
    from lineament import commands

    settings = settings_of(options)
    out = options.out or Path("runs") / f"{settings.problem}-{settings.preset}"
    workers = options.workers if options.executor == "processes" else 1
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: at least 1.")
    if options.dry_run:
        return commands.show_plan(settings, workers)
    return commands.run(
        settings,
        out,
        resume=options.resume,
        workers=workers,
        quiet=options.quiet,
        log_file=options.log_file,
        require_interval=options.require_interval,
    )


def settings_of(options: Run) -> Settings:
    """Defaults < preset < --config < --set < flags."""
    file = from_file(options.config) if options.config else {}
    assignments = dict(parse_assignment(text) for text in options.set)
    _refuse_labels(assignments)
    problem, preset = _start_of(options, file)
    if options.model and problem == "synthetic":
        raise InputError("--model is for `lineament run lm`; the synthetic model is set by --set model.width=... .")
    if options.data and problem == "synthetic":
        raise InputError("--data is for `lineament run lm`; the synthetic tasks make their own data.")
    if options.adapter and problem == "synthetic":
        raise InputError("--adapter is for `lineament run lm`; the synthetic model trains its own.")
    flags = {
        "model.name": options.model,
        "model.adapter": str(options.adapter) if options.adapter else None,
        "task.data": str(options.data) if options.data else None,
        "seeds": options.seeds,
        "measure": options.measure,
        "device": options.device,
        "threads": options.threads,
    }
    layers = [
        (str(options.config), file),
        ("--set", assignments),
        ("a flag", {key: value for key, value in flags.items() if value is not None}),
    ]
    return resolve(problem, preset, layers)


def _start_of(options: Run, file: Mapping[str, Any]) -> tuple[str, str]:
    """Problem and preset, which the command line and a configuration file may both name, but not differently."""
    problem, preset = (str(file[key]) if key in file else None for key in ("problem", "preset"))
    if options.problem and problem not in (None, options.problem):
        raise InputError(f"{options.config} is for problem {problem!r}, but {options.problem!r} was asked for.")
    if options.preset and preset not in (None, options.preset):
        raise InputError(f"{options.config} started from preset {preset!r}, but --preset {options.preset} was given.")
    problem = options.problem or problem
    if problem is None:
        raise InputError("say what to run: `lineament run synthetic`, `lineament run lm`, or --config FILE.")
    if problem not in DEFAULT_MODELS:
        raise unknown_name(f"problem (from {options.config})", problem, DEFAULT_MODELS)
    return problem, options.preset or preset or "full"


def _refuse_labels(assignments: Mapping[str, str]) -> None:
    """--set comes after preset and problem were applied: there these two keys would be labels and nothing else."""
    instead = {"preset": "--preset {}", "problem": "`lineament run {}`"}
    for key, value in assignments.items():
        if key in instead:
            raise InputError(
                f"--set {key}={value} would name the run without applying it; use {instead[key].format(value)}."
            )


def _search(options: Search) -> int:
    from lineament import commands
    from lineament.search.command import Request
    from lineament.search.driver import SearchOptions

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
        **shared, bases=options.basis, plan_only=options.plan, options=chosen, save_kept=options.save_kept
    )
    return commands.search(request, options.quiet)


def _print_keys() -> int:
    from lineament.keys import key_meanings, type_words, value_words

    defaults = dict(flattened(to_dict(Settings())))
    meanings = key_meanings()
    print("Defaults before any preset. Change one with --set key=value or --config FILE.")
    for key, kind in flat_keys().items():
        # a long list goes on in the next line, broken after a comma
        listed = f"{key} = {value_words(defaults[key])}".replace(",", ", ")
        print(textwrap.fill(listed, 80, subsequent_indent="        ").replace(", ", ","))
        text = f"{type_words(kind)}: {meanings[key]}"
        print(textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="    "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
