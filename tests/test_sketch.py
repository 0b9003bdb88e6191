"""Sketches: what the map is, that it keeps lengths on average, and captures within the stated bound on a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from torch import nn

from lineament.errors import InputError
from lineament.parameters import ParameterSpace
from lineament.vectors.recording import sketch as module
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch, capture_error, distortion
from lineament.vectors.recording.writer import Recorder

N_PARAMS = 400


def matrix(sketch: Sketch) -> np.ndarray:
    """S (size, n_params), from its images of the unit vectors."""
    return torch.stack([sketch.apply(row) for row in torch.eye(sketch.n_params)], dim=1).numpy()


@pytest.mark.parametrize("nonzeros", [1, 4])
def test_every_parameter_has_its_places_and_signs(nonzeros: int) -> None:
    s = matrix(Sketch(N_PARAMS, 40, nonzeros))
    for part in np.split(s, nonzeros):
        assert ((part != 0).sum(axis=0) == 1).all()
    assert np.allclose(np.abs(s[s != 0]), nonzeros**-0.5)
    # Places are uniform and signs are fair: chi-squared with 40 and 1 degrees of freedom, both far below any doubt.
    counts, minus = (s != 0).sum(axis=1), (s < 0).sum()
    expected = N_PARAMS * nonzeros / 40
    assert np.square(counts - expected).sum() / expected < 80
    assert abs(minus - N_PARAMS * nonzeros / 2) < 4 * (N_PARAMS * nonzeros) ** 0.5 / 2
    assert not np.array_equal(s, matrix(Sketch(N_PARAMS, 40, nonzeros, seed=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_apply_is_linear_and_is_the_matrix(dtype: torch.dtype) -> None:
    sketch, generator = Sketch(N_PARAMS, 32, 2), np.random.default_rng(0)
    x, y = (torch.from_numpy(generator.standard_normal(N_PARAMS)).to(dtype) for _ in range(2))
    found = sketch.apply(x)
    assert (found.shape, found.dtype) == ((32,), torch.float64)
    assert np.allclose(found.numpy(), matrix(sketch) @ x.double().numpy(), atol=1e-13)
    both = sketch.apply(2 * x.double() - 3 * y.double())
    assert torch.allclose(both, 2 * found - 3 * sketch.apply(y), atol=1e-13)


def test_the_map_is_the_same_however_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept between rows or drawn again, over the ends of pieces, and for a longer vector that begins alike."""
    n = 2 * module.PIECE + 17
    row = torch.from_numpy(np.random.default_rng(1).standard_normal(n))
    kept = Sketch(n, 1000)
    first = kept.apply(row)
    assert sum(codes.nbytes for codes in kept._kept.values()) <= module.MAX_BYTES_KEPT
    assert torch.equal(kept.apply(row), first)
    monkeypatch.setattr(module, "MAX_BYTES_KEPT", 4 * n - 1)
    drawn = Sketch(n, 1000)
    assert torch.equal(drawn.apply(row), first)
    assert not drawn._kept
    cut = row.clone()
    cut[module.PIECE + 5 :] = 0
    assert torch.equal(Sketch(module.PIECE + 5, 1000).apply(row[: module.PIECE + 5]), drawn.apply(cut))


@pytest.mark.parametrize("nonzeros", [1, 4])
def test_lengths_and_products_are_kept_on_average_with_the_stated_variance(nonzeros: int) -> None:
    """E <Sx, Sy> = <x, y> in standard errors; E |U^T S^T S U - 1|_F^2 <= (d^2 + d) / size, nearly met."""
    generator, n_draws, size, d = np.random.default_rng(2), 400, 64, 3
    u = np.linalg.qr(generator.standard_normal((N_PARAMS, d)))[0]
    grams = []
    for seed in range(n_draws):
        sketch = Sketch(N_PARAMS, size, nonzeros, seed)
        su = np.stack([sketch.apply(torch.from_numpy(column)).numpy() for column in u.T], axis=1)
        grams.append(su.T @ su)
    found = np.stack(grams)
    errors = found.std(axis=0, ddof=1) / n_draws**0.5
    assert (np.abs(found.mean(axis=0) - np.eye(d)) < 4 * errors).all()
    squared = np.square(found - np.eye(d)).sum(axis=(1, 2))
    bound = (d**2 + d) / size
    assert squared.mean() < bound + 3 * squared.std() / n_draws**0.5
    if nonzeros == 1:
        assert squared.mean() > 0.7 * bound
        # Markov's inequality is far from met: of 400 draws at most 5 % may break the bound, and hardly any do.
        assert np.mean(squared > distortion(size, d) ** 2) <= 0.05


def test_distortion_is_the_theorem_solved_for_it() -> None:
    """size = (d^2 + d) / (failure (2 eps - eps^2)^2), with squared lengths within 1 +- (2 eps - eps^2)."""
    eps, d, failure = 0.2, 11, 0.1
    size = (d**2 + d) / (failure * (2 * eps - eps**2) ** 2)
    assert distortion(round(size), d, failure) == pytest.approx(2 * eps - eps**2, rel=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99, 1.0])
@pytest.mark.parametrize("e", [0.0, 0.05, 0.3, 0.9])
def test_capture_error_covers_the_worst_maps(share: float, e: float) -> None:
    """Exact share outside f; a map that stretches what is left and |D|^2 as badly as allowed shows the other."""
    for stretch in ((1 - e) / (1 + e), (1 + e) / (1 - e)):
        exact = min(1.0, share * stretch)
        sketched = 1 - share
        assert abs((1 - exact) - sketched) <= capture_error(sketched, e) + 1e-15
    assert capture_error(1 - share, 0) == 0
    assert capture_error(1 - share, 1.0) == max(share, 1 - share)


