"""Flags of `lineament sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lineament.command_line.markers import Positional
from lineament.commands.job_flags import JobFlags
from lineament.settings.settings import Settings


@dataclass(frozen=True)
class Sweep(JobFlags):
    """Run every combination of the values in a file's table `vary`, each with every seed; write tables and a report.

    The file has settings like a config.toml, and under [vary] a list of values per key. A sweep that was stopped
    continues with --resume.
    """

    config: Positional[Path | None] = None
    """TOML file with settings and a table [vary], e.g. the sweep.toml of another sweep"""
    out: Path | None = None
    """folder of the sweep; default runs/NAME of the file, with --resume the folder of a sweep's own sweep.toml"""

    def default_out(self, settings: Settings) -> Path:
        """Return the folder named after the file, or the one that a sweep's own file lies in."""
        from lineament.runs.folder import SWEEP_FILE

        if self.config is None:
            return Path("runs") / f"sweep-{settings.problem}-{settings.preset}"
        if self.resume and self.config.name == SWEEP_FILE:
            return self.config.parent
        return Path("runs") / self.config.stem

    def problem_is_missing(self) -> str:
        """Name the ways to say what to sweep."""
        if self.config is None:
            return "say what to sweep: `lineament sweep CONFIG`, or `lineament run PROBLEM --vary key=a,b`."
        return f'{self.config} names no problem: add problem = "synthetic" or problem = "lm".'
