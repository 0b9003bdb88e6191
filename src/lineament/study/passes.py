"""What stages cost, counted from the settings: examples that pass forward and backward once."""

from __future__ import annotations

from lineament.settings.settings import Settings
from lineament.study.horizon import evaluation_steps, recorded_steps
from lineament.study.study import EARLY_STEPS

# A Hessian-vector product costs about this many gradient passes over its batch; an evaluation a third of one.
HESSIAN_PASSES, FORWARD_PASSES = 2.0, 1 / 3


def operating_passes(settings: Settings) -> float:
    """Count the passes to the operating point: a given adapter is one, though from a known start a few are made."""
    steps = settings.operating.steps
    if settings.model.adapter:
        steps = min(EARLY_STEPS, steps) if settings.model.adapter_start else 0
    return float(steps * settings.operating.batch)


def damage_passes(settings: Settings) -> float:
    """Count the passes of damaging one target."""
    return float(settings.damage.steps * settings.damage.batch)


def recovery_passes(settings: Settings) -> float:
    """Count the passes of one recovery, evaluations included."""
    steps = settings.recovery.steps
    evaluations = len(evaluation_steps(steps)) * settings.task.evaluation_examples * FORWARD_PASSES
    return recorded_steps(steps) * settings.recovery.batch + evaluations
