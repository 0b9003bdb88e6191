"""Cosines of mean rows: right values with honest errors, and nothing out of bounds on pure noise."""

from __future__ import annotations

import numpy as np
import pytest

from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.planes import plane_figures
from lineament.measurements.recording.staleness import WindowMeans, step_figures
from lineament.parameters import Space
from lineament.records import Quantity
from lineament.vectors.trajectory_gram import TrajectoryGram

N_PARAMS = 400


def gram_of(rows: np.ndarray) -> TrajectoryGram:
    return TrajectoryGram(rows @ rows.T, Space("full", rows.shape[1], "test"))


def noise(seed: int, n_rows: int = 120, n_params: int = N_PARAMS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, n_params))


def figures(rows: np.ndarray, *, independent: bool = True) -> list[Quantity]:
    run = MovingRows.of(gram_of(rows), range(1, len(rows) + 1), None, "rows")
    return step_figures(run, "gradients", AnalysisOptions(), independent=independent)


def test_on_pure_noise_nothing_leaves_its_bounds_and_nothing_is_corrected() -> None:
    """The figure that this replaces printed 7.75 and -12.46 here, over the root of two agreements above 0."""
    found = [figure for seed in range(40) for figure in figures(noise(seed))]
    raw = [figure for figure in found if figure.name == "direction_cosine"]
    corrected = [figure for figure in found if figure.name == "direction_cosine_corrected"]
    assert len(raw) == len(corrected) == 240
    assert max(abs(figure.value or 0) for figure in raw) < 5 / np.sqrt(N_PARAMS)
    assert [figure.value for figure in corrected if figure.value is not None] == []
    assert all("noise alone" in (figure.reason or "") for figure in corrected)


def test_rescaled_overlaps_of_pure_noise_are_left_out() -> None:
    """A lag with one pair of windows has no spread of its own, which had passed for an error of 0."""
    values = []
    for seed in range(10):
        found = plane_figures(gram_of(noise(seed)), "gradients", 1, 0, AnalysisOptions())
        rescaled = [figure for figure in found if figure.name == "plane_rescaled"]
        values += [figure.value for figure in rescaled if figure.value is not None]
        assert len(rescaled) > 5
    assert len(values) <= 2, values


@pytest.mark.parametrize("cosine", [1.0, 0.6, 0.0, -0.8])
def test_a_known_angle_is_found_again_within_its_error(cosine: float) -> None:
    """Means of two windows lie at a known angle, under noise that leaves the raw cosine about half of it."""
    first = np.zeros(N_PARAMS)
    first[0] = length = 4.0
    second = cosine * first + length * np.sqrt(1 - cosine**2) * np.eye(N_PARAMS)[1]
    errors, raw = [], []
    for seed in range(200):
        rows = noise(seed, 40)
        rows[:20] += first
        rows[20:] += second
        pair = WindowMeans.of(gram_of(rows), 20, 40, 20)
        found, plain = pair.corrected(), pair.cosine()
        if found.value is None:  # a window that happens to tell nothing
            continue
        assert found.stderr is not None
        assert plain.value is not None
        assert -1 <= found.value <= 1
        errors.append((found.value - cosine) / found.stderr)
        raw.append(plain.value)
    assert len(errors) > 150
    assert abs(np.mean(raw)) < 0.6 * abs(cosine) + 0.02
    inside = np.mean(np.abs(errors) < 1.96)
    assert inside > 0.88, inside
    assert abs(np.mean(errors)) < 0.5


def test_standard_errors_are_not_below_those_of_repeated_windows() -> None:
    direction = np.eye(N_PARAMS)[0] * 2.0
    made = [WindowMeans.of(gram_of(noise(seed, 40) + direction), 20, 40, 20).cosine() for seed in range(300)]
    spread = np.std([one.value for one in made if one.value is not None], ddof=1)
    stated = np.mean([one.stderr for one in made if one.stderr is not None])
    assert 0.95 * spread < stated < 1.5 * spread  # a jackknife is too wide where noise is most of a mean


def test_an_estimate_beyond_one_is_held_to_its_bound_and_says_so() -> None:
    rows = np.tile(np.eye(N_PARAMS)[0] * 5, (40, 1)) + 0.5 * noise(3, 40)
    found = [WindowMeans.of(gram_of(rows + 0.5 * noise(seed, 40)), 20, 40, 20).corrected() for seed in range(30)]
    beyond = [one for one in found if one.reason is not None]
    assert beyond
    assert all(one.value == 1 and "held to its bound" in str(one.reason) for one in beyond)


def test_rows_that_share_momentum_are_not_corrected() -> None:
    corrected = [f for f in figures(noise(0) + 1, independent=False) if f.name == "direction_cosine_corrected"]
    assert corrected
    assert all(figure.value is None and "momentum" in (figure.reason or "") for figure in corrected)


def test_a_constant_row_is_at_no_angle_to_itself() -> None:
    for figure in figures(np.ones((60, 5))):
        assert figure.value == pytest.approx(1)
