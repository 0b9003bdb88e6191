"""Overlaps of adapters against dense projectors, and their chance against random subspaces."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_adapters import made, of_matrices, regauged

from lineament import StoredAdapter, adapter_cosine, compare_adapters, read_adapter
from lineament.errors import InputError
from lineament.merging.overlaps import chance_edge, chance_overlap

Matrices = dict[str, np.ndarray]


def random_plane(dimension: int, rank: int, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(np.linalg.qr(generator.standard_normal((dimension, rank)))[0])


def projectors(dw: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Dense projectors on the leading left and right directions that hold a share of |dW|^2, and how many they are."""
    u, s, v = np.linalg.svd(dw)
    rank = int((np.cumsum(s**2) / np.sum(s**2) < share - 1e-9).sum()) + 1
    return u[:, :rank] @ u[:, :rank].T, v[:rank].T @ v[:rank], rank


@pytest.mark.parametrize("regauge", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_cosines_and_overlaps_are_those_of_dense_dw(share: float, regauge: bool, tmp_path: Path) -> None:
    first, one = made(tmp_path / "a", seed=1)
    second, other = made(tmp_path / "b", seed=2, r=3, use_rslora=True, target_modules=["q", "layers.1.v"])
    adapters = [read_adapter(first), read_adapter(second)]
    if regauge:
        adapters[1] = regauged(adapters[1])
    pair = compare_adapters(adapters, share).pairs[0, 1]
    assert [module.module for module in pair.modules] == [name for name in one if name in other]
    assert pair.alone == (1, 0)
    assert pair.cosine == pytest.approx(adapter_cosine(*adapters), abs=1e-9)
    for module in pair.modules:
        x, y = one[module.module], other[module.module]
        assert module.cosine == pytest.approx(np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-5)
        (left, right, k1), (other_left, other_right, k2) = projectors(x, share), projectors(y, share)
        assert module.ranks == (k1, k2)
        for found, p, q in ((module.left, left, other_left), (module.right, right, other_right)):
            assert found.value == pytest.approx(np.sum(p * q) / min(k1, k2), abs=1e-5)
            assert found.chance == pytest.approx(max(k1, k2) / len(p))


def test_an_adapter_overlaps_itself_whole_and_its_opposite_has_cosine_minus_one(tmp_path: Path) -> None:
    adapter = read_adapter(made(tmp_path / "a")[0])
    scales = {module: -2 * scale for module, scale in adapter.scales.items()}
    opposite = regauged(StoredAdapter(adapter.names, adapter.tensors, scales, adapter.config))
    found = compare_adapters([adapter, opposite])
    pair = found.pairs[0, 1]
    assert pair.cosine == pytest.approx(-1, abs=1e-9)
    for module in pair.modules:
        assert module.left.value == pytest.approx(1, abs=1e-9)
        assert module.right.value == pytest.approx(1, abs=1e-9)
    for shared in found.shared:
        assert shared.left.n_shared == shared.right.n_shared == shared.ranks[0]
        assert min(shared.left.energies) >= 0.9 - 1e-9


@pytest.mark.parametrize(("k1", "k2", "d"), [(1, 1, 8), (2, 5, 30), (4, 4, 12), (3, 9, 10), (5, 5, 5)])
def test_chance_is_that_of_random_subspaces(k1: int, k2: int, d: int) -> None:
    generator = np.random.default_rng(0)
    drawn = [
        np.sum((random_plane(d, k1, generator).T @ random_plane(d, k2, generator)) ** 2) / min(k1, k2)
        for _ in range(1500)
    ]
    mean, spread = chance_overlap(k1, k2, d)
    assert mean == pytest.approx(max(k1, k2) / d)
    assert abs(np.mean(drawn) - mean) <= 4 * spread / math.sqrt(1500) + 1e-12
    assert np.std(drawn) == pytest.approx(spread, rel=0.1, abs=1e-12)


def test_randomly_oriented_adapters_are_at_chance() -> None:
    generator, shapes = np.random.default_rng(1), {"a": (30, 40), "b": (60, 20), "c": (25, 25)}

    def drawn() -> StoredAdapter:
        return of_matrices(
            {
                name: random_plane(d_out, 3, generator) * [3.0, 2.0, 0.5] @ random_plane(d_in, 3, generator).T
                for name, (d_out, d_in) in shapes.items()
            }
        )

    pairs = [compare_adapters([drawn(), drawn()]).pairs[0, 1] for _ in range(150)]
    cosines, spreads = [pair.cosine or 0 for pair in pairs], [pair.cosine_spread or 0 for pair in pairs]
    assert abs(np.mean(cosines)) < 4 * spreads[0] / math.sqrt(150)
    assert np.std(cosines) == pytest.approx(spreads[0], rel=0.25)
    for side in ("left", "right"):
        means = [found for pair in pairs if (found := pair.mean(side))]
        deviations = [(found.value - found.chance) / found.spread for found in means]
        assert abs(np.mean(deviations)) < 4 / math.sqrt(150)
        assert np.std(deviations) == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize(("rank", "d", "count"), [(3, 100, 2), (4, 60, 3), (10, 40, 2), (2, 80, 6)])
def test_the_edge_of_the_mean_projector_is_that_of_random_subspaces(rank: int, d: int, count: int) -> None:
    generator, edge, largest = np.random.default_rng(2), chance_edge(rank, d, count), []
    for _ in range(60):
        planes = [random_plane(d, rank, generator) for _ in range(count)]
        largest.append(np.linalg.eigvalsh(sum(p @ p.T for p in planes) / count)[-1])
    assert np.mean(largest) == pytest.approx(edge, abs=0.06)
    assert np.mean(largest) <= edge + 0.02
    assert np.mean(np.array(largest) >= (1 + edge) / 2) < 0.02  # nothing is shared by chance


def test_the_edge_where_subspaces_must_meet() -> None:
    generator = np.random.default_rng(0)
    for rank, d, count in [(5, 8, 2), (8, 8, 3), (7, 8, 4)]:
        planes = [random_plane(d, rank, generator) for _ in range(count)]
        assert np.linalg.eigvalsh(sum(p @ p.T for p in planes) / count)[-1] == pytest.approx(1)
        assert chance_edge(rank, d, count) == 1
    assert chance_edge(3, 8, 2) == pytest.approx((1 + 2 * math.sqrt(3 / 8 * 5 / 8)) / 2)


def planted(generator: np.random.Generator, shared_left: np.ndarray, n_own: int, d_in: int) -> np.ndarray:
    """dW whose left subspace holds `shared_left`, in a place of its own on the right."""
    own = random_plane(len(shared_left), n_own, generator)
    left = np.concatenate([shared_left, own - shared_left @ (shared_left.T @ own)], axis=1)
    return np.asarray(left @ random_plane(d_in, left.shape[1], generator).T)


def test_directions_that_all_share_are_found_with_their_energy() -> None:
    generator = np.random.default_rng(3)
    common = random_plane(80, 2, generator)
    adapters = [of_matrices({"x": planted(generator, common, 3, 90)}) for _ in range(4)]
    (module,) = compare_adapters(adapters, 1.0).shared
    assert module.ranks == (5,) * 4
    assert module.left.n_shared == 2
    assert module.left.largest == pytest.approx(1)
    assert module.right.n_shared == 0
    assert module.right.energies == (0.0,) * 4
    for energy, adapter in zip(module.left.energies, adapters, strict=True):
        dw = (adapter.tensors[1] @ adapter.tensors[0]).numpy()
        assert energy == pytest.approx(np.sum((common.T @ dw) ** 2) / np.sum(dw**2), abs=1e-6)


def test_what_all_but_one_share_is_no_more_than_the_smallest_holds() -> None:
    generator = np.random.default_rng(5)
    common = random_plane(80, 2, generator)
    adapters = [of_matrices({"x": planted(generator, common[:, : 1 + (i > 0)], 0, 90)}) for i in range(5)]
    (module,) = compare_adapters(adapters, 1.0).shared
    assert module.ranks == (1, 2, 2, 2, 2)
    assert module.left.n_shared == 1
    assert module.left.energies[0] == pytest.approx(1)


def test_modules_of_zeros_are_in_no_pair() -> None:
    one, zero = np.ones((4, 5)), np.zeros((4, 5))
    found = compare_adapters([of_matrices({"x": one, "y": one}), of_matrices({"x": one, "y": zero})])
    assert [module.module for module in found.pairs[0, 1].modules] == ["x"]
    assert [module.module for module in found.shared] == ["x"]
    apart = compare_adapters([of_matrices({"a.q": one}), of_matrices({"a.up": one})]).pairs[0, 1]
    assert (apart.cosine, apart.modules, apart.alone, apart.mean("right")) == (0, (), (1, 1), None)
    nothing = compare_adapters([of_matrices({"x": one}), of_matrices({"x": zero})]).pairs[0, 1]
    assert nothing.cosine is nothing.cosine_spread is nothing.mean("left") is None


def test_the_same_start_of_a_is_seen_and_another_is_not(tmp_path: Path) -> None:
    """Two trainings from one random A, and a third from another one."""
    first, second, third = (read_adapter(made(tmp_path / str(i), seed=seed)[0]) for i, seed in enumerate((1, 1, 2)))
    generator = torch.Generator().manual_seed(0)
    moved = tuple(
        t + 0.3 * t.std() * torch.randn(t.shape, generator=generator) if i % 2 == 0 else -t
        for i, t in enumerate(second.tensors)
    )
    found = compare_adapters([first, StoredAdapter(second.names, moved, second.scales, second.config), third])
    assert found.pairs[0, 1].same_start
    assert found.pairs[0, 1].cosine_of_a == pytest.approx(1 / math.sqrt(1.09), abs=0.05)
    assert abs(found.pairs[0, 2].cosine_of_a or 0) < 0.35  # of 128 entries, by chance 0 +- 0.09
    other_rank = read_adapter(made(tmp_path / "rank", r=3)[0])
    assert compare_adapters([first, other_rank]).pairs[0, 1].cosine_of_a is None
    assert not compare_adapters([first, other_rank]).pairs[0, 1].same_start
    assert len(repr(found)) + len(repr(found.pairs[0, 1])) < 300


def test_what_cannot_be_compared_is_refused() -> None:
    one = of_matrices({"layers.0.q": np.ones((4, 5))})
    with pytest.raises(InputError, match="two are the fewest"):
        compare_adapters([one])
    with pytest.raises(InputError, match="above 0 and at most 1"):
        compare_adapters([one, one], 0.0)
    with pytest.raises(InputError, match="modules by other paths"):
        compare_adapters([one, of_matrices({"h.0.q": np.ones((4, 5))})])
    with pytest.raises(InputError, match="base models differ"):
        compare_adapters([one, of_matrices({"layers.0.q": np.ones((4, 6))})])
