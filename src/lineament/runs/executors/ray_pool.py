"""Tasks on Ray: on this machine, or on a cluster whose nodes need not share a file system with this process.

Ray carries tasks, what they share, their progress and, where the run's folder is not seen, the files they made. What
to do about a task that was lost is the driver's business, as with every other pool.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

from lineament.errors import InputError, LineamentError
from lineament.files.writing import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from lineament.problems.base_cache import keep_base
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import TaskProgress, unseen
from lineament.runs.executors.ray_worker import Board, Result, carry_out, read_shared
from lineament.runs.executors.tasks import Outcome, Task, base_of
from lineament.runs.folder import PACKAGES, version
from lineament.settings.settings import Settings

CONNECT_S = 5.0
JOIN_S = 10.0
VERSIONS_S = 60.0
CANCEL_S = 20.0
SECONDS_BETWEEN_ROOM = 20.0
# How many operating points the object store holds for jobs to come; the driver's disk has all of them.
MAX_SHARED = 32


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
        self.token = out / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        self.running: dict[Any, Task] = {}
        self.shared: dict[tuple[Path | None, Path | None], Any] = {}
        self.names: dict[Any, str] = {}
        self.n_started, self.news, self.room_seen = 0, None, time.monotonic()
        _connect(self.ray, options, settings.threads)
        try:
            _require_room(self.ray, settings)
            _require_same_versions(self.ray)
            self.size = options.workers or self._default_workers(options, settings)
            self.board = self._board()
            self.carry_out = self.ray.remote(max_retries=0)(carry_out)
        except BaseException:
            self.ray.shutdown()
            raise

    def free(self) -> int:
        """Count the slots without a task; Ray itself waits when a node has gone and there is no room."""
        return self.size - len(self.running)

    def start(self, task: Task) -> None:
        """Hand the task to Ray with a reference to what it starts from."""
        self.token.touch()
        self.n_started += 1
        resources = {"num_cpus": task.settings.threads, "num_gpus": 1 if task.settings.device == "cuda" else 0}
        remote = self.carry_out.options(**resources)
        # of this attempt alone: a report that an earlier one left behind says nothing of it
        name = f"attempt {self.n_started}"
        ref = remote.remote(task, self._shared_by(task), self.token, self.board, name, Path.cwd())
        self.running[ref], self.names[ref] = task, name

    def outcomes(self, timeout_s: float) -> Sequence[Outcome]:
        """Return tasks that have ended; a worker or node that died gives an outcome that may be tried again."""
        self._pass_progress_on()
        refs = list(self.running)
        first, _ = self.ray.wait(refs, num_returns=1, timeout=timeout_s)
        ended, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0) if first else ([], [])
        return [*(self._outcome(ref, self._forget(ref)) for ref in ended), *self._without_room()]

    def stop(self, task: Task) -> None:
        """Kill the task's worker and wait until Ray says that it is dead."""
        ref = next(ref for ref, own in self.running.items() if own == task)
        self._forget(ref)
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

    def _forget(self, ref: Any) -> Task:
        self.names.pop(ref)
        return self.running.pop(ref)

    def _without_room(self) -> list[Outcome]:
        """Look now and then for tasks that no node has room for any more: Ray would wait without a word."""
        if time.monotonic() - self.room_seen < SECONDS_BETWEEN_ROOM:
            return []
        self.room_seen, ended = time.monotonic(), []
        for ref, task in list(self.running.items()):
            if why := missing_room(self.ray, task.settings):
                self.ray.cancel(ref, force=True)
                ended.append(Outcome(self._forget(ref), why, again=True))
        return ended

    def _default_workers(self, options: ExecutorOptions, settings: Settings) -> int:
        if options.ray_address == "local":
            return options.n_workers
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)) // settings.threads)

    def _board(self) -> Any:
        """Start the board for workers' progress beside this process, whose end is the run's end anyway."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
        return self.ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def _pass_progress_on(self) -> None:
        self.news = self.news or self.board.take.remote()
        ready, _ = self.ray.wait([self.news], timeout=0)
        if not ready:
            return  # asked for, and read another time
        by_name = {name: self.running[ref] for ref, name in self.names.items()}
        try:
            news = self.ray.get(self.news)
        except self.ray.exceptions.RayError:
            news = {}  # the board was lost and starts again; workers report anew when their work changes
        self.news = None
        for name, step in news.items():
            if name in by_name:
                self.progress(by_name[name], *step)

    def _shared_by(self, task: Task) -> Any:
        """Return a reference to operating point and base model, put into the object store once for all tasks."""
        key = (task.needs, base_of(task))
        if key not in self.shared:
            while len(self.shared) >= MAX_SHARED:
                del self.shared[next(iter(self.shared))]  # tasks that were given it keep it alive
            self.shared[key] = self.ray.put(read_shared(*key))
        return self.shared[key]

    def _outcome(self, ref: Any, task: Task) -> Outcome:
        try:
            result: Result = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            return Outcome(task, f"the worker was lost ({type(error).__name__})", again=True)
        task.keep(result.files)
        base = base_of(task)
        if base and result.base and not base.exists():
            keep_base(base.name, result.base)
        return Outcome(task, result.failure, result.again, result.details)


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
        cores = options.n_workers * threads
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    if address != "auto":
        _require_answer(address)
    try:
        _within(JOIN_S, lambda: ray.init(address=address, **quiet))
    except (TimeoutError, ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise InputError(
            f"--ray-address {address}: no Ray cluster answers ({_first_line(error)}). Start one with `ray "
            "start --head`, or leave --ray-address out to use this machine alone."
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call that may never return, as Ray's does on a port where something else listens."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    for error in errors:
        raise error


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
    if why := missing_room(ray, settings):
        raise InputError(f"{why}; take fewer threads, device cpu or auto, or another cluster.")


def missing_room(ray: ModuleType, settings: Settings) -> str | None:
    """Say why no living node can take a job of these settings, if none can."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    if settings.threads > most:
        return f"threads is {settings.threads}, and no node of the cluster has more than {most:g} cores"
    if settings.device == "cuda" and not any(node.get("GPU", 0) >= 1 for node in nodes):
        return "device is cuda, and no node of the cluster has a GPU"
    return None


def _require_same_versions(ray: ModuleType) -> None:
    """Refuse a cluster whose nodes have other packages: equal records need equal ones."""
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
    """Return the versions of what decides records, in this process."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
