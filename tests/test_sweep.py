"""`lineament sweep` as a user runs it: a grid, its folder, resuming and extending, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from command_line import lineament, lineament_here
from sweep_jobs import cell_records, sets, smallest

from lineament.files.reading import read_json
from lineament.runs.executors.standing import standing
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.folder import SweepFolder
from lineament.runs.sweep.grid import Grid, cell_name, make_grid
from lineament.runs.sweep.jobs import jobs_of
from lineament.settings.plain import to_dict
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings

pytestmark = pytest.mark.slow

VARY = ("--vary", "recovery.optimizer=sgd,adamw", "--vary", "recovery.lr=1e-3,1e-2")


def command(out: Path, *more: str, vary: tuple[str, ...] = VARY) -> list[str]:
    return ["run", "synthetic", "--preset", "quick", "--out", str(out), *sets(seeds="2"), *vary, *more]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of four cells with two seeds."""
    out = tmp_path_factory.mktemp("sweeps") / "swept"
    done = lineament(*command(out), "--executor", "processes")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "all jobs: jobs ended" in done.stderr
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    assert max(map(len, done.stdout.splitlines())) <= max(80, len(str(out)) + 30)
    return out


def test_every_cell_is_a_run_of_its_own(swept: Path) -> None:
    cells = sorted(path.name for path in (swept / "cells").iterdir())
    assert cells == [f"optimizer={o},lr={lr}" for o in ("adamw", "sgd") for lr in ("0.001", "0.01")]
    assert len(cell_records(swept)) == 16
    cell = swept / "cells" / "optimizer=sgd,lr=0.01"
    assert 'optimizer = "sgd"' in (cell / "config.toml").read_text()
    assert "gradient_low_rank" in lineament_here("claims", str(cell)).stdout
    assert lineament_here("report", str(cell)).returncode == 0
    assert (cell / "report.html").exists()


