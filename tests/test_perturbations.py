"""Perturbations by number: the same anywhere, independent between tensors and members, of the variance they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems_table import CASES
from torch import nn

from lineament.bases import random_basis
from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.population.members import BasisMembers, GaussianMembers, LowRankMembers, normal_coefficients
from lineament.streams import Streams


def twins(n: int = 40) -> ParameterSpace:
    """A space of two tensors of equal shape."""
    module = nn.ParameterDict({"a": nn.Parameter(torch.zeros(n, n)), "b": nn.Parameter(torch.zeros(n, n))})
    return ParameterSpace.trainable(module)


def test_a_member_depends_on_its_number_alone() -> None:
    space, streams = twins(), Streams(3).child("run")
    many = GaussianMembers(space, streams, range(10), 0.5).deltas(0, 10)
    alone = GaussianMembers(space, streams, [7], 0.5).deltas(0, 1)[0]
    assert torch.equal(many[7], alone)
    assert not torch.equal(GaussianMembers(space, Streams(4).child("run"), [7], 0.5).deltas(0, 1)[0], alone)
    assert torch.equal(GaussianMembers(space, streams, range(10), 0.5).deltas(4, 8), many[4:8])


def test_tensors_of_equal_shape_get_independent_noise() -> None:
    """Defect of peers: a generator seeded anew for each tensor gives equal shapes the same noise."""
    space, n = twins(), 200
    rows = GaussianMembers(space, Streams(0), range(n), 1.0).deltas(0, n).double()
    first, second = rows[:, space.slices[0]], rows[:, space.slices[1]]
    correlations = (first * second).mean(dim=1)  # n independent means of 1600 products of unit variance
    assert abs(float(correlations.mean())) < 4 / np.sqrt(n * 1600)
    # The gain's spread is sigma sqrt(sum |g_l|^2), not sigma |sum g_l|: for g_a = -g_b the latter would be 0.
    gains = first.sum(dim=1) - second.sum(dim=1)
    assert float(gains.std()) == pytest.approx(np.sqrt(3200), rel=4 / np.sqrt(2 * n))


def test_noise_is_standard_normal_times_sigma() -> None:
    rows = GaussianMembers(twins(), Streams(0), range(50), 0.25).deltas(0, 50).double().flatten() / 0.25
    n = len(rows)
    assert abs(float(rows.mean())) < 4 / np.sqrt(n)
    assert abs(float(rows.square().mean()) - 1) < 4 * np.sqrt(2 / n)
    assert abs(float(rows.pow(4).mean()) - 3) < 4 * np.sqrt(96 / n)


def test_antithetic_members_are_opposite_and_pairs_independent() -> None:
    rows = GaussianMembers(twins(), Streams(0), range(6), 1.0, antithetic=True).deltas(0, 6)
    assert torch.equal(rows[0], -rows[1])
    assert torch.equal(rows[4], -rows[5])
    assert abs(float(rows[0] @ rows[2]) / 3200) < 0.1
    coefficients = normal_coefficients(Streams(0), range(6), 4, 2.0, antithetic=True)
    assert np.array_equal(coefficients[2], -coefficients[3])


def test_members_of_a_basis_are_its_combinations() -> None:
    space = twins(6)
    basis = random_basis(space.space, 5, np.random.default_rng(0))
    c = normal_coefficients(Streams(1), range(8), 5, 0.1)
    deltas = BasisMembers(basis, c).deltas(2, 6).double()
    assert torch.allclose(deltas, torch.from_numpy(c[2:6]) @ basis.columns.T, atol=1e-7)
    assert np.array_equal(normal_coefficients(Streams(1), [6], 5, 0.1)[0], c[6])


def test_low_rank_noise_has_the_rank_and_the_variance_that_it_says() -> None:
    """Defect of a peer: `low-rank` noise that is dense."""
    space, n = twins(20), 400
    members = LowRankMembers(space, Streams(0), range(n), 0.5, rank=2)
    rows = members.deltas(0, n).double()
    matrices = rows[:, space.slices[0]].view(n, 20, 20)
    assert int(torch.linalg.matrix_rank(matrices[0], rtol=1e-5)) == 2
    gradient = torch.from_numpy(np.random.default_rng(0).standard_normal(space.n_params))
    gains = rows @ gradient
    assert float(gains.std() / (0.5 * gradient.norm())) == pytest.approx(1, abs=5 / np.sqrt(n))
    left, right = members.factors("a", 3, 4)
    assert torch.allclose((left @ right)[0].double(), matrices[3], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma"):
        GaussianMembers(twins(3), Streams(0), range(2), sigma)


def test_bad_sizes_and_spaces_are_refused() -> None:
    space = twins(3)
    with pytest.raises(InputError, match="at least 1 member"):
        GaussianMembers(space, Streams(0), [], 1.0)
    with pytest.raises(InputError, match="rank of low-rank noise is 0"):
        LowRankMembers(space, Streams(0), [0], 1.0, rank=0)
    with pytest.raises(InputError, match="whole weight matrices"):
        LowRankMembers(CASES["transformer_lora"].make().parameters, Streams(0), [0], 1.0)
    basis = random_basis(space.space, 2, np.random.default_rng(0))
    with pytest.raises(InputError, match="coefficients"):
        BasisMembers(basis, np.zeros((3, 4)))
