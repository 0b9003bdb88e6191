"""Inner products of dW from the factors against the materialised matrices, and their gauge."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from problems_table import CASES
from torch import Tensor, nn

from lineament.errors import InputError, SpaceMismatchError
from lineament.parameters import ParameterSpace, Space
from lineament.problems.adapters import attach_lora
from lineament.problems.factor_pairs import FactorPair, factor_pairs
from lineament.problems.problem import Problem
from lineament.settings.model import LoraSettings
from lineament.vectors.effective import (
    effective_gram,
    effective_space,
    effective_spectrum,
    position_gram,
    update_gram,
)
from lineament.vectors.recording import writer
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.writer import Recorder


def materialised(pairs: list[FactorPair], theta: Tensor) -> np.ndarray:
    """All dW of one adapter, flat."""
    parts = []
    for pair in pairs:
        a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
        parts.append((pair.scale * b @ a).numpy().ravel())
    return np.concatenate(parts)


def drawn(problem: Problem, n: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, problem.parameters.n_params)))


def regauged(pairs: list[FactorPair], theta: Tensor, seed: int) -> Tensor:
    """(A, B) -> (R A, B R^-1) with an own random R for every pair."""
    moved, generator = theta.clone(), np.random.default_rng(seed)
    for pair in pairs:
        rank = pair.a_shape[0]
        r = torch.from_numpy(generator.standard_normal((rank, rank)) + 3 * np.eye(rank))
        moved[pair.a] = (r @ theta[pair.a].view(pair.a_shape)).ravel()
        moved[pair.b] = (theta[pair.b].view(pair.b_shape) @ torch.linalg.inv(r)).ravel()
    return moved


lora_problems = pytest.mark.parametrize("name", ["transformer_lora", "llama_lora"])


@lora_problems
def test_position_gram_equals_materialised_inner_products(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.parameters), drawn(problem, 5)
    dense = np.stack([materialised(pairs, theta) for theta in thetas])
    assert oracles.relative_error(position_gram(pairs, thetas), dense @ dense.T) < 1e-12


@lora_problems
def test_update_gram_is_that_of_differences_of_dw(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.parameters), drawn(problem, 6)
    updates = np.diff(np.stack([materialised(pairs, theta) for theta in thetas]), axis=0)
    found = update_gram(pairs, thetas)
    assert found.n_steps == 5
    assert oracles.relative_error(found.gram, updates @ updates.T) < 1e-12
    assert (found.space.kind, found.space.n_params) == ("lora_effective", updates.shape[1])


@lora_problems
def test_the_gauge_moves_factor_cosines_and_leaves_dw_alone(name: str) -> None:
    problem = CASES[name].make()
    pairs, thetas = factor_pairs(problem.parameters), drawn(problem, 3)
    moved = torch.stack([regauged(pairs, theta, seed) for seed, theta in enumerate(thetas)])
    before, after = position_gram(pairs, thetas), position_gram(pairs, moved)
    assert oracles.relative_error(after, before) < 1e-10
    factors = np.corrcoef(thetas.numpy()), np.corrcoef(moved.numpy())
    assert np.abs(factors[1] - factors[0]).max() > 0.01
    assert oracles.relative_error(moved.numpy(), thetas.numpy()) > 0.1


def test_dw_is_what_the_model_adds() -> None:
    """The scale and the order of the factors are PEFT's: logits equal those with the weights merged."""
    case = CASES["transformer_lora"]
    problem = case.make()
    problem.model.double()
    batch = case.batch(problem, 3)
    adapted = problem.logits(batch)
    theta, layers = problem.parameters.read(), dict(problem.model.named_modules())
    for pair in factor_pairs(problem.parameters):
        base: nn.Linear = layers[pair.module].base_layer
        delta = pair.scale * theta[pair.b].view(pair.b_shape) @ theta[pair.a].view(pair.a_shape)
        assert delta.shape == base.weight.shape
        with torch.no_grad():
            base.weight += delta
    problem.parameters.write(torch.zeros_like(theta))
    assert torch.allclose(problem.logits(batch), adapted, atol=1e-12)
    assert not torch.allclose(CASES["transformer_full"].make().logits(batch).double(), adapted)


