"""Intervals over seeds against scipy's closed form and against their own promise of coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from lineament.claims.intervals import over_seeds, paired

VALUES = st.lists(st.floats(-100, 100), min_size=3, max_size=9)


@given(VALUES, st.sampled_from([0.5, 0.9, 0.95]))
def test_student_interval_equals_the_closed_form(values: list[float], level: float) -> None:
    found = over_seeds(values, level=level)
    true = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values) or 1e-300)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(true, rel=1e-9, abs=1e-9)
    assert (found.n_seeds, found.level) == (len(values), level)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9))
def test_interval_of_a_fraction_stays_inside(values: list[float]) -> None:
    found = over_seeds(values, fraction=True)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_interval_of_a_fraction_is_the_students_on_logits() -> None:
    values = [0.2, 0.35, 0.5, 0.9]
    plain, found = over_seeds(list(special.logit(values))), over_seeds(values, fraction=True)
    assert found.low == pytest.approx(special.expit(plain.low))
    assert found.high == pytest.approx(special.expit(plain.high))
    assert found.mean == pytest.approx(special.expit(plain.mean))


def test_whole_fractions_give_a_finite_interval() -> None:
    found = over_seeds([0.0, 0.0, 1.0, 1.0], fraction=True)
    assert found.low == pytest.approx(0, abs=1e-5)
    assert found.high == pytest.approx(1, abs=1e-5)
    assert over_seeds([1.0, 1.0, 1.0], fraction=True).low == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("fraction", [True, False])
def test_one_seed_has_no_interval(fraction: bool) -> None:
    found = over_seeds([0.4], fraction=fraction)
    assert (found.mean, found.low, found.high, found.n_seeds) == (0.4, None, None, 1)


@pytest.mark.parametrize("fraction", [True, False])
def test_two_seeds_have_their_two_values_and_no_interval(fraction: bool) -> None:
    found = over_seeds([0.4, 0.6], fraction=fraction)
    assert (found.low, found.high, found.pair, found.n_seeds) == (None, None, (0.4, 0.6), 2)
    assert found.mean == pytest.approx(0.5)


def test_pairing_takes_differences_seed_by_seed() -> None:
    first, second = [1.0, 5.0, 9.0], [0.5, 4.375, 8.5]
    assert paired(first, second) == over_seeds([0.5, 0.625, 0.5])
    assert paired(first, second).low > 0 > over_seeds(first).low
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("n_seeds", [3, 5, 8])
@pytest.mark.parametrize("fraction", [True, False])
def test_coverage_is_what_it_says(n_seeds: int, fraction: bool) -> None:
    """Normal data (logit-normal for fractions): the true centre is inside in 95 % of runs, within 3 standard errors."""
    n_runs, centre = 1500, 0.7
    draws = np.random.default_rng(n_seeds).normal(centre, 1.3, size=(n_runs, n_seeds))
    truth = special.expit(centre) if fraction else centre
    data = special.expit(draws) if fraction else draws
    inside = 0
    for row in data:
        found = over_seeds(list(row), fraction=fraction)
        inside += found.low <= truth <= found.high
    assert abs(inside / n_runs - 0.95) < 3 * np.sqrt(0.95 * 0.05 / n_runs)
