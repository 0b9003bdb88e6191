"""The run folder: configuration, state, provenance, lock and log (contracts: run folder)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from lineament.errors import InputError
from lineament.files.folders import IDENTITY, LOCK, require_unused, require_writable
from lineament.files.naming import safe_name
from lineament.files.schemas import read_ours
from lineament.files.writing import append_line, delete_leftovers, write_bytes, write_json
from lineament.settings.plain import flattened, to_dict
from lineament.settings.reading import from_file, updated
from lineament.settings.settings import Settings
from lineament.study.files import RecoveryFiles, StudyFiles

PACKAGES = ("lineament", "torch", "numpy", "scipy", "transformers", "peft", "safetensors")
# Keys that extend a run instead of making it another one.
EXTENDING = ("seed", "seeds", "measure")
# A sweep keeps its grid under this name, and its runs in the folder beside it.
SWEEP_FILE, CELLS = "sweep.toml", "cells"
MAX_DIFFERENCES_SHOWN = 4


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole resolved configuration."""
        return self.path / "config.toml"

    @property
    def records(self) -> Path:
        """Folder of records."""
        return self.path / "records"

    @property
    def state(self) -> Path:
        """planned / running / done / failed per job."""
        return self.path / "state.json"

    def record(self, measurement: str, target: str, seed: int) -> Path:
        """Return the file of one record."""
        return self.records / f"{measurement}-{_study_name(target, seed)}.json"

    def operating_point(self, seed: int) -> Path:
        """Return the file of a seed's points before damage, which its targets share."""
        return self._stages / f"operating-seed{seed}.safetensors"

    def study_files(self, target: str, seed: int) -> StudyFiles:
        """Return where the stages of one target and seed are kept."""
        name = _study_name(target, seed)
        return StudyFiles(
            operating_point=self.operating_point(seed),
            damage=self._stages / f"damage-{name}.safetensors",
            recovery=RecoveryFiles(self._stages / f"recovery-{name}.json", self.path / "recording" / name),
            second_recovery=RecoveryFiles(
                self._stages / f"recovery-no-momentum-{name}.json", self.path / "recording-no-momentum" / name
            ),
            effects=self._stages / f"effects-{name}.json",
            geometry=self._stages / f"geometry-seed{seed}",
        )

    def adapter(self, target: str, seed: int, point: str) -> Path:
        """Return the PEFT folder of the adapter at a point of a study."""
        return self.path / "adapters" / _study_name(target, seed) / point

    def basis(self, name: str, target: str, seed: int) -> Path:
        """Return the file of a basis that is kept."""
        return self.path / "bases" / f"{name}-{_study_name(target, seed)}.safetensors"

    def job_lock(self, job: str) -> Path:
        """Return the lock that the one writer of a job's files holds."""
        return self._stages / f"{job}.lock"

    @property
    def _stages(self) -> Path:
        return self.path / "stages"

    def settings(self) -> Settings:
        """Read the settings the run was made with; `InputError` if this is no run folder."""
        if not self.config.exists():
            raise InputError(f"{self.path} is no run folder: it has no config.toml.")
        body = from_file(self.config)
        if "problem" not in body:  # an empty file would otherwise pass for a run of the defaults
            raise InputError(f"{self.path} is no run folder: its config.toml names no problem.")
        return updated(Settings(), body, str(self.config))

    def headline_rank(self) -> int:
        """Read the rank that claims are judged at, also of a folder that `lineament.measure` wrote.

        Raises:
            InputError: the folder is neither, or what it was made with is damaged.
        """
        identity = self.path / IDENTITY
        if self.config.exists() or not identity.exists():
            return self.settings().measurement.headline_rank
        body = read_ours(identity, {1: "identity"}, "Measure into another folder.")
        return updated(Settings(), dict(flattened(body["settings"])), str(identity)).measurement.headline_rank

    def check(self, settings: Settings, resume: bool) -> None:
        """Refuse, before anything is written, a folder that these settings may not go to.

        Raises:
            InputError: the folder holds another configuration (the difference is named), holds this one and
                `resume` was not asked for, holds something else, or cannot be a folder that is written to.
        """
        if self.config.exists():
            self._require_same(settings)
            spanned(self.settings(), settings, self.path)
            if not resume:
                raise InputError(f"{self.path} already holds this run. Add --resume to go on with it or extend it.")
        else:
            require_unused(self.path)
        require_writable(self.path)

    def open(self, settings: Settings, resume: bool) -> None:
        """Create the folder for these settings, or take it up again; call it under the lock.

        Seeds and measurements that the folder holds already stay in its configuration, and its first start stays in
        its provenance.

        Raises:
            InputError: as `check`; another process may have written since.
        """
        self.check(settings, resume)
        delete_leftovers(self.path)
        write_bytes(self.config, tomli_w.dumps(to_dict(self._extended(settings))).encode())
        write_json(self.path / "provenance.json", self._provenance(settings))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; `InputError` when another process has it. A killed owner's lock is free again.

        The run of a sweep's cell is written under the sweep's lock.
        """
        sweep = self.path.parent.parent
        if self.path.parent.name == CELLS and (sweep / SWEEP_FILE).exists():
            with RunFolder(sweep).locked():
                yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        # No soft lock: only the operating system's own lock is free again when its owner is killed.
        lock = FileLock(self.path / LOCK, timeout=0, fallback_to_soft=False)
        try:
            held = lock.acquire()
        except Timeout:
            raise InputError(f"another process is writing {self.path}; wait for it or choose another folder.") from None
        with held:
            yield

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Read how far each job is; empty where none was planned. `InputError` for a damaged state.json."""
        if not self.state.exists():
            return {}
        jobs: dict[str, dict[str, Any]] = read_ours(self.state, "state", "Delete it: it is made anew.")["jobs"]
        return jobs

    def mark(self, job: str, status: str, message: str | None = None, **more: float) -> None:
        """Set one job's state; `more` says how it went, e.g. seconds and attempts."""
        own = {"status": status, **({"message": message} if message else {}), **more}
        write_json(self.state, {"schema": 1, "jobs": {**self.jobs(), job: own}})

    def log(self, line: str) -> None:
        """Append a dated line to log.txt."""
        append_line(self.path / "log.txt", f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}")

    def _require_same(self, settings: Settings) -> None:
        old = dict(flattened(to_dict(self.settings())))
        new = {key: value for key, value in flattened(to_dict(settings)) if key not in EXTENDING}
        if changed := differences(old, new):
            raise InputError(
                f"{self.path} holds a run with another configuration ({changed}). Choose another --out, or the same "
                "configuration to continue it."
            )

    def _extended(self, settings: Settings) -> Settings:
        """Return these settings with the seeds and measurements that the folder's configuration has already."""
        return spanned(self.settings(), settings, self.path) if self.config.exists() else settings

    def _provenance(self, settings: Settings) -> Mapping[str, Any]:
        """Return the first start's provenance, with those of later starts under `resumed`, numbered from 1."""
        path, now = self.path / "provenance.json", provenance(settings)
        if not path.exists():
            return now
        first = read_ours(path, "provenance", "Delete it: it is made anew.")
        resumed = first.get("resumed", {})
        return {**first, "resumed": {**resumed, str(len(resumed) + 1): now}}


