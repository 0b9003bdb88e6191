"""What every pool of workers must do, checked on each: the same records, and nothing lost to faults."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from families import SHORTEST, write_data, write_family
from sweep_jobs import cell_records, smallest

from lineament.files.reading import read_json
from lineament.runs.executors.driver import Driver
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.executors.tasks import Job, Outcome, Task
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Grid, make_grid
from lineament.runs.sweep.jobs import jobs_of
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

pytestmark = pytest.mark.slow

NAMES = ("serial", "processes", "ray")
IN_WORKERS = NAMES[1:]


def options(name: str, **more: float) -> ExecutorOptions:
    return ExecutorOptions(name, None if name == "serial" else 2, **more)  # type: ignore[arg-type]


class Pools:
    """Pools that stay open for several tests, since Ray takes seconds to start."""

    def __init__(self, out: Path) -> None:
        self.out, self.open, self.closing = out, dict[str, Pool](), list[Iterator[Pool]]()

    def __getitem__(self, name: str) -> Pool:
        if name not in self.open:
            manager = open_pool(options(name), self.out, smallest())
            self.closing.append(manager)  # type: ignore[arg-type]
            self.open[name] = manager.__enter__()
        return self.open[name]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    found = Pools(tmp_path_factory.mktemp("pools"))
    yield found
    for manager in found.closing:
        manager.__exit__(None, None, None)  # type: ignore[attr-defined]


def run(pool: Pool, name: str, jobs: list[Job], watch: Callable[..., None] | None = None, **more: float) -> list[str]:
    """Carry jobs out; returns what was said of those that were given up."""
    for job in jobs:
        RunFolder(job.run).path.mkdir(parents=True, exist_ok=True)
    driver = Driver(jobs, options(name, **more), watch or (lambda label, what, done, total: None))
    return [f"{failure.task.label}: {failure.message}" for failure in driver.run(pool)]


def job(out: Path, seed: int = 0, **changes: str) -> Job:
    settings = smallest(**changes)
    return Job(settings, seed, out, f"seed {seed}")


def jobs_in(out: Path, grid: Grid) -> list[Job]:
    folder = SweepFolder(out)
    folder.open(grid, resume=False)
    cells = list(grid.cells())
    for cell in cells:
        folder.run(cell).open(cell.settings, resume=True)
    return jobs_of(folder, cells)


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Grid]:
    """Two problems, each with three seeds and two settings."""
    folder = tmp_path_factory.mktemp("lm")
    model, data = write_family("llama", folder / "model"), write_data(folder / "mine.jsonl")
    own = {"model.name": str(model), "task.data": str(data), "measure": "gradient_rank", "seeds": "3"}
    lm: Settings = resolve("lm", "quick", [("test", {**SHORTEST, "operating.steps": "5", **own})])
    vary = {"recovery.optimizer": ["sgd", "adamw"]}
    return {"synthetic": make_grid(smallest(), vary, "test"), "lm": make_grid(lm, vary, "test")}


@pytest.fixture(scope="module")
def serial_records(grids: dict[str, Grid], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Records of both problems, one job after the other without an operating point that is shared."""
    found = {}
    for problem, grid in grids.items():
        out = tmp_path_factory.mktemp(problem) / "sweep"
        with open_pool(options("serial"), out, grid.base) as pool:
            jobs = [replace(item, needs=None) for item in jobs_in(out, grid)]
            assert len(jobs) == 6
            assert run(pool, "serial", jobs) == []
        found[problem] = cell_records(out)
        assert len(found[problem]) == 12  # a record and its arrays
    return found


