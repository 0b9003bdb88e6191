"""Spectra of adapters against dense dW, and the law of random factors against draws of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_adapters import made, regauged

from lineament import StoredAdapter, read_adapter
from lineament.errors import InputError
from lineament.merging.random_factors import FEWEST_VALUES, random_factors
from lineament.merging.spectra import adapter_spectrum, decompose
from lineament.vectors.spectrum import rank_for_share

SHAPES = [(64, 8, 64), (512, 16, 2048), (24, 12, 24), (10, 4, 3), (3, 5, 6), (400, 64, 400)]


def stored(tmp_path: Path, **config: object) -> tuple[StoredAdapter, dict[str, np.ndarray]]:
    """A random adapter of PEFT as it is read, and PEFT's own dW of every module."""
    folder, dense = made(tmp_path / "adapter", **config)  # type: ignore[arg-type]
    return read_adapter(folder), dense


@pytest.mark.parametrize("regauge", [False, True])
@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"r": 9}, {"rank_pattern": {"v": 2}}])
def test_every_figure_is_that_of_pefts_own_dense_dw(config: dict[str, object], regauge: bool, tmp_path: Path) -> None:
    adapter, dense = stored(tmp_path, **config)
    spectrum = adapter_spectrum(regauged(adapter) if regauge else adapter)
    assert [module.module for module in spectrum.modules] == list(dense)
    total = sum(float(np.square(dw).sum()) for dw in dense.values())
    assert spectrum.norm == pytest.approx(np.sqrt(total), rel=1e-6)
    for module in spectrum.modules:
        exact = np.linalg.svd(dense[module.module], compute_uv=False)
        assert (module.d_out, module.d_in) == dense[module.module].shape
        assert np.allclose(module.values, exact[: len(module.values)], rtol=1e-5, atol=1e-6 * exact[0])
        assert module.norm == pytest.approx(np.linalg.norm(exact), rel=1e-6)
        energies = np.square(exact)
        assert module.participation == pytest.approx(energies.sum() ** 2 / np.square(energies).sum(), rel=1e-5)
        for share in (0.5, 0.9, 0.99):
            held = np.cumsum(energies) / energies.sum()
            assert module.rank(share) == int((held < share).sum()) + 1
        for rank in range(6):
            u, s, v = np.linalg.svd(dense[module.module], full_matrices=False)
            left_out = dense[module.module] - (u[:, :rank] * s[:rank]) @ v[:rank]
            assert module.tail(rank) == pytest.approx(np.square(left_out).sum(), rel=1e-4, abs=1e-9 * total)
    tails = sum(module.tail(2) for module in spectrum.modules)
    assert spectrum.truncation_error(2) == pytest.approx(np.sqrt(tails / total), rel=1e-5)
    needed = spectrum.rank(0.9)
    assert spectrum.truncation_error(needed) <= np.sqrt(0.1) + 1e-9 < spectrum.truncation_error(needed - 1)


def test_a_decomposition_is_of_dw_with_orthonormal_sides(tmp_path: Path) -> None:
    adapter, dense = stored(tmp_path, r=9)
    for (module, factors), dw in zip(adapter.factors.items(), dense.values(), strict=True):
        found = decompose(factors)
        assert len(found.values) == min(9, *dw.shape), module
        assert np.allclose((found.left * found.values @ found.right.T).numpy(), dw, atol=1e-6)
        for side in (found.left, found.right):
            assert torch.allclose(side.T @ side, torch.eye(side.shape[1], dtype=torch.float64), atol=1e-12)