def spanned(held: Settings, more: Settings, path: Path) -> Settings:
    """Return `more` with the seeds and measurements of `held` too; the seeds of a configuration are one range.

    Raises:
        InputError: a gap between the seeds of both.
    """
    if more.seed > held.seed + held.seeds or more.seed + more.seeds < held.seed:
        raise InputError(
            f"{path} holds seeds {_seed_range(held)}, which {_seed_range(more)} do not adjoin; the seeds of a run are "
            "one range. Choose another --out, or seeds that overlap or adjoin those."
        )
    first, stop = min(held.seed, more.seed), max(held.seed + held.seeds, more.seed + more.seeds)
    measure = tuple(dict.fromkeys([*held.measure, *more.measure]))
    return replace(more, seed=first, seeds=stop - first, measure=measure)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Name the first few keys of `new` that differ in `old`; empty when there are none."""
    changed = [key for key in new if old.get(key) != new[key]]
    shown = [f"{key}: {old.get(key)!r} there, {new[key]!r} now" for key in changed[:MAX_DIFFERENCES_SHOWN]]
    more = len(changed) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _study_name(target: str, seed: int) -> str:
    """Return what names the files of one target and seed; a target is named by whoever made the data."""
    return f"{safe_name(target)}-seed{seed}"


def _seed_range(settings: Settings) -> str:
    return f"{settings.seed}..{settings.seed + settings.seeds - 1}"


def provenance(settings: Settings) -> Mapping[str, Any]:
    """Return everything that may differ between two equal runs: versions, commit, machine, threads, time."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        "device": settings.device,
        "threads_per_job": settings.threads,
        "cpu_count": os.cpu_count(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def version(package: str) -> str | None:
    """Return the installed version of a package, if there is one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the source tree, if this is one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return revision.stdout.strip() or None
