"""The run folder: configuration, state, provenance, lock and log (contracts: run folder)."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from lineament.errors import InputError
from lineament.records import read_json, write_bytes, write_json
from lineament.settings import Settings, flattened, from_file, to_dict, updated

PACKAGES = ("lineament", "torch", "numpy", "scipy", "transformers", "peft", "safetensors")
# Keys that extend a run instead of making it another one.
EXTENDING = ("seed", "seeds", "measure")


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

    def settings(self) -> Settings:
        """The settings the run was made with; `InputError` if this is no run folder."""
        if not self.config.exists():
            raise InputError(f"{self.path} is no run folder: it has no config.toml.")
        return updated(Settings(), from_file(self.config), str(self.config))

    def open(self, settings: Settings, resume: bool) -> None:
        """Create the folder for these settings, or check that it may be continued.

        Raises:
            InputError: the folder holds another configuration (the difference is named), holds this one and
                `resume` was not asked for, or is a non-empty folder of something else.
        """
        if self.config.exists():
            self._require_same(settings)
            if not resume:
                raise InputError(f"{self.path} already holds this run. Add --resume to go on with it or extend it.")
        elif self.path.exists() and any(p.name != "lock" for p in self.path.iterdir()):
            raise InputError(f"{self.path} is not empty and holds no run. Choose another --out.")
        write_bytes(self.config, tomli_w.dumps(to_dict(settings)).encode())
        write_json(self.path / "provenance.json", provenance(settings))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; `InputError` when another process has it. A killed owner's lock is free again."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another process is writing {self.path}; wait for it or choose another --out."
                ) from None
            yield

    def mark(self, job: str, status: str, message: str | None = None) -> None:
        """Set one job's state."""
        body: dict[str, Any] = read_json(self.state) if self.state.exists() else {"schema": 1, "jobs": {}}
        body["jobs"][job] = {"status": status, **({"message": message} if message else {})}
        write_json(self.state, body)

    def log(self, line: str) -> None:
        """Append a dated line to log.txt."""
        with (self.path / "log.txt").open("a") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    def _require_same(self, settings: Settings) -> None:
        old = dict(flattened(to_dict(self.settings())))
        new = dict(flattened(to_dict(settings)))
        changed = [key for key in new if key not in EXTENDING and old.get(key) != new[key]]
        if changed:
            shown = "; ".join(f"{key}: {old.get(key)!r} there, {new[key]!r} now" for key in changed[:4])
            raise InputError(
                f"{self.path} holds a run with another configuration ({shown}). Choose another --out, or the same "
                "configuration to continue it."
            )


def provenance(settings: Settings) -> Mapping[str, Any]:
    """Everything that may differ between two equal runs: versions, commit, machine, threads, time."""
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        "device": settings.device,
        "threads_per_job": settings.threads,
        "cpu_count": os.cpu_count(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree, when this is one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
