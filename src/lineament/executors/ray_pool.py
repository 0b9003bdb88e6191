"""Tasks on Ray: on this machine, or on a cluster whose nodes need not share a file system with this process.

Ray carries tasks, what they share, their progress and, where the run's folder is not seen, the files they made. What
to do about a task that was lost is the driver's business, as with every other pool.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lineament.errors import InputError, LineamentError
from lineament.executors.options import ExecutorOptions
from lineament.executors.pool import TaskProgress, unseen
from lineament.executors.processes import seldom
from lineament.executors.tasks import Outcome, Preparation, Task, attempt, base_of
from lineament.problems.synthetic import cache_folder
from lineament.records import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, write_bytes
from lineament.run_folder import PACKAGES, version
from lineament.settings import Settings

CONNECT_S = 5.0
VERSIONS_S = 60.0
CANCEL_S = 20.0
SECONDS_BETWEEN_REMOTE_REPORTS = 0.5
# How many operating points the object store holds for jobs to come; the driver's disk has all of them.
MOST_SHARED = 32
DEFAULT_WORKERS = 2


@dataclass(frozen=True)
class _Shared:
    """What a task starts from: contents of files that a node may not have."""

    needed: bytes | None
    base_name: str | None
    base: bytes | None


@dataclass(frozen=True)
class _Result:
    """How a remote attempt ended, and the files it made where this process cannot see them."""

    failure: str | None
    again: bool
    details: str | None
    files: Mapping[str, bytes]
    base: bytes | None


class RayPool:
    """Up to as many remote tasks as there are workers, each declaring its threads (and GPU) as Ray resources.

    Args:
        out: folder below which tasks write; nodes that see it write there themselves.
        settings: device and threads per task, where no task says otherwise.

    Raises:
        InputError: Ray is not installed, no cluster answers at the address, no node has room for a task, or the nodes
            have other versions of the packages that decide records.
    """

    def __init__(self, options: ExecutorOptions, out: Path, settings: Settings) -> None:
        self.ray = _ray()
        self.progress: TaskProgress = unseen
        self.token = out / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self.running: dict[Any, Task] = {}
        self.shared: dict[tuple[Path | None, Path | None], Any] = {}
        _connect(self.ray, options, settings.threads)
        try:
            _require_room(self.ray, settings)
            _require_same_versions(self.ray)
            self.size = options.workers or self._default_workers(options, settings)
            self.board = self._board()
            self.carry_out = self.ray.remote(max_retries=0)(_carry_out)
        except BaseException:
            self.ray.shutdown()
            raise

    def free(self) -> int:
        """Slots without a task; Ray itself waits when a node has gone and there is no room."""
        return self.size - len(self.running)

    def start(self, task: Task) -> None:
        """Hand the task to Ray with a reference to what it starts from."""
        self.token.touch()
        resources = {"num_cpus": task.settings.threads, "num_gpus": 1 if task.settings.device == "cuda" else 0}
        remote = self.carry_out.options(**resources)
        self.running[remote.remote(task, self._shared_by(task), self.token, self.board)] = task

    def outcomes(self, timeout_s: float) -> Sequence[Outcome]:
        """Tasks that have ended; a worker or node that died gives an outcome that may be tried again."""
        self._pass_progress_on()
        refs = list(self.running)
        first, _ = self.ray.wait(refs, num_returns=1, timeout=timeout_s)
        ended, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0) if first else ([], [])
        return [self._outcome(ref, self.running.pop(ref)) for ref in ended]

    def stop(self, task: Task) -> None:
        """Kill the task's worker and wait until Ray says that it is dead."""
        ref = next(ref for ref, own in self.running.items() if own == task)
        del self.running[ref]
        self.ray.cancel(ref, force=True)
        self.ray.wait([ref], timeout=CANCEL_S)

    def close(self) -> None:
        """Cancel what runs and leave Ray; one that was started here is stopped."""
        for ref in self.running:
            with suppress(Exception):
                self.ray.cancel(ref, force=True)
        self.running.clear()
        self.ray.shutdown()
        self.token.unlink(missing_ok=True)

    def _default_workers(self, options: ExecutorOptions, settings: Settings) -> int:
        if options.ray_address == "local":
            return DEFAULT_WORKERS
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)) // settings.threads)

    def _board(self) -> Any:
        """Where workers write their progress; it lives beside this process, whose end is the run's end anyway."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        return self.ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()

    def _pass_progress_on(self) -> None:
        by_key = {str(task.key): task for task in self.running.values()}
        try:
            news = self.ray.get(self.board.take.remote(), timeout=CONNECT_S)
        except self.ray.exceptions.RayError:
            return  # progress is shown, never relied on
        for key, step in news.items():
            if key in by_key:
                self.progress(by_key[key], *step)

    def _shared_by(self, task: Task) -> Any:
        """A reference to the operating point and base model, put into the object store once for all tasks."""
        key = (task.needs, base_of(task))
        if key not in self.shared:
            while len(self.shared) >= MOST_SHARED:
                del self.shared[next(iter(self.shared))]  # tasks that were given it keep it alive
            self.shared[key] = self.ray.put(_read(*key))
        return self.shared[key]

    def _outcome(self, ref: Any, task: Task) -> Outcome:
        try:
            result: _Result = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            return Outcome(task, f"the worker was lost ({type(error).__name__})", again=True)
        task.keep(result.files)
        base = base_of(task)
        if base and result.base and not base.exists():
            write_bytes(base, result.base)
        return Outcome(task, result.failure, result.again, result.details)


class _Board:
    """The latest step of every task, kept until it is asked for."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[str, int, int]] = {}

    def put(self, key: str, what: str, done: int, total: int) -> None:
        """Remember a task's step in place of its earlier ones."""
        self.steps[key] = (what, done, total)

    def take(self) -> dict[str, tuple[str, int, int]]:
        """All steps since the last call."""
        taken, self.steps = self.steps, {}
        return taken


