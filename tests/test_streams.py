"""Named streams: independent, order-free, and without a trace in global random state."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lineament.streams import Streams

NAMES = st.lists(st.one_of(st.integers(0, 3), st.sampled_from(["0", "1", "a", "b", ""])), max_size=3).map(tuple)


def first_draws(streams: Streams, *names: str | int) -> tuple[float, ...]:
    return tuple(streams.generator(*names).standard_normal(4))


@given(NAMES, NAMES, st.integers(0, 5), st.integers(0, 5))
def test_streams_are_equal_only_for_equal_seed_and_path(first: tuple, second: tuple, a: int, b: int) -> None:
    same = (a, first) == (b, second)
    assert (first_draws(Streams(a), *first) == first_draws(Streams(b), *second)) == same
    assert (Streams(a).integer(*first) == Streams(b).integer(*second)) == same


def test_number_and_text_of_one_spelling_are_two_streams() -> None:
    assert first_draws(Streams(0), 1) != first_draws(Streams(0), "1")
    assert first_draws(Streams(0), "a", "b") != first_draws(Streams(0), "ab")
    assert first_draws(Streams(0), "a", "b") != first_draws(Streams(0), "b", "a")
    assert first_draws(Streams(12), 3) != first_draws(Streams(1), 23)


def test_a_child_is_a_prefix_of_the_path() -> None:
    assert first_draws(Streams(4).child("a", 1), "b") == first_draws(Streams(4), "a", 1, "b")


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    streams = Streams(3)
    alone = first_draws(Streams(3), "step", 7)
    for step in range(7):
        streams.generator("step", step).standard_normal(100)
    assert first_draws(streams, "step", 7) == alone


def test_neighbouring_streams_are_uncorrelated_standard_normals() -> None:
    """Peers reseed one generator per tensor and so give equal shapes equal noise."""
    n, size = 40, 2000
    draws = np.stack([Streams(0).generator("member", i).standard_normal(size) for i in range(n)])
    assert abs(draws.mean()) < 3 / np.sqrt(n * size)
    assert abs(draws.var() - 1) < 3 * np.sqrt(2 / (n * size))
    inner = (draws @ draws.T / size)[np.triu_indices(n, 1)]
    assert abs(inner.mean()) < 3 / np.sqrt(size * len(inner))
    assert np.abs(inner).max() < 4.5 / np.sqrt(size)


def test_integers_fit_a_seed_and_use_their_whole_range() -> None:
    numbers = np.array([Streams(0).integer("seed", i) for i in range(400)], dtype=float)
    assert numbers.min() >= 0
    assert numbers.max() < 2**63
    assert abs(numbers.mean() / 2**63 - 0.5) < 3 * np.sqrt(1 / 12 / 400)
    torch.manual_seed(Streams(0).integer("seed", 0))


def test_global_random_state_is_neither_read_nor_written() -> None:
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = first_draws(Streams(0), "x"), Streams(0).integer("x")
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    torch.manual_seed(2)
    random.seed(2)
    assert first == (first_draws(Streams(0), "x"), Streams(0).integer("x"))
