"""What executors gain and cost: throughput, overhead per job, planning of large sweeps, memory of the driver.

    python benchmarks/sweep.py [throughput] [overhead] [plan] [memory]

Everything runs in this process and its workers on two cores. `throughput`: 12 jobs of the embedded model (3 seeds, 4
settings), every way with base models and operating points of its own, in turn. `overhead`: jobs that find their records
made, so that starting, noting and ending them is all there is. `plan`: a dry run of 10 000 jobs as a user starts it.
`memory`: resident memory of the driver while 2 000 such jobs end.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from lineament.runs.environment import environment
from lineament.runs.executors.driver import Driver
from lineament.runs.executors.jobs import open_pool
from lineament.runs.executors.options import ExecutorOptions
from lineament.runs.executors.pool import Pool
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Grid, make_grid
from lineament.runs.sweep.jobs import jobs_of
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

# A few seconds a job: long enough that starting workers is not what is measured.
JOB: Mapping[str, str] = {
    "seeds": "3",
    "measure": "gradient_rank,basis_capture",
    "task.names": "copy,sort,maximum",
    "task.evaluation_examples": "64",
    "training.steps": "200",
    "operating.steps": "40",
    "damage.steps": "20",
    "recovery.steps": "40",
    "measurement.gradients": "16",
    "measurement.curvature_batch": "32",
    "measurement.lanczos_steps": "20",
    "measurement.task_vector_steps": "5",
    "measurement.inside_steps": "5",
}
# The smallest there is, for jobs whose work is done already.
NOTHING: Mapping[str, str] = {
    "measure": "gradient_rank",
    "task.names": "copy",
    "task.targets": "copy",
    "task.evaluation_examples": "8",
    "training.steps": "2",
    "model.width": "16",
    "model.layers": "1",
    "model.length": "4",
    "operating.steps": "2",
    "damage.steps": "2",
    "recovery.steps": "2",
    "measurement.ranks": "1",
    "measurement.headline_rank": "1",
    "measurement.gradients": "2",
    "measurement.minibatch": "2",
}
WAYS = {
    "serial, one thread": (ExecutorOptions("serial"), 1),
    "serial, both cores": (ExecutorOptions("serial"), 2),
    "2 processes, one thread each": (ExecutorOptions("processes", 2), 1),
    "2 Ray workers, one thread each": (ExecutorOptions("ray", 2), 1),
}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of its own, with a cache of base models in it."""
    with tempfile.TemporaryDirectory(prefix="lineament-sweep-") as name:
        folder = Path(name)
        with environment("LINEAMENT_CACHE", str(folder / "cache")):
            yield folder


def settings(values: Mapping[str, str], threads: int = 1) -> Settings:
    return resolve("synthetic", "quick", [("benchmark", {**values, "threads": threads})])


def opened(grid: Grid, out: Path) -> list[Job]:
    folder = SweepFolder(out)
    folder.open(grid, resume=False)
    cells = list(grid.cells())
    for cell in cells:
        folder.run(cell).open(cell.settings, resume=True)
    return jobs_of(folder, cells)


def run(jobs: list[Job], options: ExecutorOptions, pool: Pool) -> None:
    failures = Driver(jobs, options, lambda label, what, done, total: None).run(pool)
    assert not failures, failures[0].message


def throughput(rounds: int = 2) -> None:
    """Seconds for 12 jobs, every way once in each round, beside what connecting, starting and importing takes."""
    vary = {"recovery.optimizer": ["sgd", "adamw"], "damage.kind": ["wrong_labels", "ascent"]}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, (options, threads) in WAYS.items():
            with scratch() as folder:
                torch.set_num_threads(threads)
                grid = make_grid(settings(JOB, threads), vary, "benchmark")
                jobs, warm = opened(grid, folder / "sweep"), finished_jobs(folder / "warm", 4)
                start = time.perf_counter()
                with open_pool(options, folder, grid.base) as pool:
                    run(warm, options, pool)
                    ready = time.perf_counter()
                    run(jobs, options, pool)
                    spent[name].append((ready - start, time.perf_counter() - ready))
    one, both = (_least(spent[name]) for name in ("serial, one thread", "serial, both cores"))
    print("| way | start s | 12 jobs s | against serial, one thread | with the start | against serial, both cores |")
    print("|---|---|---|---|---|---|")
    for name, found in spent.items():
        each = ", ".join(f"{seconds:.1f}" for _, seconds in found)
        start, best = min(start for start, _ in found), _least(found)
        ratios = f"{one / best:.2f} | {one / (best + start):.2f} | {both / best:.2f}"
        print(f"| {name} | {start:.1f} | {each} | {ratios} |")


