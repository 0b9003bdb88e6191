"""Options of an executor: where jobs run, how many at a time, and what happens to those that are lost, fail or hang."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from lineament.errors import InputError, unknown_name
from lineament.settings.fields import NonNegativeInt, PositiveFloat

Workers = Annotated[int, Interval(ge=1, le=1024)]
ExecutorName = Literal["serial", "processes", "ray"]


@dataclass(frozen=True)
class ExecutorOptions:
    """How jobs are run; the records do not depend on it.

    The commands that run jobs inherit from this class, so every field is a flag, and the text below it the flag's help.
    """

    HEADING: ClassVar[str] = "Where jobs run"

    executor: ExecutorName = "serial"
    """where jobs run; the records are the same"""
    workers: Workers | None = None
    """jobs run at a time by --executor processes or ray; default 2, on a Ray cluster as many as its cores allow"""
    ray_address: str = "local"
    """local starts Ray on this machine; auto or HOST:PORT joins a running cluster"""
    retries: NonNegativeInt = 2
    """how often a job that was lost, hung or failed unexpectedly is tried again"""
    time_limit: PositiveFloat | None = None
    """minutes after which a job is ended and tried again; default no limit"""

    def require_allowed(self) -> None:
        """Refuse a value out of its range, and options that contradict each other.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        if self.executor not in typing.get_args(ExecutorName):
            raise unknown_name("executor", self.executor, typing.get_args(ExecutorName))
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers must be at least 1; got {self.workers}.")
        if self.executor == "serial" and (self.workers or 1) > 1:
            raise InputError(f"--workers {self.workers} needs --executor processes or ray; the executor is serial.")
        if self.retries < 0:
            raise InputError(f"--retries must be at least 0; got {self.retries}.")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InputError(f"--time-limit must be above 0 minutes; got {self.time_limit:g}.")
        if self.time_limit is not None and self.executor == "serial":
            raise InputError("--time-limit needs workers that can be ended: add --executor processes (or ray).")
        if self.ray_address != "local" and self.executor != "ray":
            raise InputError(f"--ray-address {self.ray_address} needs --executor ray; the executor is {self.executor}.")

    @property
    def n_workers(self) -> int:
        """Jobs at a time where that does not depend on a cluster."""
        return 1 if self.executor == "serial" else self.workers or 2

    @property
    def time_limit_s(self) -> float | None:
        """The time limit in seconds."""
        return None if self.time_limit is None else 60 * self.time_limit
