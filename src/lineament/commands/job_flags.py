"""Flags of the commands that run jobs: `run` and `sweep`; where work is done, also of `search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lineament.measurements.registry import MEASUREMENTS

if TYPE_CHECKING:
    from lineament.runs.executors.options import ExecutorOptions

MEASURE_HELP = f"measurements, comma separated: {','.join(MEASUREMENTS)}"


@dataclass(frozen=True)
class SettingFlags:
    """What `run` and `sweep` choose settings with."""

    preset: str | None = None
    """quick: minutes; full: every basis, rank and the step-size by damage grid (default full)"""
    seeds: int | None = None
    """number of independent seeds; one seed gives no interval"""
    measure: Annotated[str | None, tyro.conf.arg(help=MEASURE_HELP)] = None
    device: str | None = None
    """auto, cpu or cuda"""
    threads: int | None = None
    """torch threads per job"""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """key=value, repeatable, e.g. --set recovery.lr=1e-3 --set damage.kind=ascent"""
    vary: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """key=a,b, repeatable: a sweep over every combination, e.g. --vary recovery.optimizer=sgd,adamw"""


@dataclass(frozen=True)
class ExecutorFlags:
    """Where work is done, and what is done about work that is lost."""

    executor: Literal["serial", "processes", "ray"] = "serial"
    """where jobs run; the records are the same"""
    workers: int | None = None
    """jobs at a time of --executor processes and ray; default 2, on a cluster as many as its cores allow"""
    ray_address: str = "local"
    """local starts Ray here; auto or HOST:PORT joins a running cluster"""
    retries: int = 2
    """how often a job that was lost, hung or failed unexpectedly is tried again"""
    time_limit: float | None = None
    """minutes after which a job is ended and tried again; default no limit"""

    def executor_options(self) -> ExecutorOptions:
        """How jobs are to be run."""
        from lineament.runs.executors.options import ExecutorOptions

        limit = None if self.time_limit is None else 60 * self.time_limit
        return ExecutorOptions(self.executor, self.workers, self.ray_address, limit, self.retries)


@dataclass(frozen=True)
class JobFlags(ExecutorFlags, SettingFlags):
    """What `run` and `sweep` have in common."""

    track: tyro.conf.UseAppendAction[tuple[Literal["tensorboard", "mlflow"], ...]] = ()
    """log finished jobs to tensorboard or mlflow too, repeatable"""
    resume: bool = False
    """go on with, or extend, what is in --out"""
    require_interval: bool = False
    """refuse to run with one seed"""
    dry_run: bool = False
    """print the estimated time (of a run also memory and disk), and stop"""
    quiet: bool = False
    """no progress"""
    log_file: Path | None = None
    """append progress lines to this file as well"""
    debug: bool = False
    """show tracebacks"""
