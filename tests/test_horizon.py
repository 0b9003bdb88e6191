"""When a recovery is judged: a fixed T, T_loss, and which tasks decide anything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineament.study.horizon import (
    RecoveryCurve,
    evaluation_steps,
    loss_step,
    recorded_steps,
    steps_to_recovery,
    why_not_a_task,
)


@given(st.integers(1, 3000))
def test_about_twenty_evaluations_with_the_ends_among_them(n_steps: int) -> None:
    steps = evaluation_steps(n_steps)
    assert steps == sorted(set(steps))
    assert {0, n_steps, recorded_steps(n_steps)} <= set(steps)
    assert len(steps) <= 52  # T = 39 is evaluated at every step
    assert steps[-1] == recorded_steps(n_steps) >= 1.2 * n_steps


def test_recovery_counts_from_where_accuracy_stays() -> None:
    steps = [0, 5, 10, 15, 20]
    assert steps_to_recovery(steps, [0.1, 0.96, 0.5, 0.95, 0.99], 0.95) == 15
    assert steps_to_recovery(steps, [0.1, 0.96, 0.5, 0.95, 0.94], 0.95) is None
    assert steps_to_recovery(steps, [0.1, 0.5, 0.5, 0.5, 0.5], 0.475) == 5


def test_loss_step_of_an_exponential_is_its_time_constant() -> None:
    steps = list(range(0, 401))
    losses = [0.5 + 2.0 * float(np.exp(-step / 40)) for step in steps]
    assert loss_step(steps, losses, 0.5) == int(np.ceil(40 * np.log(20)))
    coarse = steps[::10]
    assert abs(loss_step(coarse, losses[::10], 0.5) - 40 * np.log(20)) < 2  # type: ignore[operator]


def test_no_loss_step_without_a_gap_or_before_it_closes() -> None:
    assert loss_step([0, 10], [1.0, 0.9], 1.0) is None
    assert loss_step([0, 10], [1.0, 0.9], 0.0) is None
    assert loss_step([0, 10], [1.0, 0.0], 0.0) == 10


@pytest.mark.parametrize(
    ("trained", "damaged", "words"),
    [(0.84, 0.1, "not learned"), (0.95, 0.66, "not lost"), (0.85, 0.55, None), (1.0, 0.0, None)],
)
def test_a_task_must_be_learned_and_lost(trained: float, damaged: float, words: str | None) -> None:
    reason = why_not_a_task(trained, damaged)
    assert (reason is None) == (words is None)
    assert words is None or words in str(reason)


def curve(steps: list[int], losses: list[float], accuracies: list[float]) -> RecoveryCurve:
    return RecoveryCurve(steps[-1], tuple(steps), tuple(losses), tuple(accuracies), (), 0.0, 1.0, 0.95)


def test_a_run_is_recovered_at_its_last_step_or_not_at_all() -> None:
    assert curve([0, 60, 120], [1, 0.1, 0.0], [0.1, 0.2, 0.95]).recovered_at == 120
    lost = curve([0, 60, 120], [1, 0.1, 0.0], [0.1, 0.99, 0.94])
    assert lost.recovered_at is None
    assert "T = 120" in str(lost.why_not_recovered)


def test_losses_between_evaluations_are_linear() -> None:
    found = curve([0, 10, 20], [2.0, 1.0, 0.0], [0.0, 0.5, 1.0])
    assert found.loss_at(15) == 0.5
    assert found.loss_step == 19
    assert found.steps_to_recovery == 20