def test_what_makes_no_sketch_is_refused() -> None:
    for wrong in ((10, 5, 6), (10, 5, 2), (0, 5, 1), (10, 0, 1), (10, 5, 0), (10, 2**30, 1)):
        with pytest.raises(InputError, match="nonzeros"):
            Sketch(*wrong)
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        Sketch(4, 2).apply(torch.ones(3))
    for call in (lambda: distortion(0, 1), lambda: distortion(1, 0), lambda: distortion(1, 1, 1.0)):
        with pytest.raises(InputError):
            call()
    for call in (lambda: capture_error(1.1, 0.1), lambda: capture_error(0.5, -0.1)):
        with pytest.raises(InputError):
            call()


RANK, N_STEPS, SIZE, SMALL = 3, 60, 4000, 250


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[int | None, Trajectory]:
    """One training of about 5 000 parameters by AdamW, recorded whole and by twelve sketches at once."""
    folder = tmp_path_factory.mktemp("sketched")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 80), nn.Tanh(), nn.Linear(80, 30), nn.Tanh(), nn.Linear(30, 1))
    space = ParameterSpace.trainable(model)
    sketches: dict[int | None, Sketch | None] = {None: None}
    sketches |= {seed: Sketch(space.n_params, SIZE if seed < 6 else SMALL, seed=seed) for seed in range(12)}
    recorders = {k: Recorder(space, folder / str(k), sketch=s, gradients=True) for k, s in sketches.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x = torch.randn(256, 30)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        batch = x[torch.randint(len(x), (32,))]
        (model(batch)[:, 0] - batch[:, :3].prod(dim=1)).square().mean().backward()
        for recorder in recorders.values():
            recorder.take_gradient()
        optimizer.step()
        for recorder in recorders.values():
            recorder.append()
    return {k: recorder.close() for k, recorder in recorders.items()}


def captures(trajectory: Trajectory, ranks: range) -> np.ndarray:
    gram = trajectory.gram()
    return np.array([gram.capture(gram.prefix(k), gram.displacement(1, N_STEPS)) for k in ranks])


def test_captures_of_sketched_recordings_are_within_the_bound(recordings: dict[int | None, Trajectory]) -> None:
    exact = captures(recordings[None], range(1, RANK + 1))
    e = distortion(SIZE, RANK + 1, failure=0.05)
    assert e < 0.33  # else the bound says nothing
    for seed in range(6):
        found = captures(recordings[seed], range(1, RANK + 1))
        for a, b in zip(found, exact, strict=True):
            assert abs(a - b) <= capture_error(a, e)


def test_errors_shrink_with_the_size_and_average_out(recordings: dict[int | None, Trajectory]) -> None:
    """Without a bound, at rank 20: a spread of about the root of 1 / size, and none of it leads one way."""
    exact = captures(recordings[None], range(20, 21))[0]
    errors = {
        size: np.array([captures(recordings[seed], range(20, 21))[0] - exact for seed in seeds])
        for size, seeds in ((SIZE, range(6)), (SMALL, range(6, 12)))
    }
    assert np.abs(errors[SIZE]).max() < 0.02
    assert np.sqrt(np.square(errors[SMALL]).mean()) > 2 * np.sqrt(np.square(errors[SIZE]).mean())
    assert np.abs(errors[SIZE]).max() > 0


def test_sketched_rows_are_the_sketch_of_the_rows(recordings: dict[int | None, Trajectory]) -> None:
    whole, small = recordings[None], recordings[7]
    assert small.sketch is not None
    assert whole.gradients is not None
    assert small.gradients is not None
    assert (small.n_steps, small.block(0).shape) == (N_STEPS, (50, SMALL))
    for full, own in ((whole, small), (whole.gradients, small.gradients)):
        rows = torch.stack([small.sketch.apply(row) for row in full.updates(1, N_STEPS).rows]).numpy()
        assert oracles.relative_error(own.gram().gram, rows @ rows.T) < 1e-6
    displacement = whole.position(N_STEPS) - whole.start()
    gram = small.gram()
    outside = small.end_inner_products(displacement)
    inside = gram.capture(gram.prefix(5), gram.displacement(1, N_STEPS))
    assert gram.capture_outside(gram.prefix(5), outside) == pytest.approx(inside, abs=1e-5)


def test_what_sketched_rows_cannot_tell_is_refused(recordings: dict[int | None, Trajectory]) -> None:
    small = recordings[3]
    for call in (
        lambda: small.position(1),
        lambda: small.positions(),
        lambda: small.updates(1, 2),
        lambda: small.combine(np.ones((2, 1))),
    ):
        with pytest.raises(InputError, match=r"sketched to 4000 numbers, .*Record without a sketch"):
            call()
    assert small.start().shape == (small.space.n_params,)


def test_a_sketched_recording_is_continued_on_the_same_run_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(9, 5)
    space = ParameterSpace.trainable(layer)
    recorder = Recorder(space, tmp_path / "r", sketch=Sketch(50, 20))

    def step(recorder: Recorder) -> None:
        space.write(space.read() + 0.1 * torch.randn(50))
        recorder.append()

    for _ in range(5):
        step(recorder)
    recorder.flush()
    here = space.read()
    space.write(here + torch.randn(50))
    with pytest.raises(InputError, match="another run"):
        Recorder.resume(space, tmp_path / "r", 5)
    space.write(here)
    resumed = Recorder.resume(space, tmp_path / "r", 5, sketch=Sketch(50, 20))
    step(resumed)
    trajectory = resumed.close()
    moved = Sketch(50, 20).apply(space.read().double() - trajectory.start().double())
    assert torch.allclose(trajectory.sum_of_rows(6), moved, atol=1e-6)