def test_every_factor_belongs_to_exactly_one_pair() -> None:
    space = CASES["transformer_lora"].make().parameters
    covered = np.zeros(space.n_params)
    for pair in factor_pairs(space):
        assert pair.scale == 2.0
        covered[pair.a] += 1
        covered[pair.b] += 1
    assert (covered == 1).all()


def test_adapters_of_other_ranks_share_the_space_of_dw_and_other_modules_do_not() -> None:
    def space(rank: int, target: str) -> Space:
        model = attach_lora(
            nn.Sequential(OrderedDict(a=nn.Linear(3, 5), b=nn.Linear(3, 5))), LoraSettings(rank), 0, [target]
        )
        return effective_space(factor_pairs(ParameterSpace.trainable(model, "lora_factors")))

    assert space(1, "a") == space(4, "a")
    assert space(1, "a").n_params == 15
    with pytest.raises(SpaceMismatchError):
        space(1, "a").require(space(1, "b"))


def test_a_space_without_factors_is_refused() -> None:
    with pytest.raises(InputError, match="no LoRA factors"):
        factor_pairs(ParameterSpace.trainable(nn.Linear(2, 2)))


class TwoRanks(nn.Module):
    """A space of LoRA factors whose pairs have ranks 1 and 3, other widths, and other scales."""

    def __init__(self) -> None:
        super().__init__()
        self.adapted = attach_lora(
            nn.Sequential(OrderedDict(a=nn.Linear(7, 5), b=nn.Linear(6, 9))), LoraSettings(1), 0, ["a", "b"]
        )
        layer = self.adapted.base_model.model.b
        layer.update_layer("default", r=3, lora_alpha=7, config=self.adapted.peft_config["default"])


def walked(folder: Path, step: float, n_steps: int = 23, dtype: torch.dtype = torch.float64) -> Trajectory:
    """A recorded random walk of the two adapters in double precision, by steps of about `step`, with B away from 0."""
    model = TwoRanks().double()
    space = ParameterSpace.trainable(model, "lora_factors")
    generator = np.random.default_rng(3)
    space.write(torch.from_numpy(generator.standard_normal(space.n_params)))
    recorder = Recorder(space, folder, dtype)
    for _ in range(n_steps):
        space.write(space.read() + step * torch.from_numpy(generator.standard_normal(space.n_params)))
        recorder.append()
    return recorder.close()


