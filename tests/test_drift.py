"""Drift and retention of gradient planes: dense gradients of a real study, closed forms, and honest standard errors."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_measurements import make_study

from lineament.bases import Basis, from_vectors
from lineament.measurements import basis_drift
from lineament.measurements.crossings import crossing
from lineament.measurements.gradient_planes import PARTS, Compared, jackknife, off_diagonal, retained
from lineament.parameters import Space, Vectors
from lineament.records import Record
from lineament.study.study import Study

DAMAGED = {"from": "broken"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = make_study(tmp_path_factory.mktemp("study"))
    assert made.curve.recovered_at is not None
    return made


@pytest.fixture(scope="module")
def drift(study: Study) -> Record:
    return basis_drift.measure(study)


def dense_gradients(study: Study, task: str, time: int, part: int) -> np.ndarray:
    m = study.settings.measurement
    batch = study.gradient_batch(task, m.drift_gradients, m.minibatch, f"drift {time} {part}")
    with study.problem.parameters.temporarily(study.trajectory.position(time)):
        return np.asarray(oracles.dense_gradients(study.problem, batch, m.minibatch))


def dense_plane(study: Study, rows: np.ndarray) -> np.ndarray:
    return np.linalg.svd(rows, full_matrices=False)[2][: study.settings.measurement.drift_rank].T


def test_overlap_ceiling_and_retention_are_those_of_dense_gradients(study: Study, drift: Record) -> None:
    lag = basis_drift.claim_lags(study.recovered_at)[-1]
    rows = {time: [dense_gradients(study, "copy", time, part) for part in range(PARTS)] for time in (0, lag)}
    first, second = ([dense_plane(study, own) for own in rows[time]] for time in (0, lag))
    crossed = [oracles.dense_overlap(first[i], second[j]) for i, j in permutations(range(PARTS), 2)]
    halves = [np.mean([oracles.dense_overlap(a, b) for a, b in combinations(p, 2)]) for p in (first, second)]
    ceiling = float(np.sqrt(halves[0] * halves[1]))
    labels = {**DAMAGED, "lag": lag}
    assert drift.value("overlap", **labels) == pytest.approx(np.mean(crossed), abs=1e-3)
    assert drift.value("ceiling", **labels) == pytest.approx(ceiling, abs=1e-3)

    def held(planes: list[np.ndarray]) -> float:
        pairs = permutations(range(PARTS), 2)
        return float(
            np.mean([np.square(rows[lag][j] @ planes[i]).sum() / np.square(rows[lag][j]).sum() for i, j in pairs])
        )

    (retention,) = drift.select("retention", **labels)
    assert retention.value == pytest.approx(held(first), abs=1e-3)
    assert retention.ceiling == pytest.approx(held(second), abs=1e-3)
    share = drift.value(
        "retention_share", **labels
    )  # None where so few gradients tell no fresh plane from a random one
    assert share is None or share == pytest.approx(held(first) / held(second), abs=2e-3)


def test_the_claim_is_the_mean_over_its_lags(study: Study, drift: Record) -> None:
    lags = basis_drift.claim_lags(study.recovered_at)
    assert [lag / study.recovered_at for lag in lags] == pytest.approx([0.25, 0.375, 0.5], abs=0.01)
    shares = [drift.value("retention_share", **DAMAGED, lag=lag) for lag in lags]
    expected = None if None in shares else pytest.approx(np.mean([share for share in shares if share is not None]))
    assert drift.value("retention_at_claim_lags", **DAMAGED) == expected


def test_the_null_is_of_another_task_at_the_point_it_stands_beside(study: Study, drift: Record) -> None:
    for side, time in (("broken", 0), ("recovered", study.recovered_at)):
        target = [dense_gradients(study, "copy", time, part) for part in range(PARTS)]
        others = [task for task in study.problem.tasks if task != "copy"]
        planes = [dense_plane(study, dense_gradients(study, task, time, 0)) for task in others]
        expected = np.mean([np.square(g @ u).sum() / np.square(g).sum() for u in planes for g in target])
        nulls = {q.null for q in drift.select("retention", **{"from": side})}
        assert len(nulls) == 1
        assert nulls.pop() == pytest.approx(expected, abs=1e-3)


def test_distances_are_those_of_the_recorded_points(study: Study, drift: Record) -> None:
    for quantity in drift.select("overlap", **DAMAGED):
        moved = study.trajectory.position(int(quantity.labels["lag"])) - study.trajectory.position(0)
        assert quantity.labels["distance"] == pytest.approx(float(moved.norm()), rel=1e-4)


def test_windows_share_neither_updates_nor_momentum_and_stand_beside_blind_ones(study: Study, drift: Record) -> None:
    shortest = 10 + 3 / (1 - study.settings.recovery.momentum)
    windows = list(drift.select("window_overlap"))
    assert windows
    for quantity in windows:
        assert float(quantity.labels["lag"]) >= shortest
        assert quantity.blind is not None
        assert quantity.blind < 0.02


def test_a_plane_that_turns_away_from_weak_gradients_keeps_nearly_all_energy() -> None:
    """Strong steady gradients and weak turning ones: overlap halves, retention does not."""
    space = Space("full", 40, "drawn")
    rows = np.zeros((2, 40))
    rows[0, 0], rows[1, 1] = 10.0, 1.0
    plane = from_vectors(Vectors(torch.from_numpy(rows), space), "old")
    later = np.zeros((2, 40))
    later[0, 0], later[1, 2] = 10.0, 1.0
    share = retained([plane], [Vectors(torch.from_numpy(later), space)])
    assert share[0, 0] == pytest.approx(100 / 101)


def test_zero_gradients_have_no_retention() -> None:
    space = Space("full", 4, "drawn")
    plane = Basis(torch.eye(4, 2, dtype=torch.float64), space, "plane")
    assert np.isnan(retained([plane], [Vectors(torch.zeros(3, 4), space)])).all()


def test_jackknifed_errors_cover_where_the_spread_of_pairs_does_not() -> None:
    """Pairs of three sets share sets: h_ij = a_i + a_j + noise, whose mean has a known standard error."""
    generator, naive, honest = np.random.default_rng(0), [], []
    means = []
    for _ in range(4000):
        a = generator.standard_normal(PARTS)
        table = a[:, None] + a[None, :]
        value, error = jackknife(lambda kept, table=table: off_diagonal(table, kept))
        pairs = [table[i, j] for i, j in permutations(range(PARTS), 2)]
        means.append(value)
        honest.append(error**2)
        naive.append(np.var(pairs, ddof=1) / len(pairs))
    truth = np.var(means)
    assert np.mean(honest) == pytest.approx(truth, rel=0.1)
    assert np.mean(naive) < 0.3 * truth


@given(st.floats(1, 200))
def test_half_life_of_an_exponential(life: float) -> None:
    lags = np.arange(1.0, 601.0)
    assert crossing(lags, 0.5 ** (lags / life)) == pytest.approx(life, abs=0.1)
    assert crossing(lags, 0.5 ** (lags / life), 0.9) == pytest.approx(life * np.log2(1 / 0.9), abs=0.1)


def test_crossings_survive_noise_above_one_and_rises() -> None:
    lags = np.array([1.0, 2.0, 5.0, 10.0, 20.0])
    # the fit at 5 and 10 is 0.95 and 0.45
    assert crossing(lags, np.array([1.1, 0.9, 1.0, 0.4, 0.5])) == pytest.approx(9.5)
    assert crossing(lags, np.array([0.9, 0.8, 0.9, 0.7, 0.6])) is None


def comparison(overlap: float, within: np.ndarray) -> Compared:
    crossed = np.full((PARTS, PARTS), overlap)
    return Compared(crossed, within, within, crossed, within, 10.0, 50.0)


def test_rescaling_is_undefined_when_the_ceiling_is_no_higher_than_the_floor() -> None:
    noisy = np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 0.1], [0.3, 0.1, 1.0]])
    assert comparison(0.1, noisy).rescaled(0.05) is None
    steady = np.full((PARTS, PARTS), 0.6)
    assert comparison(0.3, steady).rescaled(0.1) == pytest.approx(0.4)
