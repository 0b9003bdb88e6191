"""Truncated adapters: the error is the tail of the singular values, and real PEFT loads what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_adapters import dense_changes, loaded, made, of_matrices, regauged

from lineament import combine_adapters, read_adapter, save_stored_adapter, truncate_to_rank, truncate_to_share
from lineament.errors import InputError
from lineament.merging.spectra import adapter_spectrum


def distance(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """|found - expected| / |expected| over all modules."""
    assert set(found) == set(expected)
    difference = sum(float(np.square(found[name] - dw).sum()) for name, dw in expected.items())
    return float(np.sqrt(difference / sum(float(np.square(dw).sum()) for dw in expected.values())))


@pytest.mark.parametrize("regauge", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 9])
def test_a_truncated_folder_is_the_best_of_its_rank_and_off_by_the_stated_error(
    rank: int, regauge: bool, tmp_path: Path
) -> None:
    folder, dense = made(tmp_path / "whole", use_rslora=True, rank_pattern={"layers.1.q": 3})
    adapter = read_adapter(folder)
    cut = truncate_to_rank(regauged(adapter) if regauge else adapter, rank)
    save_stored_adapter(cut.adapter, tmp_path / "cut")
    found = dense_changes(loaded(tmp_path / "cut"))
    best = {}
    for name, dw in dense.items():
        u, s, v = np.linalg.svd(dw, full_matrices=False)
        best[name] = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert cut.ranks[name] == min(rank, 3 if name == "layers.1.q" else 4)
    assert distance(found, best) < 1e-5
    assert cut.error == pytest.approx(distance(found, dense), abs=1e-5)
    assert cut.error == pytest.approx(adapter_spectrum(adapter).truncation_error(rank), abs=1e-9)
    again = read_adapter(tmp_path / "cut")
    assert set(again.scales.values()) == {1.0}


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99, 1.0])
def test_a_share_is_kept_in_every_module(share: float, tmp_path: Path) -> None:
    folder, dense = made(tmp_path / "whole")
    cut = truncate_to_share(read_adapter(folder), share)
    save_stored_adapter(cut.adapter, tmp_path / "cut")
    found = dense_changes(loaded(tmp_path / "cut"))
    for name, dw in dense.items():
        error = np.linalg.norm(found[name] - dw) / np.linalg.norm(dw)
        assert error <= np.sqrt(1 - share) + 1e-5
        energies = np.square(np.linalg.svd(dw, compute_uv=False))
        assert np.cumsum(energies)[cut.ranks[name] - 1] / energies.sum() >= share - 1e-6
        assert cut.ranks[name] == 1 or np.cumsum(energies)[cut.ranks[name] - 2] / energies.sum() < share
    assert cut.error == pytest.approx(distance(found, dense), abs=1e-5)


def test_a_sum_in_a_folder_adds_the_outputs_of_a_linear_model(tmp_path: Path) -> None:
    """Of one module at a time, since the model is not linear in all of them together."""
    first, _ = made(tmp_path / "a", seed=1, target_modules=["layers.0.q"])
    second, _ = made(tmp_path / "b", seed=2, r=3, use_rslora=True, target_modules=["layers.0.q"])
    total = combine_adapters([read_adapter(first), read_adapter(second)], [1.0, 0.5])
    save_stored_adapter(total, tmp_path / "sum")
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))

    def inner(folder: Path, adapted: bool = True) -> torch.Tensor:
        model = loaded(folder)
        layer = model.base_model.model.layers[0]["q"]
        with torch.no_grad():
            return layer(x) if adapted else layer.base_layer(x)

    base = inner(first, adapted=False)
    expected = (inner(first) - base) + 0.5 * (inner(second) - base)
    assert torch.allclose(inner(tmp_path / "sum") - base, expected, atol=1e-5)
    assert float(expected.abs().max()) > 0.1
    cut = truncate_to_rank(total, 2)
    dense = {m.removeprefix("base_model.model."): (f.b @ f.a).double().numpy() for m, f in total.factors.items()}
    assert cut.error == pytest.approx(
        np.sqrt(np.square(np.linalg.svd(dense["layers.0.q"])[1][2:]).sum() / np.square(dense["layers.0.q"]).sum()),
        abs=1e-5,
    )


def test_a_module_that_did_not_move_stays_with_rank_one(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "fresh", init_lora_weights=True)
    for cut in (truncate_to_share(read_adapter(folder), 0.9), truncate_to_rank(read_adapter(folder), 3)):
        assert cut.error == 0
        for a, b, _ in cut.adapter.factors.values():
            assert not bool(b.any())
            assert bool(a.any(dim=1).all())  # with A at 0 too it could never be trained
    assert set(truncate_to_share(read_adapter(folder), 0.9).ranks.values()) == {1}


def test_float64_stays(tmp_path: Path) -> None:
    dense = {"x": np.random.default_rng(0).standard_normal((5, 6))}
    cut = truncate_to_rank(of_matrices(dense), 2)
    assert {tensor.dtype for tensor in cut.adapter.tensors} == {torch.float64}
    s = np.linalg.svd(dense["x"], compute_uv=False)
    assert cut.error == pytest.approx(np.linalg.norm(s[2:]) / np.linalg.norm(s), rel=1e-12)


def test_ranks_and_shares_out_of_range_are_refused() -> None:
    adapter = of_matrices({"x": np.ones((2, 2))})
    with pytest.raises(InputError, match="at least 1; got 0"):
        truncate_to_rank(adapter, 0)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            truncate_to_share(adapter, share)
