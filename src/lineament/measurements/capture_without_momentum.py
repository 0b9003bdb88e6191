"""Captures of a second recovery without momentum, from the same damaged point on the same batches (protocol 2).

Quantity: capture(U, D) as in `basis_capture`, by bases made of the second recovery's own updates: the first k, k at
random times, windows of k. Unit: fraction. Momentum makes updates at random times interpolate whatever the gradients
say; without it a blind run's first updates, its updates at random times and k / T are one, and the comparison between
them is fair. Null: `blind`, the same optimizer on gradients that know nothing.
"""

from __future__ import annotations

from lineament.measurements.measurement import Measurement, make_record
from lineament.measurements.recovery_captures import (
    WINDOW_DEFINITION,
    CaptureSite,
    site_captures,
    step_counts,
    window_captures,
)
from lineament.records import Quantity, Record
from lineament.settings.settings import Settings
from lineament.study.passes import recovery_passes
from lineament.study.study import Study, second_recovery

NAME = "capture_without_momentum"
DEFINITIONS = {
    "capture": "|U^T d|^2 / |d|^2 of a recovery whose optimizer has no momentum (beta1 = 0); definitions as in "
    "basis_capture",
    "window_capture": WINDOW_DEFINITION,
    "recovery_steps": "T: the fixed number of steps after which the recovery is judged (protocol 0)",
    "steps_to_recovery": "first evaluation from which accuracy stays at 95 % of the trained model's",
    "loss_step": "T_loss: step at which 95 % of the loss gap between damaged and trained model is closed",
}


def measure(study: Study) -> Record:
    """Measure captures by the second recovery's own updates, beside those of a blind run."""
    second = second_recovery(study)
    reason = "the recovery has no momentum already" if second is None else second.curve.why_not_recovered
    if second is None or reason:
        return make_record(study, NAME, [Quantity("recovery_steps", None, "steps", reason=reason)], DEFINITIONS)
    m, end = study.settings.measurement, second.curve.n_steps
    site = CaptureSite(second, second.gram, study.streams, m.random_draws)
    quantities = [*step_counts(second.curve), *site_captures(site, [rank for rank in m.ranks if rank <= end])]
    if m.headline_rank <= end:
        quantities += window_captures(site, m.headline_rank)
    return make_record(study, NAME, quantities, DEFINITIONS)


def cost(settings: Settings, n_tasks: int) -> dict[str, float]:
    """Count the passes of the second recovery."""
    return {"recovery without momentum": recovery_passes(settings)}


MEASUREMENT = Measurement(NAME, measure, cost, extra_recoveries=1)
