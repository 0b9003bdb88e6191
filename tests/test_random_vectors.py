"""The null of a composition keeps spectra and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composed import pair

from lineament import Streams, adapter_cosine, adapter_inner, adapter_norm, adapter_singular_values
from lineament.merging.random_vectors import with_random_vectors


def test_singular_values_stay_and_directions_do_not(tmp_path: Path) -> None:
    for adapter in pair("llama", tmp_path):
        drawn = with_random_vectors(adapter, Streams(0).generator("null"))
        assert list(drawn.factors) == list(adapter.factors)
        own, other = adapter_singular_values(adapter), adapter_singular_values(drawn)
        for module, values in own.items():
            torch.testing.assert_close(other[module], values, rtol=1e-9, atol=1e-12)
        assert adapter_norm(drawn) == pytest.approx(adapter_norm(adapter))


def test_cosines_of_draws_are_those_of_random_directions(tmp_path: Path) -> None:
    """The mean cosine is 0 and the mean square is 1 / (d_in d_out) per module, weighted by the singular values.

    For dW' = U' S V'^T with independent Haar U', V': E<dW, dW'>^2 = |dW|^4 / (d_in d_out), module by module.
    """
    adapter = pair("llama", tmp_path)[0]
    draws = [with_random_vectors(adapter, Streams(0).generator("null", i)) for i in range(400)]
    inner = torch.tensor([adapter_inner(adapter, draw) for draw in draws], dtype=torch.float64)
    parts = [(float(v.square().sum()), adapter.factors[m]) for m, v in adapter_singular_values(adapter).items()]
    expected = sum(s**2 / (f.a.shape[1] * f.b.shape[0]) for s, f in parts)
    error = inner.square().std() / len(inner) ** 0.5
    assert abs(float(inner.square().mean()) - expected) < 4 * float(error)
    assert abs(float(inner.mean())) < 4 * float(inner.std() / len(inner) ** 0.5)
    assert abs(adapter_cosine(draws[0], draws[1])) < 0.5


def test_draws_of_one_stream_are_equal(tmp_path: Path) -> None:
    adapter = pair("gpt2", tmp_path)[1]
    first, again, other = (with_random_vectors(adapter, Streams(s).generator("null")) for s in (0, 0, 1))
    assert torch.equal(first.theta(), again.theta())
    assert not torch.equal(first.theta(), other.theta())
