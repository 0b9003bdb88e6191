"""Flags of `lineament run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lineament.command_line.markers import Positional, Said
from lineament.commands.job_flags import JobFlags
from lineament.errors import InputError
from lineament.problems.kinds import KINDS, kind_named
from lineament.settings.settings import Settings

if TYPE_CHECKING:
    ProblemName = str
else:  # the command line's choices are the registered kinds, which a type checker cannot know
    ProblemName = Literal[tuple(KINDS)]
PROBLEM_HELP = "; ".join(f"{name}: {kind.summary}" for name, kind in KINDS.items()) + ". Optional with --config"


@dataclass(frozen=True)
class Run(JobFlags):
    """Train, damage, recover and measure; write a run folder with records, claims and a report.

    Settings are chosen by --preset, --config and --set; `lineament keys` lists every key with meaning and default.
    With --vary this is a sweep: one run for every combination of values.
    """

    problem: Positional[Annotated[ProblemName | None, Said(PROBLEM_HELP)]] = None
    out: Path | None = None
    """run folder; default runs/PROBLEM-PRESET, of a sweep runs/sweep-PROBLEM-PRESET"""
    model: str | None = None
    """smollm2-135m, a local folder, a .gguf file or a hub name (lm only); default smollm2-135m"""
    adapter: Path | None = None
    """PEFT LoRA folder that is the operating point, instead of training one (lm only)"""
    data: Path | None = None
    """your examples, which become the damaged task: a JSONL, JSON, CSV, Parquet or text file, a folder saved by
    datasets, or hf:NAME[:CONFIG][:SPLIT] (lm only)"""
    config: Path | None = None
    """TOML file with settings, e.g. the config.toml of another run"""

    def default_out(self, settings: Settings) -> Path:
        """Return a folder named after problem and preset."""
        name = f"{settings.problem}-{settings.preset}"
        return Path("runs") / (f"sweep-{name}" if self.vary else name)

    def problem_is_missing(self) -> str:
        """Name the ways to say what to run."""
        return "say what to run: `lineament run synthetic`, `lineament run lm`, or --config FILE."

    def asked_problem(self) -> str | None:
        """Return the positional argument."""
        return self.problem

    def model_settings(self, problem: str) -> Mapping[str, str | None]:
        """Return the keys of --model, --adapter and --data, which not every kind of problem has."""
        given = {"--model": self.model, "--data": self.data, "--adapter": self.adapter}
        for flag, instead in kind_named(problem).refused_flags.items():
            if given[flag]:
                raise InputError(f"{flag} is for `lineament run lm`; {instead}")
        return {
            "model.name": self.model,
            "model.adapter": str(self.adapter) if self.adapter else None,
            "task.data": str(self.data) if self.data else None,
        }

    def read_config(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read --config, which must not describe a sweep."""
        file, vary = super().read_config()
        if vary:
            raise InputError(f"{self.config} describes a sweep (table `vary`): run it with `lineament sweep`.")
        return file, vary
