"""Finished jobs shown elsewhere too: settings, recovery curves and each claim's value of the seed.

What is logged is read from the run folder, after the fact and in the process that drives the run: nothing is lost
without it, and no record depends on it. To add a tracker, write one file with `open_tracker` and one line in
`TRACKERS`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lineament.runs.executors.tasks import Job
from lineament.runs.tracking.job_log import JobLog, job_log

# Name on the command line -> module of this package.
TRACKERS = {"tensorboard": "lineament.runs.tracking.tensorboard", "mlflow": "lineament.runs.tracking.mlflow"}


@contextmanager
def tracking(names: Sequence[str], out: Path) -> Iterator[Callable[[Job], None]]:
    """Open a hook that logs each finished job to every named tracker; trackers are opened when a job comes.

    A tracker that fails is named on stderr once and left out from then on: the run goes on.

    Raises:
        InputError: a tracker's package is not installed.
    """
    modules = {name: importlib.import_module(TRACKERS[name]) for name in dict.fromkeys(names)}
    for module in modules.values():
        module.require_installed()
    opened: dict[str, Callable[[JobLog], None]] = {}

    def after(job: Job) -> None:
        for name in list(modules):
            try:
                log = opened.get(name) or opened.setdefault(name, modules[name].open_tracker(out))
                log(job_log(job, out))
            except Exception as error:  # a tracker's server may be gone; the run's records are not touched by that
                del modules[name]
                print(f"warning: logging to {name} failed and stops here: {error}", file=sys.stderr)

    yield after
