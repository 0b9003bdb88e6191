"""Finished jobs in TensorBoard and MLflow: the numbers of the run folder, once each, and never at the run's cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lineament_here
from sweep_jobs import sets

from lineament.files.reading import read_json
from lineament.runs.executors.tasks import Job
from lineament.runs.folder import RunFolder
from lineament.runs.tracking import tracking
from lineament.runs.tracking.job_log import job_log

pytestmark = pytest.mark.slow

VARY = ("--vary", "recovery.lr=1e-3,1e-2")


def command(out: Path, *more: str) -> list[str]:
    return ["run", "synthetic", "--preset", "quick", "--out", str(out), *sets(seeds="1"), *more]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells, logged to both trackers."""
    out = tmp_path_factory.mktemp("tracked") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = lineament_here(*command(out, *VARY, "--track", "tensorboard", "--track", "mlflow"))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return out


def curve_of(out: Path, cell: str) -> list[float]:
    found: list[float] = read_json(out / "cells" / cell / "stages" / "recovery-copy-seed0.json")["loss"]
    return found


def test_tensorboard_has_the_recovery_step_by_step(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for cell in ("lr=0.001", "lr=0.01"):
        events = EventAccumulator(str(tracked / "tensorboard" / "cells" / cell / "seed0"))
        events.Reload()
        points = events.Scalars("recovery/loss/copy")
        assert [point.step for point in points] == list(range(len(points)))
        assert [point.value for point in points] == pytest.approx(curve_of(tracked, cell), rel=1e-6)
        (claim,) = events.Scalars("claims/gradient_low_rank/copy")[:1]
        assert 0 < claim.value <= 1


def test_mlflow_has_settings_figures_and_curves(tracked: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.absolute() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lineament")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["lineament.job"] for run in runs) == ["cells/lr=0.001/seed0", "cells/lr=0.01/seed0"]
    for run in runs:
        assert run.info.status == "FINISHED"
        cell = run.data.tags["lineament.job"].split("/")[1]
        assert cell == f"lr={run.data.params['recovery.lr']}"
        history = sorted(client.get_metric_history(run.info.run_id, "recovery/loss/copy"), key=lambda m: m.step)
        assert [metric.value for metric in history] == curve_of(tracked, cell)
        assert "claims/gradient_low_rank/copy" in run.data.metrics


def test_a_job_that_is_logged_again_replaces_its_earlier_log(tracked: Path) -> None:
    from mlflow import MlflowClient

    settings = RunFolder(tracked / "cells" / "lr=0.01").settings()
    job = Job(settings, 0, tracked / "cells" / "lr=0.01", "again")
    folder = tracked / "tensorboard" / "cells" / "lr=0.01" / "seed0"
    before = {path.name for path in folder.glob("events*")}
    with tracking(["tensorboard", "mlflow"], tracked) as after:
        after(job)
    client = MlflowClient(f"sqlite:///{tracked.absolute() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lineament")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    after_it = {path.name for path in folder.glob("events*")}
    assert len(after_it) == len(before)
    assert not after_it & before


def test_a_log_holds_what_the_run_folder_holds(tracked: Path) -> None:
    run = tracked / "cells" / "lr=0.01"
    log = job_log(Job(RunFolder(run).settings(), 0, run, "x"), tracked)
    assert log.name == "cells/lr=0.01/seed0"
    assert log.settings["recovery.lr"] == "0.01"
    assert log.settings["seed"] == "0"
    claims = read_json(run / "claims.json")["claims"]
    assert log.claim_values == {f"claims/{c['id']}/{c['task']}": c["measured"] for c in claims}
    assert set(log.curves) == {"recovery/loss/copy", "recovery/accuracy/copy"}


def test_a_tracker_that_fails_is_named_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    done = lineament_here(*command(tmp_path / "out", "--track", "mlflow"))
    assert done.returncode == 0
    assert "warning: logging to mlflow failed" in done.stderr
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_without_the_package_nothing_is_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(wanted: str) -> None:
        assert wanted == name

    monkeypatch.setattr("importlib.util.find_spec", absent)
    done = lineament_here(*command(tmp_path / "out", "--track", name))
    assert done.returncode == 2
    assert f"pip install {name}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_trackers_are_not_imported_unasked() -> None:
    loaded = "print([m for m in ('tensorboard', 'mlflow', 'ray') if m in sys.modules])"
    code = f"import sys, lineament.commands.run.command; {loaded}"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
