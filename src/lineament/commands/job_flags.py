"""Flags shared by the commands that run jobs, `run` and `sweep`, and the settings that these flags choose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from lineament.command_line.markers import Said
from lineament.errors import InputError, unknown_name
from lineament.files.writing import require_appendable
from lineament.measurements.registry import MEASUREMENTS
from lineament.problems.kinds import KINDS
from lineament.runs.executors.options import ExecutorOptions
from lineament.settings.fields import Seed, SeedCount, Threads
from lineament.settings.model import DeviceName
from lineament.settings.presets import resolve
from lineament.settings.reading import parse_assignment
from lineament.settings.settings import Settings

MEASURE_HELP = f"measurements, comma separated: {', '.join(MEASUREMENTS)}; default the preset's"
# --set comes after problem and preset were applied: there these two keys would be labels and nothing else.
NOT_SET = {"preset": "--preset {}", "problem": "`lineament run {}`"}


@dataclass(frozen=True)
class SettingFlags:
    """Flags that choose settings."""

    preset: Literal["quick", "full"] | None = None
    """quick: minutes a seed, a language model on a CPU longer (--dry-run tells); full: every basis, rank and
    the step-size by damage grid; default full"""
    seed: Seed | None = None
    """first of the seeds; default 0"""
    seeds: SeedCount | None = None
    """number of independent seeds; fewer than three give no interval; default the preset's"""
    measure: Annotated[str | None, Said(MEASURE_HELP)] = None
    device: DeviceName | None = None
    """auto, cpu or cuda; default auto"""
    threads: Threads | None = None
    """torch threads per job; default the preset's"""
    set: tuple[str, ...] = ()
    """key=value, repeatable, e.g. --set recovery.lr=1e-3 --set damage.kind=ascent"""
    vary: tuple[str, ...] = ()
    """key=a,b, repeatable: a sweep over every combination, e.g. --vary recovery.optimizer=sgd,adamw"""


@dataclass(frozen=True)
class JobFlags(ExecutorOptions, SettingFlags, ABC):
    """Everything that `run` and `sweep` have in common, and how settings are made of it."""

    HEADING: ClassVar[str] = "Going on, progress and errors"

    config: Path | None = None
    """TOML file with settings"""
    out: Path | None = None
    """folder of the results"""
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """also log finished jobs to tensorboard or mlflow, repeatable"""
    resume: bool = False
    """continue or extend what --out holds"""
    require_interval: bool = False
    """refuse to run with fewer than three seeds, which give no interval"""
    dry_run: bool = False
    """print the estimated time (of a run also memory and disk) and stop"""
    quiet: bool = False
    """show no progress"""
    log_file: Path | None = None
    """also append progress lines to this file"""
    debug: bool = False
    """show tracebacks"""

    @abstractmethod
    def default_out(self, settings: Settings) -> Path:
        """Return the folder that is written without --out."""

    @abstractmethod
    def problem_is_missing(self) -> str:
        """Return what to tell a user who named no problem."""

    def asked_problem(self) -> str | None:
        """Return the problem that the command line names, if it names one."""
        return None

    def model_settings(self, problem: str) -> Mapping[str, str | None]:
        """Return dotted keys that the command's own flags set; None leaves a key as it is."""
        return {}

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read --config: dotted keys of the settings, and those of the table `vary`."""
        from lineament.runs.sweep.grid import grid_file  # only command lines that name a file need it

        return grid_file(self.config) if self.config else ({}, {})

    def variations(self) -> dict[str, tuple[str, ...]]:
        """Parse --vary: dotted key -> its values as texts."""
        varied: dict[str, tuple[str, ...]] = {}
        for text in self.vary:
            key, values = _parse_variation(text)
            if key in varied:
                raise InputError(f"--vary {key} is given twice; write all its values in one: --vary {key}=a,b.")
            varied[key] = values
        return varied

    def settings(self, file: Mapping[str, Any]) -> Settings:
        """Resolve the settings: defaults < preset < --config < --set < flags.

        Args:
            file: dotted keys of the configuration file.
        """
        assignments = dict(parse_assignment(text) for text in self.set)
        for key, value in assignments.items():
            if key in NOT_SET:
                instead = NOT_SET[key].format(value)
                raise InputError(f"--set {key}={value} would name the run without applying it; use {instead}.")
        problem, preset = self._start(file)
        flags = {
            "seed": self.seed,
            "seeds": self.seeds,
            "measure": self.measure,
            "device": self.device,
            "threads": self.threads,
            **self.model_settings(problem),
        }
        given = {key: value for key, value in flags.items() if value is not None}
        return resolve(problem, preset, [(str(self.config), file), ("--set", assignments), ("a flag", given)])

    def check(self, settings: Settings) -> None:
        """Refuse flags that can be known to be wrong before anything is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        self.require_allowed()
        if self.require_interval:
            _require_interval(settings.seeds)
        if self.log_file and not self.log_file.parent.is_dir():
            raise InputError(f"--log-file {self.log_file}: the folder {self.log_file.parent} does not exist.")
        if self.log_file:
            require_appendable(self.log_file)

    def _start(self, file: Mapping[str, Any]) -> tuple[str, str]:
        """Find problem and preset, which the command line and the file may both name, but not differently."""
        problem, preset = (str(file[key]) if key in file else None for key in ("problem", "preset"))
        asked = self.asked_problem()
        if asked and problem not in (None, asked):
            raise InputError(f"{self.config} is for problem {problem!r}, but the command line names {asked!r}.")
        if self.preset is not None and preset not in (None, self.preset):
            raise InputError(
                f"{self.config} started from preset {preset!r}, but the command line has --preset {self.preset}."
            )
        problem = asked or problem
        if problem is None:
            raise InputError(self.problem_is_missing())
        if problem not in KINDS:
            raise unknown_name("problem", problem, KINDS, f"from {self.config}")
        chosen = self.preset if self.preset is not None else preset
        return problem, "full" if chosen is None else chosen


def _require_interval(n_seeds: int) -> None:
    from lineament.claims.intervals import FEWEST_SEEDS  # imports numpy, which the help text does not need

    if n_seeds < FEWEST_SEEDS:
        raise InputError(f"--require-interval needs at least {FEWEST_SEEDS} seeds; got {n_seeds}. Use --seeds 5.")


def _parse_variation(text: str) -> tuple[str, tuple[str, ...]]:
    key, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--vary {text!r} has no '='. Write --vary key=a,b, e.g. --vary recovery.optimizer=sgd,adamw.")
    return key.strip(), tuple(part.strip() for part in values.split(",") if part.strip())
