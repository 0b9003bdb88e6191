"""Retention of recorded gradients: right values, and that it is not the overlap of planes."""

from __future__ import annotations

import numpy as np
import pytest

from lineament.claims.advice import advise
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.planes import plane_figures
from lineament.measurements.recording.retention import compared, retention_figures
from lineament.parameters import Space
from lineament.records import Quantity, Record
from lineament.vectors.trajectory_gram import TrajectoryGram


def run_of(rows: np.ndarray, every: int = 1) -> MovingRows:
    gram = TrajectoryGram(rows @ rows.T, Space("full", rows.shape[1], "test"))
    return MovingRows.of(gram, [every * (row + 1) for row in range(len(rows))], None, "rows")


def turning(n_rows: int, rate: float) -> np.ndarray:
    """Rows that turn by `rate` radians a step in a plane of a space of 1000 dimensions."""
    rows = np.zeros((n_rows, 1000))
    rows[:, 0], rows[:, 1] = np.cos(rate * np.arange(n_rows)), np.sin(rate * np.arange(n_rows))
    return rows


def one(figures: list[Quantity], name: str, **labels: object) -> Quantity:
    return next(figure for figure in figures if figure.matches(name, **labels))  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "angle"), [(0.9, np.arccos(np.sqrt(0.9))), (0.5, np.pi / 4)])
@pytest.mark.parametrize("every", [1, 5])
def test_a_direction_that_turns_evenly_falls_to_a_share_at_its_angle(share: float, angle: float, every: int) -> None:
    """What is held of a turned direction is cos^2 of the angle: 0.9 at 18 degrees, 0.5 at 45."""
    rate = np.pi / 4 / 100
    figures = retention_figures(run_of(turning(400, rate), every), AnalysisOptions(window=4, plane_rank=1))
    found = one(figures, "refresh_lag", share=share, **{"from": "all"})
    assert found.value == pytest.approx(every * angle / rate, rel=0.03)
    assert found.stderr == pytest.approx(0, abs=every)


def test_it_is_the_share_of_energy_that_numpy_finds() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 30)) + np.linspace(0, 3, 60)[:, None] * np.eye(30)[0]
    options = AnalysisOptions(window=10, plane_rank=2)
    for pair in compared(run_of(rows).gram, options)[:12]:
        later = pair.start + pair.lag
        planes = {
            at: [np.linalg.svd(rows[at + off : at + 10 : 2], full_matrices=False)[2][:2] for off in (0, 1)]
            for at in (pair.start, later)
        }

        def held(plane: np.ndarray, some: np.ndarray) -> float:
            return float(np.square(some @ plane.T).sum() / np.square(some).sum())

        window = rows[later : later + 10]
        assert pair.retained == pytest.approx(np.mean([held(plane, window) for plane in planes[pair.start]]))
        fresh = [held(planes[later][0], window[1::2]), held(planes[later][1], window[::2])]
        assert pair.fresh == pytest.approx(np.mean(fresh))


def test_planes_halve_their_overlap_while_they_hold_nearly_everything() -> None:
    """Steady strong gradients with weak turning ones: after the half-life of the overlap little is lost."""
    generator, n_rows = np.random.default_rng(0), 300
    rows = 0.02 * generator.standard_normal((n_rows, 400))
    rows[:, 0] += 3.0 * generator.choice([-1, 1], n_rows)
    angles = np.pi / 2 / 150 * np.arange(n_rows)  # at right angles after half of the run
    for pair in range(4):
        strength = generator.standard_normal(n_rows)
        rows[:, 1 + 2 * pair] += strength * np.cos(angles)
        rows[:, 2 + 2 * pair] += strength * np.sin(angles)
    run, options = run_of(rows), AnalysisOptions(window=20, plane_rank=5)
    life = one(plane_figures(run.gram, "gradients", 1, 0, options), "plane_half_life", **{"from": "all"})
    figures = retention_figures(run, options)
    assert life.value is not None
    assert 60 < life.value < 110
    half = one(figures, "refresh_lag", share=0.5, **{"from": "all"})
    assert half.value is None
    assert "does not cross" in (half.reason or "")
    shares = [f.value or 0 for f in figures if f.name == "retention_share" and f.labels["lag"] >= 130]
    assert min(shares) > 0.6  # 9 of 13 parts of the energy stand still


def test_on_pure_noise_nothing_is_left_and_nothing_leaves_its_bounds() -> None:
    for seed in range(5):
        rows = np.random.default_rng(seed).standard_normal((120, 400))
        figures = retention_figures(run_of(rows), AnalysisOptions())
        kept = [f.value for f in figures if f.name == "retention" and f.value is not None]
        assert kept
        assert max(kept) < 0.05
        assert min(kept) >= 0
        shares = [f for f in figures if f.name == "retention_share"]
        assert np.mean([f.value is None for f in shares]) > 0.9
        assert one(figures, "refresh_lag", share=0.5, **{"from": "all"}).value is None


def test_advice_on_refreshing_comes_from_retention_and_says_that_it_is_untested() -> None:
    figures = retention_figures(run_of(turning(400, np.pi / 400)), AnalysisOptions(window=4, plane_rank=1))
    record = Record(
        measurement="recording",
        target="turning",
        seed=0,
        problem="recording",
        model="none",
        space="full",
        n_params=1000,
        config_hash="",
        quantities=tuple(figures),
        definitions={},
    )
    lines = [line for line in advise([record]) if "refresh" in line.text]
    assert [line.figure.partition("(")[0] for line in lines] == ["refresh_lag", "refresh_lag"]
    assert all(line.standing == "untested" and "200" in line.text for line in lines)
    assert [line.value for line in lines] == pytest.approx([41, 100], rel=0.03)
    assert all(line.interval == "within the run" for line in lines)