def test_modules_that_did_not_move_are_counted_in_nothing(tmp_path: Path) -> None:
    adapter, _ = stored(tmp_path, init_lora_weights=True)
    spectrum = adapter_spectrum(adapter)
    assert spectrum.norm == 0
    assert spectrum.moved == ()
    assert spectrum.used(0.9) is spectrum.share_above_floor is spectrum.mean(lambda module: module.floor) is None
    assert np.isnan(spectrum.truncation_error(1))
    assert [module.floor for module in spectrum.modules] == [None] * 4
    assert [module.rank(0.9) for module in spectrum.modules] == [0] * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_factors_that_are_not_finite_are_refused_by_module(bad: float, tmp_path: Path) -> None:
    adapter, _ = stored(tmp_path)
    adapter.tensors[2][0, 0] = bad
    with pytest.raises(InputError, match=r"layers\.0\.v has factors that are NaN or infinite"):
        adapter_spectrum(adapter)


def draws(d_out: int, rank: int, d_in: int, n: int, seed: int = 0) -> np.ndarray:
    """Singular values of B A for Gaussian factors, over sqrt(d_out d_in), (n, n_values)."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(n):
        left, right = (np.linalg.qr(generator.standard_normal((d, rank)), mode="r") for d in (d_out, d_in))
        found.append(np.linalg.svd(left @ right.T, compute_uv=False)[: min(d_out, rank, d_in)])
    return np.array(found) / np.sqrt(d_out * d_in)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_law_of_random_factors_is_that_of_draws(shape: tuple[int, int, int]) -> None:
    law, drawn = random_factors(*shape), draws(*shape, 200)
    unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    assert np.square(law.values).sum() == pytest.approx(1)
    wide = min(shape[0], shape[2]) > 2 * shape[1]
    assert np.allclose(law.values, unit.mean(axis=0), rtol=0.03 if wide else 0.3, atol=0 if wide else 0.08)
    energies = np.square(unit)
    participation = float(np.mean(1 / np.square(energies).sum(axis=1)))
    assert 1 / np.square(np.square(law.values)).sum() == pytest.approx(participation, rel=0.05 if wide else 0.35)
    for share in (0.5, 0.9):
        found = [rank_for_share(one, share) for one in energies]
        assert abs(rank_for_share(np.square(law.values), share) - np.mean(found)) < 1


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_rises_above_its_floor_in_five_of_a_hundred_modules(shape: tuple[int, int, int]) -> None:
    law, drawn = random_factors(*shape), draws(*shape, 400, seed=1)
    floors = [law.floor(values) for values in drawn]
    if drawn.shape[1] < FEWEST_VALUES:
        assert floors == [None] * 400
        return
    alarms = np.mean([values[0] > floor for values, floor in zip(drawn, floors, strict=True)])
    error = np.sqrt(0.05 * 0.95 / 400)
    assert alarms <= 0.05 + 3 * error
    assert alarms > 0.002
    assert law.floor(7 * drawn[0]) == pytest.approx(7 * (floors[0] or 0))


@pytest.mark.parametrize("n_strong", [1, 3])
def test_directions_planted_in_noise_are_counted(n_strong: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    b = torch.randn(200, 8, generator=generator)
    b[:, :n_strong] *= 5
    a = torch.randn(8, 300, generator=generator)
    adapter = StoredAdapter(
        ("base_model.model.x.lora_A.default.weight", "..."), (a, b), {"base_model.model.x": 0.1}, {}
    )
    (module,) = adapter_spectrum(adapter).modules
    assert module.above_floor == n_strong
    assert (module.floor or 0) > module.values[n_strong]
    share = adapter_spectrum(adapter).share_above_floor
    assert share == pytest.approx(np.square(module.values[:n_strong]).sum() / module.energy)


def test_fewest_directions_of_a_share() -> None:
    energies = np.array([5.0, 3.0, 1.0, 1.0])
    assert [rank_for_share(energies, share) for share in (0.1, 0.5, 0.8, 0.9, 0.91, 1.0)] == [1, 1, 2, 3, 4, 4]
    assert rank_for_share(np.zeros(3), 0.9) == 0
    assert rank_for_share(np.ones(10) / 10, 1.0) == 10


def test_factors_without_entries_have_no_law() -> None:
    with pytest.raises(InputError, match="every size is at least 1"):
        random_factors(4, 0, 4)
