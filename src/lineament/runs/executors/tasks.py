"""What an executor runs: jobs, and the operating points that several jobs share.

A task is a small value that any process can carry out: it says everything that decides its result, and what it makes
goes to files that are written whole. So it can be run again, elsewhere, when its worker was lost.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from lineament.errors import LineamentError, memory_message
from lineament.files.reading import read_bytes
from lineament.files.writing import write_bytes
from lineament.problems.factory import factory_of
from lineament.problems.kinds import kind_named
from lineament.problems.problem import Problem
from lineament.problems.progress import Progress
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, run_job
from lineament.settings.plain import digest, to_dict
from lineament.settings.settings import Settings
from lineament.study.study import make_operating_point

# A worker that was given up may take this long to end; until then its job is not written by another.
LOCK_WAIT_S = 60.0
# Files not copied back from a remote job.
STAY_BEHIND = ("recording/**/*", "stages/recovery-*", "stages/*.lock")
# Parts of the settings that an operating point depends on; of `task` all but the targets.
BEFORE_DAMAGE = ("problem", "device", "threads", "model", "task", "training", "operating", "lora")


class Task(Protocol):
    """Something to be carried out by any process, and what is to be noted of it.

    Attributes:
        settings: whose threads and device it takes.
        seed: of its problem.
        label: what a person reads.
        needs: a file that must be there first; None needs nothing.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def seed(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def needs(self) -> Path | None: ...
    @property
    def key(self) -> Path:
        """What tells it from every other task."""
        ...

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Make its files, those that are missing."""
        ...

    def elsewhere(self, folder: Path) -> Self:
        """Return the same task with all its files below another folder."""
        ...

    def files(self) -> Mapping[str, bytes]:
        """Return what `keep` takes, of a task that was carried out elsewhere."""
        ...

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write files that the task made elsewhere."""
        ...

    def note(self, status: str, message: str | None = None, details: str | None = None, **more: float) -> None:
        """Write down how it goes; `details`, a traceback, go to the log alone."""
        ...


@dataclass(frozen=True)
class Job:
    """One seed of one configuration, in its run folder.

    Attributes:
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

    @property
    def key(self) -> Path:
        """Its run and seed."""
        return self.run / self.name

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Make what is missing of the job's records."""
        with _only_writer(RunFolder(self.run).job_lock(self.name)):
            own = RunFolder(self.run).operating_point(self.seed)
            if self.needs and not own.exists():
                _link(self.needs, own)
            run_job(self.settings, self.seed, self.run, progress, ready)

    def elsewhere(self, folder: Path) -> Job:
        """Return the same job in a run folder below another folder, with what it needs beside it."""
        return replace(self, run=folder / "run", needs=self.needs and folder / self.needs.name)

    def files(self) -> Mapping[str, bytes]:
        """Return the run's files: relative path -> content.

        Recordings stay behind, since they are far larger than all else, and with them the note that recovery is done:
        a later extension of the job makes its recovery again, to the same numbers.
        """
        left = {path for kind in STAY_BEHIND for path in self.run.glob(kind)}
        brought = [path for path in self.run.rglob("*") if path.is_file() and path not in left]
        return {str(path.relative_to(self.run)): read_bytes(path) for path in brought}

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write files that are not there yet: records last, after their arrays, since what has them is complete."""
        for name in sorted(files, key=lambda name: (name.startswith("records/"), name.endswith(".json"), name)):
            if not (self.run / name).exists():
                write_bytes(self.run / name, files[name])

    def note(self, status: str, message: str | None = None, details: str | None = None, **more: float) -> None:
        """Write into the run's state and log."""
        folder = RunFolder(self.run)
        folder.mark(self.name, status, message, **more)
        if status != "running":
            folder.log(f"{self.name} {status}{': ' + message if message else ''}")
        if details:
            folder.log(details)


@dataclass(frozen=True)
class Preparation:
    """The operating point of a seed that several jobs start from, with the base model it was trained on.

    Attributes:
        key: the file it goes to.
    """

    settings: Settings
    seed: int
    key: Path
    label: str
    needs: Path | None = None

    def execute(self, progress: Progress, ready: Problem | None = None) -> None:
        """Train to the operating point, unless that was done before."""
        with _only_writer(self.key.with_suffix(".lock")):
            if not self.key.exists():
                problem = ready or make_problem(self.settings, self.seed, progress)
                make_operating_point(problem, self.settings, self.seed, self.key, progress)

    def elsewhere(self, folder: Path) -> Preparation:
        """Return the same preparation with its file in another folder."""
        return replace(self, key=folder / self.key.name)

    def files(self) -> Mapping[str, bytes]:
        """Return the one file, if it is there."""
        return {self.key.name: read_bytes(self.key)} if self.key.exists() else {}

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write the one file."""
        for content in files.values():
            write_bytes(self.key, content)

    def note(self, status: str, message: str | None = None, details: str | None = None, **more: float) -> None:
        """Write nothing: the jobs that wait for it have their own notes."""


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
    progress("starting", 0, 1)  # a task's time limit runs from its first report on
    torch.set_num_threads(task.settings.threads)
    try:
        # numpy's products too: their last bits depend on how many threads made them
        with threadpool_limits(task.settings.threads):
            task.execute(progress, ready)
    except LineamentError as error:
        # what a file system refuses, another attempt or node may be allowed
        return Outcome(task, str(error), again=isinstance(error.__cause__, OSError))
    except Exception as error:  # a defect in one job must not lose the other jobs' results
        if message := memory_message(error):
            return Outcome(task, message.rstrip("."), again=True)  # other jobs may leave more room
        return Outcome(task, f"{type(error).__name__}: {error}", again=True, details=traceback.format_exc())
    return Outcome(task)


def operating_key(settings: Settings) -> str:
    """Return a hash shared by exactly the configurations with the same operating points, seed by seed."""
    body = {key: value for key, value in to_dict(settings).items() if key in BEFORE_DAMAGE}
    body["task"] = {key: value for key, value in body["task"].items() if key != "targets"}
    body["space"] = settings.recovery.space
    return digest(body)


def trains_operating_point(settings: Settings) -> bool:
    """Return whether there is training before the damage; a given adapter and pretrained weights need none."""
    adapts = settings.recovery.space == "lora" and not settings.model.adapter
    return adapts or kind_named(settings.problem).trains_base


def base_of(task: Task) -> Path | None:
    """Return where a task's trained base model is cached; None where it has none."""
    if not kind_named(task.settings.problem).trains_base:
        return None  # nor is its module imported, which takes seconds
    return factory_of(task.settings).base_file(task.settings, task.seed)


@contextmanager
def _only_writer(lock: Path) -> Iterator[None]:
    """Hold a task's lock: a worker that was given up but still lives must end first."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock, timeout=LOCK_WAIT_S, poll_interval=0.1, fallback_to_soft=False).acquire()
    except Timeout as error:
        raise LineamentError(f"another process holds {lock}; end it, then use --resume.") from error
    with held:
        yield


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        write_bytes(target, read_bytes(source))