def _least(found: list[tuple[float, float]]) -> float:
    return min(seconds for _, seconds in found)


def finished_jobs(folder: Path, n: int) -> list[Job]:
    """n jobs in run folders of their own whose records are there: one is made, the others link to it."""
    small = settings(NOTHING)
    jobs = [Job(small, small.seed, folder / f"run{place}", f"job {place}") for place in range(n)]
    jobs[0].execute(lambda what, done, total: None)
    for job in jobs[1:]:
        for file in (jobs[0].run / "records").iterdir():
            (job.run / "records").mkdir(parents=True, exist_ok=True)
            os.link(file, job.run / "records" / file.name)
    return jobs


def overhead(n: int = 200) -> None:
    """Milliseconds that a job costs beside its own work, once workers have started and imported."""
    print(f"\n| way | ms per job ({n} jobs with nothing to do) |\n|---|---|")
    for name, (options, threads) in WAYS.items():
        if threads > 1:
            continue
        with scratch() as folder:
            jobs = finished_jobs(folder, n + 4)
            with open_pool(options, folder, jobs[0].settings) as pool:
                run(jobs[:4], options, pool)  # workers start, import and load here
                start = time.perf_counter()
                run(jobs[4:], options, pool)
                print(f"| {name} | {1e3 * (time.perf_counter() - start) / n:.1f} |")


def plan(n: int = 10_000) -> None:
    """Seconds of a dry run, as a process, with some jobs finished and with none."""
    with scratch() as folder:
        rates = ",".join(f"{1e-4 * (place + 1):.4f}" for place in range(n // 2))
        sets = [part for key, value in NOTHING.items() for part in ("--set", f"{key}={value}")]
        base = ["run", "synthetic", "--preset", "quick", *sets, "--seeds", "2", "--quiet"]
        command = [sys.executable, "-m", "lineament.cli", *base, "--out", str(folder / "sweep")]
        subprocess.run([*command, "--vary", "recovery.lr=0.0001,0.0002"], check=True, capture_output=True)
        flags, spent = ["--vary", f"recovery.lr={rates}", "--resume", "--dry-run"], []
        for _ in range(3):
            start = time.perf_counter()
            said = subprocess.run([*command, *flags], check=True, capture_output=True, text=True).stdout
            spent.append(time.perf_counter() - start)
        idle = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import lineament.commands.run.command"], check=True)
        idle = time.perf_counter() - idle
    lines = said.splitlines()
    print(f"\ndry run of {n:,} jobs: median {statistics.median(spent):.1f} s, {idle:.1f} of it to start and import")
    print(f"{len(lines):,} lines, the last ones:\n  {lines[-2]}\n  {lines[-1]}")


def resident_mib() -> float:
    """Resident memory of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def memory(n: int = 2_000) -> None:
    """Resident memory of the driver as jobs end on two processes."""
    print("\n| jobs ended | resident MiB of the driver |\n|---|---|")
    with scratch() as folder:
        jobs, options = finished_jobs(folder, n), ExecutorOptions("processes", 2)
        ended = 0

        def after(job: Job) -> None:
            nonlocal ended
            ended += 1
            if ended in (10, n // 8, n // 4, n // 2, n):
                print(f"| {ended} | {resident_mib():.1f} |")

        with open_pool(options, folder, jobs[0].settings) as pool:
            Driver(jobs, options, lambda label, what, done, total: None, after=after).run(pool)
        assert ended == n
        assert RunFolder(jobs[-1].run).state.exists()


MEASURES = {"throughput": throughput, "overhead": overhead, "plan": plan, "memory": memory}

if __name__ == "__main__":
    for name in sys.argv[1:] or MEASURES:
        MEASURES[name]()
