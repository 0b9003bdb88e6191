"""Jobs as TensorBoard runs: `tensorboard --logdir OUT/tensorboard`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from lineament.errors import InputError
from lineament.runs.tracking.job_log import JobLog

EVENT_FILES = "events.out.tfevents.*"


def require_installed() -> None:
    """Raise `InputError` without TensorBoard."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--track tensorboard needs TensorBoard: `pip install tensorboard`.")


def open_tracker(out: Path) -> Callable[[JobLog], None]:
    """Return a function that writes a job's event file below OUT/tensorboard, in place of an earlier one."""
    from torch.utils.tensorboard import SummaryWriter

    def log(job: JobLog) -> None:
        folder = out / "tensorboard" / job.name
        for earlier in folder.glob(EVENT_FILES):
            earlier.unlink(missing_ok=True)
        with SummaryWriter(str(folder)) as writer:
            for name, values in job.curves.items():
                for step, value in enumerate(values):
                    writer.add_scalar(name, value, step)
            for name, value in job.claim_values.items():
                writer.add_scalar(name, value, 0)
            writer.add_hparams(dict(job.settings), dict(job.claim_values), run_name=".")

    return log
