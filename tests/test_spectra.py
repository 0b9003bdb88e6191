"""Spectra of adapters against dense dW, and the law of blind trainings against draws of them and trainings."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from made_adapters import made, regauged

from lineament import StoredAdapter, compare_adapters, read_adapter
from lineament.errors import InputError
from lineament.merging.blind_factors import blind_factors
from lineament.merging.spectra import adapter_spectrum, decompose
from lineament.vectors.spectrum import rank_for_share

SHAPES = [(64, 8, 64), (512, 16, 2048), (24, 12, 24), (8, 9, 40), (2000, 8, 50), (400, 64, 400)]
NEARLY_SQUARE = [(10, 4, 3), (3, 5, 6), (40, 9, 8), (80, 40, 42), (8, 8, 8), (1, 1, 1), (5, 1, 4)]


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
    assert repr(spectrum).startswith("AdapterSpectrum(4 modules, rank ")
    assert len(repr(spectrum)) < 200
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


@pytest.mark.parametrize("size", [1e-170, 1e-90, 1e-69, 1e-30, 1e30, 1e69])
def test_figures_of_any_size_are_numbers(size: float, tmp_path: Path) -> None:
    adapter, _ = stored(tmp_path)
    sized = StoredAdapter(adapter.names, tuple(t.double() * size for t in adapter.tensors), adapter.scales, {})
    spectrum, pair = adapter_spectrum(sized), compare_adapters([sized, sized]).pairs[0, 1]
    if size < 1e-80:
        assert spectrum.norm == 0
        assert pair.cosine is None
    else:
        assert spectrum.norm == pytest.approx(adapter_spectrum(adapter).norm * size**2, rel=1e-6)
        assert pair.cosine == pytest.approx(1)
        assert spectrum.used(0.9) == adapter_spectrum(adapter).used(0.9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_factors_that_are_not_finite_are_refused_by_module(bad: float, tmp_path: Path) -> None:
    adapter, _ = stored(tmp_path)
    tensors = tuple(tensor.double() for tensor in adapter.tensors)
    tensors[2][0, 0] = bad
    adapter = StoredAdapter(adapter.names, tensors, adapter.scales, {})
    with pytest.raises(InputError, match=r"layers\.0\.v has factors that are NaN or infinite"):
        adapter_spectrum(adapter)


def draws(d_out: int, rank: int, d_in: int, n: int, seed: int = 0) -> np.ndarray:
    """Singular values of G A^T A for Gaussian G and A, of unit energy, (n, n_values)."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(n):
        a = np.linalg.qr(generator.standard_normal((d_in, rank)), mode="r").T  # A up to a rotation of its rows
        g = np.linalg.qr(generator.standard_normal((d_out, a.shape[1])), mode="r")
        found.append(np.linalg.svd(g @ a.T @ a, compute_uv=False)[: min(d_out, rank, d_in)])
    return np.array(found) / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_law_of_blind_trainings_is_that_of_draws(shape: tuple[int, int, int]) -> None:
    law, drawn = blind_factors(*shape), draws(*shape, 200)
    assert np.square(law.values).sum() == pytest.approx(1)
    assert np.allclose(law.values, drawn.mean(axis=0), rtol=0.05, atol=0.03)
    energies = np.square(drawn)
    participation = float(np.mean(1 / np.square(energies).sum(axis=1)))
    assert 1 / np.square(np.square(law.values)).sum() == pytest.approx(participation, rel=0.12)  # of rank 8
    for share in (0.5, 0.9):
        found = [rank_for_share(one, share) for one in energies]
        assert abs(rank_for_share(np.square(law.values), share) - np.mean(found)) < 1


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_rises_above_its_floor_in_five_of_a_hundred_modules(shape: tuple[int, int, int]) -> None:
    law, drawn = blind_factors(*shape), draws(*shape, 400, seed=1)
    floors = [law.floor(values) or 0 for values in drawn]
    alarms = np.mean([values[0] > floor for values, floor in zip(drawn, floors, strict=True)])
    error = np.sqrt(0.05 * 0.95 / 400)
    assert 0.05 - 4 * error <= alarms <= 0.05 + 4 * error
    assert law.floor(7 * drawn[0]) == pytest.approx(7 * floors[0])


@pytest.mark.parametrize("shape", NEARLY_SQUARE)
def test_where_noise_has_no_level_there_is_no_floor(shape: tuple[int, int, int]) -> None:
    law = blind_factors(*shape)
    assert law.floor(np.ones(len(law.values))) is None
    assert np.square(law.values).sum() == pytest.approx(1)
    assert np.allclose(law.values, draws(*shape, 200).mean(axis=0), atol=0.08)


def trained_blindly(shape: tuple[int, int, int], optimizer: str, seed: int) -> np.ndarray:
    """Singular values of dW after forty steps of LoRA whose weight gradients are noise."""
    d_out, rank, d_in = shape
    generator = torch.Generator().manual_seed(seed)
    a = torch.nn.Parameter((2 * torch.rand(rank, d_in, generator=generator) - 1) / d_in**0.5)
    b = torch.nn.Parameter(torch.zeros(d_out, rank))
    steps: torch.optim.Optimizer = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]([a, b], lr=1e-3)
    for _ in range(40):
        gradient = torch.randn(d_out, d_in, generator=generator)
        b.grad, a.grad = gradient @ a.detach().T, b.detach().T @ gradient
        steps.step()
    return np.linalg.svd((b @ a).detach().double().numpy(), compute_uv=False)[:rank]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_real_trainings_on_noise_stay_below_the_floor_and_use_what_is_foretold(optimizer: str) -> None:
    shape = (96, 8, 64)
    law, n = blind_factors(*shape), 30
    found = [trained_blindly(shape, optimizer, seed) for seed in range(n)]
    assert sum(values[0] > (law.floor(values) or 0) for values in found) <= 5  # of 30 at 5 %: chance of more is 0.003
    used = [rank_for_share(np.square(values), 0.9) for values in found]
    assert np.mean(used) == pytest.approx(rank_for_share(np.square(law.values), 0.9), abs=0.6)


@pytest.mark.slow
def test_the_example_tells_what_was_learned_from_noise(capsys: pytest.CaptureFixture[str]) -> None:
    example = Path(__file__).parents[1] / "examples" / "what_an_adapter_uses.py"
    with torch.random.fork_rng():
        made_there = runpy.run_path(str(example))
    capsys.readouterr()
    taught, noise = (adapter_spectrum(read_adapter(made_there[name])) for name in ("taught", "noise"))
    assert [module.above_floor for module in taught.modules] == [2, 2]
    assert [module.above_floor for module in noise.modules] == [0, 0]
    assert taught.used(0.9) == 2
    assert abs((noise.used(0.9) or 0) - (noise.blind_used(0.9) or 0)) <= 1


@pytest.mark.parametrize("n_strong", [1, 3])
def test_directions_planted_in_noise_are_counted(n_strong: int) -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(8, 300, generator=generator) / 300**0.5
    b = torch.randn(200, 300, generator=generator) @ a.T
    b += 60 * torch.randn(200, n_strong, generator=generator) / 200**0.5 @ torch.eye(8)[:n_strong]
    name = "base_model.model.x"
    adapter = StoredAdapter((f"{name}.lora_A.default.weight", "..."), (a, b), {name: 0.1}, {})
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
        blind_factors(4, 0, 4)