@pytest.mark.parametrize("problem", ["synthetic", "lm"])
@pytest.mark.parametrize("name", NAMES)
def test_records_are_bit_identical(
    name: str, problem: str, pools: Pools, grids: dict[str, Grid], serial_records: dict[str, dict[str, bytes]]
) -> None:
    out = pools.out / f"{problem}-{name}"
    jobs = jobs_in(out, grids[problem])
    assert len({item.needs for item in jobs}) == 3, "the cells of a seed share their operating point"
    assert run(pools[name], name, jobs) == []
    assert cell_records(out) == serial_records[problem]
    assert len(list((out / "shared").glob("*.safetensors"))) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_raises_is_tried_again_and_then_named_while_the_others_finish(
    name: str, pools: Pools, tmp_path: Path
) -> None:
    # steps enough to be seen in its seconds, of which state.json keeps a tenth
    bad, good = job(tmp_path / "bad"), job(tmp_path / "good", **{"operating.steps": "200"})
    bad.run.mkdir()
    (bad.run / "stages").write_text("a file where a folder must be")
    (failure,) = run(pools[name], name, [bad, good], retries=1)
    assert "FileExistsError" in failure
    assert "attempt 2 of 2" in failure
    assert "Traceback" in (bad.run / "log.txt").read_text()
    assert read_json(bad.run / "state.json")["jobs"]["seed0"]["status"] == "failed"
    state = read_json(good.run / "state.json")["jobs"]["seed0"]
    assert state["status"] == "done"
    assert state["attempts"] == 1
    assert state["seconds"] > 0
    assert list(good.run.glob("records/*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_is_not_tried_again(name: str, pools: Pools, tmp_path: Path) -> None:
    (failure,) = run(pools[name], name, [job(tmp_path, **{"damage.lr": "1e30"})])
    assert "attempt" not in failure
    assert "log.txt" not in failure
    assert (tmp_path / "log.txt").read_text().count("seed0") == 1


def hanging(out: Path) -> Job:
    """A job that does not end by itself: its base model trains for hours."""
    return job(out, **{"training.steps": "1000000"})


@pytest.mark.parametrize("name", IN_WORKERS)
def test_a_job_that_hangs_is_ended_and_the_others_finish(name: str, pools: Pools, tmp_path: Path) -> None:
    hangs, good = hanging(tmp_path / "hangs"), [job(tmp_path / f"good{n}", n) for n in range(3)]
    started = time.monotonic()
    # generous for the good ones on a busy machine
    (failure,) = run(pools[name], name, [hangs, *good], time_limit=0.15, retries=0)
    assert "longer than its limit of 0.15 min" in failure
    assert time.monotonic() - started < 100
    assert all(list(item.run.glob("records/*.json")) for item in good)


def worker_pids(name: str) -> list[int]:
    """Processes below this one that carry tasks out now (Linux); other tests may have workers at the same time."""
    sign, parents, pids = b"spawn_main" if name == "processes" else b"ray::carry_out", dict[int, int](), list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        if sign in words:
            pids.append(int(folder.name))
    return [pid for pid in pids if os.getpid() in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    """The processes above one, from its parent upwards."""
    above = []
    while pid := parents.get(pid, 0):
        above.append(pid)
    return above


@pytest.mark.parametrize("name", IN_WORKERS)
def test_a_killed_worker_costs_an_attempt_and_nothing_else(name: str, pools: Pools, tmp_path: Path) -> None:
    jobs, killed = [job(tmp_path / str(seed), seed) for seed in range(4)], list[int]()

    def watch(label: str, what: str, done: int, total: int) -> None:
        if not killed and what.startswith("training the base") and (pids := worker_pids(name)):
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    # base models that no other test has trained, so that there is time to kill
    slow = [replace(item, settings=smallest(**{"training.steps": f"15{len(name)}"})) for item in jobs]
    assert run(pools[name], name, slow, watch) == []
    assert killed
    attempts = [read_json(item.run / "state.json")["jobs"][item.name]["attempts"] for item in jobs]
    assert sorted(attempts) == [1, 1, 1, 2]
    assert all(len(list(item.run.glob("records/*.json"))) == 1 for item in jobs)


@pytest.mark.parametrize("name", IN_WORKERS)
def test_a_worker_that_always_dies_is_given_up(name: str, pools: Pools, tmp_path: Path) -> None:
    """Every attempt is killed; the job that shares nothing with it goes on."""

    def watch(label: str, what: str, done: int, total: int) -> None:
        if label == "dies" and what.startswith("training the base"):
            for pid in worker_pids(name):
                os.kill(pid, signal.SIGKILL)

    dies = replace(job(tmp_path), settings=smallest(**{"training.steps": f"500{len(name)}"}), label="dies")
    (failure,) = run(pools[name], name, [dies], watch, retries=1)
    assert "attempt 2 of 2" in failure
    assert ("SIGKILL" if name == "processes" else "worker was lost") in failure
    assert run(pools[name], name, [job(tmp_path / "next")]) == []


class Written:
    """A pool of two that ends tasks in the order it got them, and makes nothing but files."""

    def __init__(self) -> None:
        self.progress: Callable[..., None] = lambda *_: None
        self.at_work, self.order = list[Task](), list[str]()

    def free(self) -> int:
        return 2 - len(self.at_work)

    def start(self, task: Task) -> None:
        self.at_work.append(task)
        self.order.append(task.label)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        task = self.at_work.pop(0)
        if not isinstance(task, Job):
            task.key.parent.mkdir(exist_ok=True)
            task.key.write_text("made")
        return [Outcome(task)]

    def stop(self, task: Task) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_operating_points_are_made_while_there_is_other_work(tmp_path: Path) -> None:
    grid = make_grid(smallest(seeds="4"), {"recovery.lr": [1e-3, 2e-3, 3e-3, 4e-3]}, "test")
    pool, jobs = Written(), jobs_in(tmp_path / "sweep", grid)
    assert Driver(jobs, options("processes"), lambda *_: None).run(pool) == []
    points = [place for place, label in enumerate(pool.order) if label.startswith("operating point")]
    assert len(pool.order) == 16 + 4
    assert points[:2] == [0, 1], "both workers begin with one each"
    # the jobs of both end at place 10: the third is begun before that, and so is the fourth
    assert 4 < points[2] < 9
    assert points[3] < 14
    assert len(set(pool.order)) == 20


def test_records_are_kept_after_their_arrays(tmp_path: Path) -> None:
    """A driver that is killed while it writes leaves no record that seems complete."""
    made, kept = job(tmp_path / "made"), job(tmp_path / "kept")
    with open_pool(options("serial"), tmp_path, made.settings) as pool:
        assert run(pool, "serial", [made]) == []
    files = made.files()
    assert not [name for name in files if name.startswith("recording/") or name.endswith(".lock")]
    written = list[str]()

    class Noting(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            written.append(name)
            return super().__getitem__(name)

    kept.keep(Noting(files))
    records = [name for name in written if name.startswith("records/")]
    assert written[-len(records) :] == records
    assert [Path(name).suffix for name in records] == [".safetensors", ".json"]


def test_what_a_file_system_refuses_is_tried_again(pools: Pools, tmp_path: Path) -> None:
    """A writing error of one node must not end the job for good."""
    item, seen = job(tmp_path / "run"), list[str]()

    def watch(label: str, what: str, done: int, total: int) -> None:
        seen.append(what)
        blocker = item.run / "records"
        if what == "starting" and seen.count("starting") == 1:
            blocker.write_text("a file where a folder must be")
        elif what == "starting":
            blocker.unlink()

    assert run(pools["serial"], "serial", [item], watch) == []
    assert read_json(item.run / "state.json")["jobs"]["seed0"]["attempts"] == 2
    assert "attempt 1 ended" in (item.run / "log.txt").read_text()


def test_an_operating_point_that_raises_leaves_its_traceback(pools: Pools, tmp_path: Path) -> None:
    grid = make_grid(smallest(seeds="1"), {"recovery.optimizer": ["sgd", "adamw"]}, "test")
    jobs = jobs_in(tmp_path / "sweep", grid)
    (tmp_path / "sweep" / "shared").write_text("a file where a folder must be")
    failures = run(pools["serial"], "serial", jobs, retries=0)
    assert len(failures) == 2
    logs = [(item.run / "log.txt").read_text() for item in jobs]
    assert sum("Traceback" in log for log in logs) == 1


def test_jobs_of_an_operating_point_that_cannot_be_made_are_named(pools: Pools, tmp_path: Path) -> None:
    grid = make_grid(smallest(**{"operating.lr": "1e30"}), {"recovery.optimizer": ["sgd", "adamw"]}, "test")
    failures = run(pools["serial"], "serial", jobs_in(tmp_path / "sweep", grid))
    assert len(failures) == 6
    assert all("operating point could not be made" in failure for failure in failures)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ExecutorOptions("threads"), "no executor 'threads'"),
        (ExecutorOptions("processes", 0), "--workers must be at least 1; got 0"),
        (ExecutorOptions("serial", 4), "--workers 4 needs --executor processes or ray"),
        (ExecutorOptions("processes", 1, retries=-1), "--retries must be at least 0; got -1"),
        (ExecutorOptions("serial", time_limit=1.0), "--time-limit needs workers"),
        (ExecutorOptions("processes", time_limit=0.0), "above 0 minutes"),
        (ExecutorOptions("processes", ray_address="auto"), "needs --executor ray"),
    ],
)
def test_options_that_cannot_be(given: ExecutorOptions, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        given.require_allowed()
