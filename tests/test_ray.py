"""Sweeps on Ray clusters: nodes and drivers that die, nodes that see no folder of ours, and what is refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import lineament, lineament_here
from sweep_jobs import cell_records, sets, smallest
from test_pools import jobs_in, run, worker_pids

from lineament.files.reading import read_json
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.tasks import Job
from lineament.runs.sweep.grid import make_grid

pytestmark = pytest.mark.slow

VARY = {"recovery.optimizer": ["sgd", "adamw"], "damage.kind": ["wrong_labels", "ascent", "gaussian", "uniform_labels"]}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine with one node of one core; `add_node` adds more."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            yield found
        finally:
            found.shutdown()


def sweep_command(out: Path, *more: str) -> list[str]:
    vary = [part for key, values in VARY.items() for part in ("--vary", f"{key}={','.join(values)}")]
    return ["run", "synthetic", "--preset", "quick", "--out", str(out), *sets(), *vary, *more]


def sweep(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lineament.cli", *sweep_command(out, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def n_records(out: Path) -> int:
    return len(list(out.glob("cells/*/records/*.json")))


def wait_until(n: int, out: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while n_records(out) < n:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_a_worker() -> None:
    """One that is at work; it may take a moment until there is one."""
    deadline = time.monotonic() + 60
    while not (pids := worker_pids("ray")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)


def test_no_record_is_lost_or_doubled_when_nodes_workers_and_the_driver_die(cluster: Any, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1)
    out = tmp_path / "disturbed"
    ray = ["--executor", "ray", "--ray-address", cluster.address, "--retries", "5"]
    first = sweep(out, *ray)
    wait_until(2, out, first)
    kill_a_worker()
    wait_until(5, out, first)
    first.kill()
    first.wait()
    at_kill = cell_records(out)
    again = sweep(out, *ray, "--resume")
    wait_until(len(at_kill) // 2 + 3, out, again)
    kill_a_worker()
    cluster.remove_node(second, allow_graceful=False)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said

    undisturbed = tmp_path / "undisturbed"
    alone = lineament_here(*sweep_command(undisturbed))
    assert alone.returncode == 0, alone.stderr
    found = cell_records(out)
    assert len(found) == 48  # 24 records, each with its arrays
    assert found == cell_records(undisturbed)
    assert {name: found[name] for name in at_kill} == at_kill
    for file in ("sweep.json", "records.parquet", "claims.parquet"):
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes()
    states = [read_json(path)["jobs"] for path in out.glob("cells/*/state.json")]
    assert [job["status"] for jobs in states for job in jobs.values()] == ["done"] * 24


def test_nodes_that_do_not_see_the_folder_send_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign by which workers know the folder is a descriptor that only this process has."""
    grid = make_grid(smallest(seeds="2"), {"recovery.optimizer": ["sgd", "adamw"]}, "test")
    here, there = tmp_path / "here", tmp_path / "there"
    with open_pool(ExecutorOptions("serial"), here, grid.base) as pool:
        assert run(pool, "serial", jobs_in(here, grid)) == []
    monkeypatch.setenv("LINEAMENT_CACHE", str(tmp_path / "cache"))
    with open_pool(ExecutorOptions("ray", 2), there, grid.base) as pool, (tmp_path / "sign").open("w") as sign:
        os.dup2(sign.fileno(), 777)
        pool.token = Path("/proc/self/fd/777")  # type: ignore[attr-defined]
        try:
            assert run(pool, "ray", jobs_in(there, grid)) == []
        finally:
            pool.token = tmp_path / "none"  # type: ignore[attr-defined]
            os.close(777)
    assert cell_records(there) == cell_records(here)
    assert len(list((there / "shared").glob("*.safetensors"))) == 2
    assert not list(there.glob("cells/*/recording/*")), "recordings stay where they were made"


def test_a_node_with_other_versions_is_refused(cluster: Any, tmp_path: Path) -> None:
    other = tmp_path / "site" / "lineament-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: lineament\nVersion: 99.0\n")
    path = os.pathsep.join([str(other.parent), os.environ.get("PYTHONPATH", "")])
    cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    done = lineament_here(*command(tmp_path / "out"), "--ray-address", cluster.address)
    assert done.returncode == 2
    assert "lineament 99.0 there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_more_threads_than_any_node_has_are_refused(cluster: Any, tmp_path: Path) -> None:
    done = lineament_here(*command(tmp_path / "out"), "--ray-address", cluster.address, "--threads", "2")
    assert done.returncode == 2
    assert "threads is 2, and no node of the cluster has more than 1 cores" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cell_that_no_node_has_room_for_is_refused(cluster: Any, tmp_path: Path) -> None:
    done = lineament_here(*command(tmp_path / "out"), "--ray-address", cluster.address, "--vary", "threads=1,4")
    assert done.returncode == 2
    assert "threads is 4, and no node" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_job_that_no_node_has_room_for_any_more_is_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would wait for such a node for ever."""
    monkeypatch.setattr("lineament.runs.executors.ray_pool.SECONDS_BETWEEN_ROOM", 1.0)
    monkeypatch.setattr("lineament.runs.executors.ray_pool._require_room", lambda *_: None)
    large = Job(smallest(threads="4"), 0, tmp_path / "out", "large")
    with open_pool(ExecutorOptions("ray", 1, cluster.address), tmp_path, large.settings) as pool:
        (failure,) = run(pool, "ray", [large], retries=0)
    assert "threads is 4, and no node" in failure


def test_relative_paths_are_meant_from_where_the_command_was_given(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's nodes stand elsewhere, and see the folder all the same."""
    monkeypatch.chdir(tmp_path)
    flags = ["run", "synthetic", "--preset", "quick", "--out", "mine", *sets(seeds="1")]
    done = lineament_here(*flags, "--executor", "ray", "--ray-address", cluster.address)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "mine" / "recording").glob("*/rows-*"))


def command(out: Path) -> list[str]:
    return ["run", "synthetic", "--preset", "quick", "--out", str(out), *sets(), "--executor", "ray"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("nonsense", "write local, auto or HOST:PORT"),
        ("ray://head:10001", "write local, auto or HOST:PORT"),
    ],
)
def test_addresses_where_nothing_answers_are_refused(address: str, words: str, tmp_path: Path) -> None:
    done = lineament_here(*command(tmp_path / "out"), "--ray-address", address)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_auto_without_a_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own search is not made: what it finds depends on what else runs on the machine."""
    import ray

    def init(address: str, **flags: object) -> None:
        assert address == "auto"
        raise ConnectionError("Could not find any running Ray instance.\nMore words.")

    monkeypatch.setattr(ray, "init", init)
    done = lineament_here(*command(tmp_path / "out"), "--ray-address", "auto")
    assert done.returncode == 2
    assert "no Ray cluster answers (Could not find any running Ray instance)" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_address_where_something_else_answers_is_refused_soon(tmp_path: Path) -> None:
    """Ray would wait for ever; a process of its own, since the attempt stays behind in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        flags = [*command(tmp_path / "out"), "--ray-address", address]
        started = time.monotonic()
        done = lineament(*flags)
    assert done.returncode == 2
    assert "no Ray cluster answers (no answer within 10 s)" in done.stderr
    assert "Traceback" not in done.stderr
    # 20 s without the start of Python and its imports, which take as long as the machine is busy
    assert time.monotonic() - started < 40
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = lineament_here(*command(tmp_path / "out"))
    assert done.returncode == 2
    assert "pip install 'lineament[ray]'" in done.stderr
    assert not (tmp_path / "out").exists()
