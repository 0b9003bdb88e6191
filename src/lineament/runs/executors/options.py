"""Which executor, with how many workers, and what it does about jobs that are lost, fail or hang."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lineament.errors import InputError, unknown_name

ExecutorName = Literal["serial", "processes", "ray"]
EXECUTORS = ("serial", "processes", "ray")


@dataclass(frozen=True)
class ExecutorOptions:
    """How jobs are run; the records do not depend on it.

    Attributes:
        workers: jobs at a time; one for serial, and None on Ray takes what the cluster's cores allow.
        ray_address: `local` starts Ray on this machine; `auto` or HOST:PORT joins a cluster that is running.
        time_limit_s: a job that runs longer is ended, and tried again; None sets no limit.
        retries: how often a job that was lost, hung or failed unexpectedly is tried again.
    """

    name: str = "serial"
    workers: int | None = None
    ray_address: str = "local"
    time_limit_s: float | None = None
    retries: int = 2

    def require_allowed(self) -> None:
        """Refuse options that cannot be, or not together.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        if self.name not in EXECUTORS:
            raise unknown_name("executor", self.name, EXECUTORS)
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: at least 1.")
        if self.name == "serial" and (self.workers or 1) > 1:
            raise InputError(f"--workers {self.workers} needs --executor processes or ray; serial was chosen.")
        if self.retries < 0:
            raise InputError(f"--retries {self.retries}: at least 0.")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise InputError(f"--time-limit {self.time_limit_s:g}: it must be above 0 minutes.")
        if self.time_limit_s is not None and self.name == "serial":
            raise InputError("--time-limit needs workers that can be ended: add --executor processes (or ray).")
        if self.ray_address != "local" and self.name != "ray":
            raise InputError(f"--ray-address {self.ray_address} is for --executor ray; {self.name} was chosen.")

    @property
    def n_workers(self) -> int:
        """Jobs at a time where that does not depend on a cluster."""
        return 1 if self.name == "serial" else self.workers or 2
