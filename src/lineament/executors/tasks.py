"""What an executor runs: jobs, and the operating points that several jobs share.

A task is a small value that any process can carry out: it says everything that decides its result, and what it makes
goes to files that are written whole. So it can be run again, elsewhere, when its worker was lost.
"""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lineament.errors import LineamentError
from lineament.experiment import make_problem, run_job
from lineament.problems.problem import Problem
from lineament.problems.synthetic import base_file
from lineament.records import write_bytes
from lineament.run_folder import RunFolder
from lineament.settings import Settings, digest, to_dict
from lineament.study import Progress, make_operating_point, operating_file

# A worker that was given up may take this long to end; until then its job is not written by another.
LOCK_WAIT_S = 60.0
# Parts of the settings that an operating point depends on; of `task` all but the targets.
BEFORE_DAMAGE = ("problem", "device", "threads", "model", "task", "training", "operating", "lora")


@dataclass(frozen=True)
class Job:
    """One seed of one configuration, in its run folder.

    Attributes:
        label: what a person reads.
        needs: the operating point it starts from, made by a `Preparation`; None makes its own.
    """

    settings: Settings
    seed: int
    run: Path
    label: str
    needs: Path | None = None

    @property
    def name(self) -> str:
        """Its name in the run's state.json."""
        return f"seed{self.seed}"

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Make what is missing of the job's records."""
        with _only_writer(self.run / "stages" / f"{self.name}.lock"):
            own = operating_file(self.run, self.seed)
            if self.needs and not own.exists():
                _link(self.needs, own)
            run_job(self.settings, self.seed, self.run, progress, ready)

    def moved(self, run: Path) -> Job:
        """The same job in another folder, where nothing shared is seen."""
        return replace(self, run=run, needs=None)


@dataclass(frozen=True)
class Preparation:
    """The operating point of a seed that several jobs start from, with the base model it was trained on.

    Attributes:
        file: where it goes.
    """

    settings: Settings
    seed: int
    file: Path
    label: str

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Train to the operating point, unless that was done before."""
        with _only_writer(self.file.with_suffix(".lock")):
            if not self.file.exists():
                problem = ready or make_problem(self.settings, self.seed, progress)
                make_operating_point(problem, self.settings, self.seed, self.file, progress)


Task = Job | Preparation


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a task ended.

    Attributes:
        failure: what to tell the user; None when all went well.
        again: whether another attempt may end otherwise: a lost worker or an unforeseen error, not a refusal.
        details: a traceback for the log.
    """

    task: Task
    failure: str | None = None
    again: bool = False
    details: str | None = None


def attempt(task: Task, progress: Progress, ready: Problem | None = None) -> Outcome:
    """Carry a task out; every error but an interrupt becomes part of the outcome."""
    try:
        task.execute(progress, ready)
    except LineamentError as error:
        return Outcome(task, str(error))
    except Exception as error:  # a defect in one job must not lose the other jobs' results
        return Outcome(task, f"{type(error).__name__}: {error}", again=True, details=traceback.format_exc())
    return Outcome(task)


def operating_key(settings: Settings) -> str:
    """Equal for exactly the configurations whose operating points, seed by seed, are the same."""
    body = {key: value for key, value in to_dict(settings).items() if key in BEFORE_DAMAGE}
    body["task"] = {key: value for key, value in body["task"].items() if key != "targets"}
    body["space"] = settings.recovery.space
    return digest(body)


def trains_operating_point(settings: Settings) -> bool:
    """Whether there is training before the damage; a given adapter and a pretrained model's weights need none."""
    return settings.problem == "synthetic" or (settings.recovery.space == "lora" and not settings.model.adapter)


def is_finished(job: Job) -> bool:
    """Whether every record of the job is there."""
    records = RunFolder(job.run).records
    return all(
        (records / f"{measurement}-{target}-{job.name}.json").exists()
        for target in job.settings.task.targets
        for measurement in job.settings.measure
    )


def packed(folder: Path, job: Job) -> Mapping[str, bytes]:
    """Files of a job that ran in a folder of its own: relative path -> content.

    Recordings stay behind, since they are far larger than all else, and with them the note that recovery is done: a
    later extension of the job makes its recovery again, to the same numbers.
    """
    left = (*folder.glob("recording/**/*"), *folder.glob("stages/recovery-*"), *folder.glob("stages/*.lock"))
    files = [path for path in folder.rglob("*") if path.is_file() and path not in set(left)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write packed files that are not there yet, records last: what has its records is complete."""
    for name in sorted(files, key=lambda name: name.startswith("records/")):
        if not (folder / name).exists():
            write_bytes(folder / name, files[name])


def base_of(task: Task) -> Path | None:
    """Where a task's trained base model is cached; None where it has none."""
    return base_file(task.settings, task.seed) if task.settings.problem == "synthetic" else None


@contextmanager
def _only_writer(lock: Path) -> Iterator[None]:
    """Hold a task's lock: a worker that was given up but still lives must end first."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        _wait(lambda: _locked(handle.fileno()), lock)
        yield


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(holds: Callable[[], bool], lock: Path) -> None:
    give_up = time.monotonic() + LOCK_WAIT_S
    while not holds():
        if time.monotonic() > give_up:
            raise LineamentError(f"another process holds {lock}; end it, then --resume.")
        time.sleep(0.1)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        write_bytes(target, source.read_bytes())