def _carry_out(task: Task, shared: _Shared, token: Path, board: Any) -> _Result:
    """On a worker: run the task where its folder is, or in a scratch folder whose files go back as bytes."""
    if shared.base is not None and shared.base_name and not (cache_folder() / shared.base_name).exists():
        write_bytes(cache_folder() / shared.base_name, shared.base)
    key = str(task.key)

    def put(what: str, done: int, total: int) -> None:
        board.put.remote(key, what, done, total)

    progress = seldom(put, SECONDS_BETWEEN_REMOTE_REPORTS)
    if token.exists():
        return _result(task, attempt(task, progress), {})
    with tempfile.TemporaryDirectory(prefix="lineament-job-") as folder:
        moved = task.elsewhere(Path(folder))
        if moved.needs and shared.needed is not None:
            write_bytes(moved.needs, shared.needed)
        return _result(task, attempt(moved, progress), moved.files())


def _result(task: Task, outcome: Outcome, files: Mapping[str, bytes]) -> _Result:
    base = base_of(task) if isinstance(task, Preparation) else None
    content = base.read_bytes() if base and base.exists() else None
    return _Result(outcome.failure, outcome.again, outcome.details, files, content)


def _read(needs: Path | None, base: Path | None) -> _Shared:
    needed = needs.read_bytes() if needs and needs.exists() else None
    return _Shared(needed, base.name if base else None, base.read_bytes() if base and base.exists() else None)


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError(
            "--executor ray needs Ray, which is not installed: `pip install 'lineament[ray]'`, or take --executor "
            "processes."
        ) from None
    return ray


def _connect(ray: ModuleType, options: ExecutorOptions, threads: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = options.ray_address
    if ray.is_initialized():
        raise LineamentError("Ray is connected already in this process; call ray.shutdown() first.")
    if address == "local":
        # Ray's own 15 would let anything else on this machine stop the workers
        os.environ.setdefault("RAY_worker_niceness", "0")
        cores = (options.workers or DEFAULT_WORKERS) * threads
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    if address != "auto":
        _require_answer(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(
            f"--ray-address {address}: no Ray cluster answers ({str(error).splitlines()[0]}). Start one with `ray "
            "start --head`, or leave --ray-address out to use this machine alone."
        ) from None


def _require_answer(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise InputError(f"--ray-address {address}: write local, auto or HOST:PORT (of the head node, mostly 6379).")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray-address {address}: nothing answers there ({error}). Check host and port (`ray status` on the head "
            "node), or leave --ray-address out to use this machine alone."
        ) from None


def _require_room(ray: ModuleType, settings: Settings) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    if settings.threads > most:
        raise InputError(
            f"threads is {settings.threads}, and no node of the cluster has more than {most:g} cores; lower threads."
        )
    if settings.device == "cuda" and not any(node.get("GPU", 0) >= 1 for node in nodes):
        raise InputError("device is cuda, and no node of the cluster has a GPU; take device cpu or auto.")


def _require_same_versions(ray: ModuleType) -> None:
    """Equal records need equal packages on every node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = versions()
    asked = {
        node["NodeManagerAddress"] + " " + node["NodeID"][:6]: ray.remote(versions)
        .options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False))
        .remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    for node, ref in asked.items():
        try:
            there = ray.get(ref, timeout=VERSIONS_S)
        except ray.exceptions.RayError as error:
            raise InputError(
                f"node {node} cannot run lineament ({type(error).__name__}): install the same version there."
            ) from None
        changed = [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]
        if changed:
            raise InputError(f"node {node} has other versions: {'; '.join(changed)}. Install the same ones everywhere.")


def versions() -> dict[str, str | None]:
    """Versions of what decides records, in this process."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
