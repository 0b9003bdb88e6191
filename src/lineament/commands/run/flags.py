"""Flags of `lineament run` and `lineament sweep`, and how settings and grids come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lineament.commands.job_flags import JobFlags
from lineament.commands.sweep.grid import grid_file, make_grid, parse_variation
from lineament.errors import InputError, unknown_name
from lineament.problems.kinds import KINDS, kind_named
from lineament.runs.folder import SWEEP_FILE
from lineament.settings.presets import resolve
from lineament.settings.reading import parse_assignment
from lineament.settings.settings import Settings

if TYPE_CHECKING:
    ProblemName = str
else:  # the command line's choices are the registered kinds, which a type checker cannot know
    ProblemName = Literal[tuple(KINDS)]
PROBLEM_HELP = "; ".join(f"{name}: {kind.summary}" for name, kind in KINDS.items()) + ". Optional with --config"


@dataclass(frozen=True)
class Run(JobFlags):
    """Train, damage, recover and measure; writes a run folder with records, claims and report.

    Settings are chosen by --preset, --config and --set; `lineament keys` lists every key with meaning and default.
    With --vary, a sweep: a run for every combination of values.
    """

    problem: Annotated[ProblemName | None, tyro.conf.Positional, tyro.conf.arg(help=PROBLEM_HELP)] = None
    out: Path | None = None
    """run folder; default runs/PROBLEM-PRESET, of a sweep runs/sweep-PROBLEM-PRESET"""
    model: str | None = None
    """smollm2-135m, a local folder, a .gguf file or a hub name (lm only; default smollm2-135m)"""
    adapter: Path | None = None
    """PEFT LoRA folder that is the operating point, instead of training one (lm only)"""
    data: Path | None = None
    """your examples, which become the damaged task: JSONL, JSON, CSV, Parquet or text file, folder saved by datasets,
    or hf:NAME[:CONFIG][:SPLIT] (lm only)"""
    config: Path | None = None
    """TOML file with settings, e.g. the config.toml of another run"""


@dataclass(frozen=True)
class Sweep(JobFlags):
    """Run every combination of the values in a file's table `vary`, each with every seed; writes tables and a report.

    The file has settings like a config.toml, and under [vary] a list of values per key. A sweep that was stopped goes
    on with --resume.
    """

    config: tyro.conf.Positional[Path | None] = None
    """TOML file with settings and a table [vary], e.g. the sweep.toml of another sweep"""
    out: Path | None = None
    """folder of the sweep; default runs/NAME of the file, with --resume that of a sweep's own sweep.toml"""


def run(command: Run | Sweep) -> int:
    """Carry a parsed command out; returns the exit code."""
    # torch takes seconds to import; --help and usage errors do without it
    from lineament.commands import inspect as commands

    file, vary = grid_file(command.config) if command.config else ({}, {})
    if isinstance(command, Run) and vary:
        raise InputError(f"{command.config} describes a sweep (table `vary`): run it with `lineament sweep`.")
    vary |= _variations(command)
    settings = settings_of(command, file)
    if isinstance(command, Run) and not vary:
        return commands.run(settings, command.out or Path("runs") / f"{settings.problem}-{settings.preset}", command)
    grid = make_grid(settings, vary, "--vary" if command.vary else str(command.config or "the command line"))
    return commands.sweep(grid, command.out or _default_out(command, settings), command)


def _default_out(command: Run | Sweep, settings: Settings) -> Path:
    if isinstance(command, Run) or not command.config:
        return Path("runs") / f"sweep-{settings.problem}-{settings.preset}"
    if command.resume and command.config.name == SWEEP_FILE:
        return command.config.parent  # a sweep's own file says which one goes on
    return Path("runs") / command.config.stem


def settings_of(options: Run | Sweep, file: Mapping[str, Any]) -> Settings:
    """Defaults < preset < --config < --set < flags.

    Args:
        file: dotted keys of the configuration file.
    """
    assignments = dict(parse_assignment(text) for text in options.set)
    _refuse_labels(assignments)
    problem, preset = _start_of(options, file)
    flags = {
        "seeds": options.seeds,
        "measure": options.measure,
        "device": options.device,
        "threads": options.threads,
        **(_model_flags(options, problem) if isinstance(options, Run) else {}),
    }
    layers = [
        (str(options.config), file),
        ("--set", assignments),
        ("a flag", {key: value for key, value in flags.items() if value is not None}),
    ]
    return resolve(problem, preset, layers)


def _variations(options: JobFlags) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in options.vary:
        key, values = parse_variation(text)
        if key in found:
            raise InputError(f"--vary {key} is given twice; write all its values in one: --vary {key}=a,b.")
        found[key] = values
    return found


def _model_flags(options: Run, problem: str) -> dict[str, str | None]:
    given = {"--model": options.model, "--data": options.data, "--adapter": options.adapter}
    for flag, instead in kind_named(problem).refused_flags.items():
        if given[flag]:
            raise InputError(f"{flag} is for `lineament run lm`; {instead}")
    return {
        "model.name": options.model,
        "model.adapter": str(options.adapter) if options.adapter else None,
        "task.data": str(options.data) if options.data else None,
    }


def _start_of(options: Run | Sweep, file: Mapping[str, Any]) -> tuple[str, str]:
    """Problem and preset, which the command line and a configuration file may both name, but not differently."""
    problem, preset = (str(file[key]) if key in file else None for key in ("problem", "preset"))
    asked = options.problem if isinstance(options, Run) else None
    if asked and problem not in (None, asked):
        raise InputError(f"{options.config} is for problem {problem!r}, but {asked!r} was asked for.")
    if options.preset and preset not in (None, options.preset):
        raise InputError(f"{options.config} started from preset {preset!r}, but --preset {options.preset} was given.")
    problem = asked or problem
    if problem is None:
        raise InputError(_what_to_run(options))
    if problem not in KINDS:
        raise unknown_name("problem", problem, KINDS, f"from {options.config}")
    return problem, options.preset or preset or "full"


def _what_to_run(options: Run | Sweep) -> str:
    if isinstance(options, Run):
        return "say what to run: `lineament run synthetic`, `lineament run lm`, or --config FILE."
    if options.config is None:
        return "say what to sweep: `lineament sweep CONFIG`, or `lineament run PROBLEM --vary key=a,b`."
    return f'{options.config} names no problem: add problem = "synthetic" or problem = "lm".'


def _refuse_labels(assignments: Mapping[str, str]) -> None:
    """--set comes after preset and problem were applied: there these two keys would be labels and nothing else."""
    instead = {"preset": "--preset {}", "problem": "`lineament run {}`"}
    for key, value in assignments.items():
        if key in instead:
            raise InputError(
                f"--set {key}={value} would name the run without applying it; use {instead[key].format(value)}."
            )
