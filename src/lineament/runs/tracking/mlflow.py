"""Jobs as MLflow runs of the experiment `lineament`: at $MLFLOW_TRACKING_URI, or in OUT/mlflow.db."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

from lineament.errors import InputError
from lineament.runs.tracking.job_log import JobLog

EXPERIMENT = "lineament"
# Tags that tell a job's run from every other one.
JOB_TAG, OUT_TAG = "lineament.job", "lineament.out"
# Most metrics that a server takes at once.
BATCH = 1000


def require_installed() -> None:
    """Raise `InputError` without MLflow."""
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("--track mlflow needs MLflow: `pip install mlflow`.")


def open_tracker(out: Path) -> Callable[[JobLog], None]:
    """Return a function that logs a job as one MLflow run, in place of an earlier one of the same job."""
    # by default a server that does not answer would hold the run for minutes at every job
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.absolute() / 'mlflow.db'}"
    client = MlflowClient(uri)
    existing = client.get_experiment_by_name(EXPERIMENT)
    experiment = existing.experiment_id if existing else client.create_experiment(EXPERIMENT)

    def log(job: JobLog) -> None:
        tags = {JOB_TAG: job.name, OUT_TAG: str(out.absolute())}
        same = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        for earlier in client.search_runs([experiment], same):
            client.delete_run(earlier.info.run_id)
        run = client.create_run(experiment, tags=tags, run_name=job.name).info.run_id
        params = [Param(key, value) for key, value in job.settings.items()]
        client.log_batch(run, params=params)
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, 0) for name, value in job.claim_values.items()]
        metrics += [Metric(name, v, now, step) for name, values in job.curves.items() for step, v in enumerate(values)]
        for start in range(0, len(metrics), BATCH):
            client.log_batch(run, metrics=metrics[start : start + BATCH])
        client.set_terminated(run)

    return log