def exact_updates(trajectory: Trajectory) -> np.ndarray:
    """dW_t - dW_(t-1) of the recorded rows as plain differences in extended precision, (n_steps, entries)."""
    rows = [trajectory.start().numpy(), *trajectory.updates(1, trajectory.n_steps).rows.double().numpy()]
    thetas = np.cumsum(np.stack(rows).astype(np.longdouble), axis=0)
    parts = []
    for pair in trajectory.pairs():
        a = thetas[:, pair.a].reshape(-1, *pair.a_shape)
        b = thetas[:, pair.b].reshape(-1, *pair.b_shape)
        dw = np.longdouble(pair.scale) * np.stack([y.dot(x) for x, y in zip(a, b, strict=True)])
        parts.append(np.diff(dw, axis=0).reshape(len(dw) - 1, -1))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("bound", [10**9, 20_000, 1], ids=["one block", "blocks", "one step at a time"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_effective_gram_equals_that_of_dense_updates(
    bound: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_FILE", 4)
    trajectory = walked(tmp_path / "r", 0.1, dtype=dtype)
    assert sorted(pair.a_shape[0] for pair in trajectory.pairs()) == [1, 3]
    assert sorted(trajectory.scales.values()) == pytest.approx([7 / 3, 16])
    found, updates = effective_gram(trajectory, bound_bytes=bound), exact_updates(trajectory).astype(np.float64)
    assert oracles.relative_error(found.gram, updates @ updates.T) < 1e-12
    assert np.array_equal(found.gram, found.gram.T)
    by_positions = update_gram(trajectory.pairs(), trajectory.positions())
    assert oracles.relative_error(found.gram, by_positions.gram) < 1e-10
    assert found.space == by_positions.space
    whole = found.displacement(1, 23)
    expected = oracles.dense_capture(updates[:5], updates.sum(axis=0))
    assert found.capture(found.prefix(5), whole) == pytest.approx(expected, abs=1e-9)


def test_small_updates_keep_their_digits(tmp_path: Path) -> None:
    """At steps of 1e-6, second differences of a position Gram matrix keep four digits, the expansion keeps all."""
    trajectory = walked(tmp_path / "r", 1e-6)
    updates = exact_updates(trajectory)
    exact = (updates.dot(updates.T)).astype(np.float64)
    assert oracles.relative_error(effective_gram(trajectory, bound_bytes=20_000).gram, exact) < 1e-11
    assert oracles.relative_error(update_gram(trajectory.pairs(), trajectory.positions()).gram, exact) > 1e-6


def test_a_gauge_that_stays_the_same_leaves_the_effective_gram_alone(tmp_path: Path) -> None:
    trajectory = walked(tmp_path / "r", 0.1)
    model = TwoRanks().double()
    space = ParameterSpace.trainable(model, "lora_factors")
    moved = [regauged(trajectory.pairs(), theta, 0) for theta in trajectory.positions()]
    space.write(moved[0])
    recorder = Recorder(space, tmp_path / "moved", torch.float64)
    for theta in moved[1:]:
        space.write(theta)
        recorder.append()
    again = recorder.close()
    assert oracles.relative_error(effective_gram(again).gram, effective_gram(trajectory).gram) < 1e-11
    assert oracles.relative_error(again.gram().gram, trajectory.gram().gram) > 0.1


def test_a_turning_gauge_moves_factors_and_makes_no_update(tmp_path: Path) -> None:
    trajectory = walked(tmp_path / "r", 0.1)
    model, theta = TwoRanks().double(), trajectory.start()
    space = ParameterSpace.trainable(model, "lora_factors")
    space.write(theta)
    recorder = Recorder(space, tmp_path / "turned", torch.float64)
    for seed in range(4):
        space.write(regauged(trajectory.pairs(), theta, seed))
        recorder.append()
    turned = recorder.close()
    still = position_gram(turned.pairs(), turned.start()[None])[0, 0]  # rounding is relative to |dW|^2
    assert np.abs(effective_gram(turned).gram).max() < 1e-14 * still
    assert np.diag(turned.gram().gram).min() > 1


def test_effective_gram_of_an_empty_or_sketched_recording(tmp_path: Path) -> None:
    space = ParameterSpace.trainable(TwoRanks(), "lora_factors")
    assert effective_gram(Recorder(space, tmp_path / "empty").close()).gram.shape == (0, 0)
    sketched = Recorder(space, tmp_path / "sketched", sketch=Sketch(space.n_params, 9)).close()
    with pytest.raises(InputError, match="needs the factors themselves"):
        effective_gram(sketched)


def test_spectra_of_displacements_equal_the_dense_ones(tmp_path: Path) -> None:
    trajectory = walked(tmp_path / "r", 0.1)
    pairs, start, end = trajectory.pairs(), trajectory.start(), trajectory.position(23)
    found = effective_spectrum(pairs, start, end)
    assert set(found) == {pair.module for pair in pairs}
    for pair in pairs:
        first, last = (materialised([pair], theta).reshape(pair.b_shape[0], -1) for theta in (start, end))
        dense, own = np.linalg.svd(last - first)[1], found[pair.module]
        assert len(own) == min(2 * pair.a_shape[0], *dense.shape)
        assert np.allclose(own, dense[: len(own)], rtol=1e-10)
        assert np.all(dense[len(own) :] < 1e-12 * dense[0])
    assert all(not values.any() for values in effective_spectrum(pairs, 0 * start, 0 * start).values())