def test_cells_are_the_runs_that_one_would_make_alone(swept: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    own = ("--set", "recovery.optimizer=sgd", "--set", "recovery.lr=1e-2")
    done = lineament_here("run", "synthetic", "--preset", "quick", "--out", str(alone), *sets(seeds="2"), *own)
    assert done.returncode == 0, done.stderr
    records = {path.name: path.read_bytes() for path in (alone / "records").iterdir()}
    there = swept / "cells" / "optimizer=sgd,lr=0.01" / "records"
    assert records == {path.name: path.read_bytes() for path in there.iterdir()}


def test_the_tables_have_a_row_for_every_figure_and_claim(swept: Path) -> None:
    figures = pd.read_parquet(swept / "records.parquet")
    assert set(figures["recovery.lr"]) == {1e-3, 1e-2}
    assert set(figures["recovery.optimizer"]) == {"sgd", "adamw"}
    assert set(figures["seed"]) == {0, 1}
    n = sum(len(read_json(path)["figures"]) for path in swept.glob("cells/*/records/*.json"))
    assert len(figures) == n > 100
    claims = pd.read_parquet(swept / "claims.parquet")
    assert len(claims) == 4
    assert set(claims["claim"]) == {"gradient_low_rank"}


def test_a_sweep_goes_on_from_its_own_file_and_is_extended(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "more"
    shutil.copytree(swept, out)
    before = cell_records(out)
    refused = lineament_here("sweep", str(out / "sweep.toml"), "--out", str(out))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    done = lineament_here("sweep", str(out / "sweep.toml"), "--resume", "--seeds", "3")
    assert done.returncode == 0, done.stderr
    longer = (*VARY[:2], "--vary", "recovery.lr=1e-3,3e-3")  # the value left out stays in the sweep
    done = lineament_here(*command(out, "--resume", "--seeds", "1", vary=longer))
    assert done.returncode == 0, done.stderr
    after = cell_records(out)
    assert len(after) == 2 * 6 * 3
    assert {name: after[name] for name in before} == before
    varied = {item["key"]: item["values"] for item in read_json(out / "sweep.json")["vary"]}
    assert varied["recovery.lr"] == [0.001, 0.01, 0.003]
    assert len(pd.read_parquet(out / "claims.parquet")) == 6


def test_claims_and_report_of_a_sweep(swept: Path) -> None:
    table = lineament_here("claims", str(swept))
    assert table.returncode == 0
    assert "optimizer=sgd,lr=0.01" in table.stdout
    assert json.loads(lineament_here("claims", str(swept), "--json").stdout) == read_json(swept / "sweep.json")
    exported = lineament_here("export", str(swept), "--csv")
    assert exported.returncode == 2
    assert "records.parquet" in exported.stderr
    page = (swept / "report.html").read_bytes()
    (swept / "report.html").unlink()
    assert lineament_here("report", str(swept)).returncode == 0
    assert (swept / "report.html").read_bytes() == page


def test_a_job_that_keeps_failing_is_named_everywhere(tmp_path: Path) -> None:
    out, vary = tmp_path / "out", ("--vary", "damage.lr=1e-3,1e30")
    done = lineament_here(*command(out, vary=vary))
    assert done.returncode == 1
    assert "lr=1e+30, seed 0 failed" in done.stderr
    assert [job["cell"] for job in read_json(out / "sweep.json")["failed"]] == ["lr=1e+30"] * 2
    assert "lr=1e+30" in (out / "report.html").read_text()
    assert len(cell_records(out)) == 4
    again = lineament_here(*command(out, "--resume", vary=vary))
    assert again.returncode == 1, "failed jobs are run again"


def test_nothing_finished_is_an_error_that_names_the_jobs(tmp_path: Path) -> None:
    done = lineament_here(*command(tmp_path / "out", vary=("--vary", "damage.lr=1e30,1e31")))
    assert done.returncode == 1
    assert "no record was finished" in done.stderr
    assert "lr=1e+30, seed 0 failed" in done.stderr
    assert "lr=1e+31" in (tmp_path / "out" / "report.html").read_text()


def test_what_a_killed_driver_did_not_note_is_noted(swept: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(swept, out)
    cell = RunFolder(out / "cells" / "optimizer=sgd,lr=0.01")
    cell.mark("seed1", "running")
    done = lineament_here("sweep", str(out / "sweep.toml"), "--resume", "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert read_json(cell.state)["jobs"]["seed1"]["status"] == "done"
    logged = [path.parent.name for path in (out / "tensorboard").rglob("seed*")]
    assert logged == ["optimizer=sgd,lr=0.01"]


def test_a_finished_job_of_a_run_keeps_what_was_noted(swept: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(swept / "cells" / "optimizer=sgd,lr=0.01", run.path)
    before = read_json(run.state)["jobs"]
    assert before["seed0"]["seconds"] > 0
    flags = ("--config", str(run.config), "--out", str(run.path), "--resume", "--seeds", "3")
    done = lineament_here("run", *flags, "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    after = read_json(run.state)["jobs"]
    assert {name: after[name] for name in before} == before
    assert after["seed2"]["status"] == "done"
    assert [path.name for path in (run.path / "tensorboard").iterdir()] == ["seed2"]


def test_a_cell_is_written_under_the_lock_of_its_sweep(swept: Path) -> None:
    cell = swept / "cells" / "optimizer=sgd,lr=0.01"
    with RunFolder(swept).locked():
        done = lineament("report", str(cell))
    assert done.returncode == 2
    assert "another process is writing" in done.stderr


def test_a_second_driver_is_refused(swept: Path) -> None:
    with RunFolder(swept).locked():
        done = lineament("sweep", str(swept / "sweep.toml"), "--out", str(swept), "--resume")
    assert done.returncode == 2
    assert "another process is writing" in done.stderr


def test_a_dry_run_lists_cells_and_writes_nothing(swept: Path, tmp_path: Path) -> None:
    done = lineament_here(*command(tmp_path / "out", "--dry-run"))
    assert done.returncode == 0
    assert "optimizer=sgd,lr=0.001: 0 of 2 seeds" in done.stdout
    assert "4 cells x 2 seeds = 8 jobs; 8 to run." in done.stdout
    assert "by timing a few steps" in done.stdout
    assert not (tmp_path / "out").exists()
    done = lineament_here(*command(swept, "--dry-run", "--seeds", "4"))
    assert "optimizer=sgd,lr=0.001: 2 of 4 seeds" in done.stdout
    assert "4 cells x 4 seeds = 16 jobs; 8 to run." in done.stdout
    assert "the median of the jobs that have finished" in done.stdout


def test_a_configuration_file_with_a_grid(tmp_path: Path) -> None:
    base = {key: value for key, value in to_dict(smallest(seeds="1")).items() if key != "preset"}
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    file.write_text(tomli_w.dumps({**base, "vary": {"task": {"targets": [["copy"], ["maximum", "copy"]]}}}))
    done = lineament_here("sweep", str(file), "--preset", "quick", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (out / "cells").iterdir()) == ["targets=copy", "targets=maximum+copy"]
    assert len(cell_records(out)) == 6
    assert lineament_here("run", "--config", str(file)).returncode == 2


BAD = [
    (("--vary", "recovery.optimiser=sgd,adamw"), "Did you mean 'recovery.optimizer'"),
    (("--vary", "recovery.optimizer=sgd,adam"), "it must be one of sgd, momentum, adamw. Did you mean 'adamw'?"),
    (("--vary", "recovery.lr=1e-3,fast"), "it must be a number"),
    (("--vary", "recovery.lr="), "an empty grid"),
    (("--vary", "recovery.lr"), "has no '='"),
    (("--vary", "recovery.lr=1e-3,0.001"), "twice"),
    (("--vary", "recovery.lr=1e-3", "--vary", "recovery.lr=1e-2"), "is given twice"),
    (("--vary", "seed=0,1"), "seeds are replicates"),
    (("--vary", "measure=gradient_rank"), "every cell makes the same measurements"),
    (("--vary", "recovery.lr=1e-3,-1"), "cell lr=-1.0: recovery.lr is -1.0; it must be above 0"),
    (("--vary", "recovery.lr=1e-3", "--executor", "serial", "--time-limit", "5"), "--time-limit needs workers"),
    (("--vary", "recovery.lr=1e-3", "--require-interval", "--seeds", "1"), "at least 3 seeds"),
]


@pytest.mark.parametrize(("flags", "words"), BAD, ids=[" ".join(flags[1:]) for flags, _ in BAD])
def test_what_cannot_be_swept_is_refused_before_anything_is_written(
    flags: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    done = lineament_here(*command(tmp_path / "out", vary=flags))
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_folders_of_something_else_are_refused(swept: Path, tmp_path: Path) -> None:
    other = lineament_here(*command(swept, "--resume", "--set", "damage.steps=6"))
    assert other.returncode == 2
    assert "another sweep (damage.steps: 5 there, 6 now)" in " ".join(other.stderr.split())
    keys = lineament_here(*command(swept, "--resume", vary=("--vary", "damage.lr=1e-3,1e-2")))
    assert keys.returncode == 2
    assert "varied keys" in keys.stderr
    (tmp_path / "mine.txt").write_text("mine")
    used = lineament_here(*command(tmp_path))
    assert used.returncode == 2
    assert "is not empty" in used.stderr
    nothing = lineament_here("sweep")
    assert nothing.returncode == 2
    assert "say what to sweep" in nothing.stderr


def test_ten_thousand_jobs_are_planned_in_seconds(tmp_path: Path) -> None:
    """Bounds are generous, since machines are shared; the benchmark has the figure."""
    grid = make_grid(smallest(seeds="2"), {"recovery.lr": [1e-4 * (n + 1) for n in range(5000)]}, "test")
    started = time.monotonic()
    folder, cells = SweepFolder(tmp_path), list(grid.cells())
    jobs = jobs_of(folder, cells)
    now = standing(jobs)
    assert len(jobs) == len(now.missing) == 10_000
    assert len({job.needs for job in jobs}) == 2
    assert time.monotonic() - started < 60


class TestGrids:
    def test_the_last_key_changes_fastest(self) -> None:
        grid = make_grid(smallest(), {"recovery.lr": [1e-3, 1e-2], "damage.steps": [1, 2]}, "test")
        values = [tuple(cell.values.values()) for cell in grid.cells()]
        assert values == [(1e-3, 1), (1e-3, 2), (1e-2, 1), (1e-2, 2)]
        assert len(grid) == 4

    def test_names_are_distinct_and_fit_for_a_folder(self) -> None:
        assert cell_name({"recovery.lr": 0.1, "damage.lr": 0.2}) == "recovery.lr=0.1,damage.lr=0.2"
        slash = [cell_name({"model.name": name}) for name in ("a/b", "a-b")]
        assert len(set(slash)) == 2
        assert all("/" not in name for name in slash)
        long = [cell_name({"task.targets": ("x" * 200, end)}) for end in "ab"]
        assert len(set(long)) == 2
        assert max(map(len, long)) < 140

    def test_a_written_grid_reads_back(self, tmp_path: Path) -> None:
        grid = make_grid(smallest(), {"task.targets": ["copy", "copy+maximum"], "recovery.space": ["full"]}, "test")
        folder = SweepFolder(tmp_path / "sweep")
        assert folder.open(grid, resume=False) == grid
        assert folder.grid() == grid

    def test_only_jobs_with_the_same_start_share_it(self, tmp_path: Path) -> None:
        def shared(grid: Grid) -> int:
            return len({job.needs for job in jobs_of(SweepFolder(tmp_path), list(grid.cells())) if job.needs})

        base = smallest(seeds="2")
        for key, values, n in (
            ("damage.kind", ["ascent", "gaussian"], 2),
            ("task.targets", ["copy", "maximum"], 2),
            ("lora.rank", [4, 8], 0),
            ("operating.steps", [10, 11], 0),
            ("recovery.space", ["lora", "full"], 0),
        ):
            assert shared(make_grid(base, {key: values}, "test")) == n, key
        lm: Settings = resolve("lm", "quick", [("test", {"recovery.space": "full"})])
        assert shared(make_grid(lm, {"damage.steps": [1, 2]}, "test")) == 0, "nothing is trained before the damage"
