"""Recordings of any training: rows at intervals, bfloat16, gradients, kills, resumption, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from problems_table import CASES
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lineament.bases import from_vectors
from lineament.errors import InputError, LineamentError, NonFiniteError, SpaceMismatchError
from lineament.files.reading import read_json
from lineament.parameters import ParameterSpace
from lineament.problems.factor_pairs import factor_pairs
from lineament.vectors.recording import rows, writer
from lineament.vectors.recording.index import finished
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.writer import Recorder


class Training:
    """Adam on a noisy quadratic; torch's own, so that a checkpoint holds all of its state."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(9, 8), nn.Linear(8, 5))
        self.space = ParameterSpace.trainable(self.module)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-2)
        self.made = 0

    def step(self, recorder: Recorder | None = None) -> Tensor:
        """One step; returns the gradient that it was made with."""
        x = torch.from_numpy(np.random.default_rng(self.made).standard_normal((16, 9), dtype=np.float32))
        self.optimizer.zero_grad()
        self.module(x).square().mean().backward()
        gradient = self.space.flatten([p.grad for p in self.space.tensors])  # type: ignore[misc]
        if recorder is not None and recorder.index.gradients:
            recorder.take_gradient()
        self.optimizer.step()
        self.made += 1
        if recorder is not None:
            recorder.append()
        return gradient

    def checkpoint(self) -> Any:
        return (
            self.made,
            {k: v.clone() for k, v in self.module.state_dict().items()},
            copy.deepcopy(self.optimizer.state_dict()),
        )

    def load(self, checkpoint: Any) -> None:
        self.made, weights, state = checkpoint
        self.module.load_state_dict(weights)
        self.optimizer.load_state_dict(state)


def run(folder: Path, n_steps: int, seed: int = 0, **options: Any) -> tuple[Training, list[Tensor], list[Tensor]]:
    """A closed recording of a training, with its positions theta_0 .. and gradients."""
    training = Training(seed)
    recorder = Recorder(training.space, folder, **options)
    thetas, gradients = [training.space.read()], []
    for _ in range(n_steps):
        gradients.append(training.step(recorder))
        thetas.append(training.space.read())
    recorder.close()
    return training, thetas, gradients


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_rows_at_intervals_are_what_happened_between_them(every: int, tmp_path: Path) -> None:
    _, thetas, _ = run(tmp_path / "r", 20, every=every, first_step=100)
    found = Trajectory(tmp_path / "r")
    assert found.steps == tuple(range(every, 21, every))
    assert (found.first_step, found.n_steps) == (100, 20 // every)
    expected = torch.stack([thetas[t] - thetas[t - every] for t in found.steps])
    assert torch.equal(found.updates(1, found.n_steps).rows, expected)
    for number, step in enumerate(found.steps, start=1):
        assert torch.allclose(found.position(number), thetas[step].double(), atol=1e-7)


def test_half_precision_rows_carry_their_rounding_on(tmp_path: Path) -> None:
    """The error of a position is one rounding of its last row, after 4 steps as after 400; without it, it grows."""
    _, thetas, _ = run(tmp_path / "r", 400, dtype=torch.bfloat16)
    found = Trajectory(tmp_path / "r")
    updates = found.updates(1, 400).rows
    assert found.dtype == found.block(0).dtype == torch.bfloat16
    assert updates.dtype == torch.float32
    for step in (1, 4, 40, 200, 400):
        error = (found.position(step) - thetas[step].double()).abs()
        assert (error <= 2.0**-8 * updates[step - 1].abs()).all()
        assert error.max() > 0
    true = torch.stack(thetas).double().diff(dim=0)
    plain = true.bfloat16().double().sum(dim=0) - true.sum(dim=0)
    assert plain.norm() > 5 * (found.position(400) - thetas[400].double()).norm()


def test_half_precision_captures_are_those_of_full_precision(tmp_path: Path) -> None:
    for name, dtype in (("half", torch.bfloat16), ("whole", torch.float32)):
        run(tmp_path / name, 60, dtype=dtype)
    half, whole = (Trajectory(tmp_path / name).gram() for name in ("half", "whole"))
    for rank in (1, 5, 20):
        a, b = (gram.capture(gram.prefix(rank), gram.displacement(1, 60)) for gram in (half, whole))
        assert a == pytest.approx(b, abs=3e-3)


def test_rows_of_a_half_precision_model_are_exact_differences(tmp_path: Path) -> None:
    """A difference of two bfloat16 numbers is not one, but is a float32."""
    module = nn.Linear(4, 3, dtype=torch.bfloat16)
    space = ParameterSpace.trainable(module)
    recorder, start = Recorder(space, tmp_path / "r"), space.read().float()
    with torch.no_grad():
        module.weight += 3.01
    recorder.append()
    trajectory = recorder.close()
    assert torch.equal(trajectory.updates(1, 1).rows[0], space.read().float() - start)
    assert trajectory.start().dtype == torch.bfloat16


@pytest.mark.parametrize("every", [1, 3])
def test_gradients_are_those_of_the_step_before_each_row(every: int, tmp_path: Path) -> None:
    _, _, gradients = run(tmp_path / "r", 12, every=every, gradients=True)
    found = Trajectory(tmp_path / "r")
    stored = found.gradients
    assert stored is not None
    expected = torch.stack([gradients[step - 1] for step in found.steps])
    assert torch.equal(stored.updates(1, stored.n_steps).rows, expected)
    dense = expected.double().numpy()
    assert oracles.relative_error(stored.gram().gram, dense @ dense.T) < 1e-14
    # Rows and gradients live in one space: how much of each gradient do the first updates hold?
    updates = found.updates(1, found.n_steps).rows.double().numpy()
    assert oracles.relative_error(stored.cross_gram(found), dense @ updates.T) < 1e-14


def test_gradients_can_be_given_and_missing_ones_are_zeros(tmp_path: Path) -> None:
    training = Training()
    recorder = Recorder(training.space, tmp_path / "r", gradients=True)
    with pytest.raises(InputError, match="take_gradient"):
        recorder.append()
    given = torch.arange(float(training.space.n_params))
    recorder.append(given)
    training.module[1].weight.grad = torch.ones(5, 8)
    recorder.take_gradient()
    recorder.append()
    with pytest.raises(InputError, match="no gradient for this row"):
        recorder.append()  # that of the step before must not be taken again
    stored = recorder.close().gradients
    assert stored is not None
    assert torch.equal(stored.updates(1, 1).rows[0], given)
    part = training.space.slices[training.space.names.index("1.weight")]
    assert float(stored.updates(2, 2).rows.sum()) == float(stored.updates(2, 2).rows[0, part].sum()) == 40
    plain = Recorder(training.space, tmp_path / "plain")
    for call in (plain.take_gradient, lambda: plain.append(given)):
        with pytest.raises(InputError, match="stores no gradients"):
            call()
    assert plain.close().gradients is None


def test_the_index_says_what_was_recorded(tmp_path: Path) -> None:
    problem = CASES["transformer_lora"].make()
    about = {"optimizer": "adamw", "beta1": 0.9, "epochs": 3}
    recorder = Recorder(problem.parameters, tmp_path / "r", about=about, first_step=40)
    recorder.append()
    recorder.close()
    index, found = read_json(tmp_path / "r" / "index.json"), Trajectory(tmp_path / "r")
    assert {k: index[k] for k in ("schema", "n_steps", "rows_per_file", "dtype", "kind", "steps", "first_step")} == {
        "schema": 2, "n_steps": 1, "rows_per_file": 50, "dtype": "float32", "kind": "lora_factors", "steps": [1],
        "first_step": 40,
    }  # fmt: skip
    assert (index["closed"], index["gradients"], index["sketch"], index["about"]) == (True, False, None, about)
    assert index["tensors"] == [
        [n, list(p.shape)] for n, p in zip(problem.parameters.names, problem.parameters.tensors, strict=True)
    ]
    assert index["model"] == "PeftModel"
    assert found.about == about
    assert found.pairs() == factor_pairs(problem.parameters)
    assert {pair.module: pair.scale for pair in found.pairs()} == found.scales
    Recorder(Training().space, tmp_path / "full").close()
    with pytest.raises(InputError, match="no LoRA factors: it is full"):
        Trajectory(tmp_path / "full").pairs()


@pytest.mark.parametrize("about", [{"lr": float("nan")}, {"betas": [0.9, 0.99]}, {"x": None}])
def test_what_json_cannot_hold_is_refused(about: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="about"):
        Recorder(Training().space, tmp_path / "r", about=about)
    assert not (tmp_path / "r").exists()


def test_a_killed_recording_is_read_up_to_its_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_FILE", 4)
    training = Training()
    recorder = Recorder(training.space, tmp_path / "r", gradients=True)
    thetas = [training.space.read()]
    for expected in (0, 0, 0, 4, 4, 4, 4, 8, 8):
        training.step(recorder)
        thetas.append(training.space.read())
        found = Trajectory(tmp_path / "r")
        assert (found.n_steps, found.closed) == (expected, False)
        assert not finished(tmp_path / "r")
    recorder.flush()
    found = Trajectory(tmp_path / "r")
    assert found.n_steps == found.gram().n_steps == 9
    assert torch.allclose(found.position(9), thetas[9].double(), atol=1e-7)
    training.step(recorder)
    # A kill between the row files and the index leaves rows that the index does not count.
    recorder._rows.flush()
    found = Trajectory(tmp_path / "r")
    assert (found.n_steps, len(found.block(2))) == (9, 1)
    assert found.gram().gram.shape == (9, 9)
    assert finished(recorder.close().folder)
    with pytest.raises(InputError, match="closed"):
        recorder.append()


def test_a_file_that_could_not_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_FILE", 3)
    training = Training()
    recorder = Recorder(training.space, tmp_path / "r")
    thetas = [training.space.read()]

    def full(path: Path, content: bytes) -> None:
        raise LineamentError(f"could not write {path}: No space left on device.")

    for step in range(8):
        with monkeypatch.context() as patch:
            if step == 2:
                patch.setattr(rows, "write_bytes", full)
                with pytest.raises(LineamentError, match="No space"):
                    training.step(recorder)
            else:
                training.step(recorder)
        thetas.append(training.space.read())
    assert torch.equal(recorder.close().updates(1, 8).rows, torch.stack(thetas).diff(dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("killed_at", "at_step"), [(9, 6), (12, 12), (10, 8), (7, 0)])
def test_a_resumed_recording_equals_one_that_was_never_cut(
    dtype: torch.dtype, killed_at: int, at_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_FILE", 4)
    options: dict[str, Any] = {"dtype": dtype, "gradients": True, "every": 2, "first_step": 30}
    run(tmp_path / "whole", 20, **options)
    training = Training()
    recorder, checkpoint = Recorder(training.space, tmp_path / "cut", **options), training.checkpoint()
    for _ in range(killed_at):
        training.step(recorder)
        if training.made == at_step:
            checkpoint = training.checkpoint()
    recorder.flush()
    again = Training(seed=9)
    again.load(checkpoint)
    resumed = Recorder.resume(again.space, tmp_path / "cut", 30 + at_step, every=2)
    assert (resumed.step, Trajectory(tmp_path / "cut").n_steps) == (30 + at_step, at_step // 2)
    for _ in range(20 - at_step):
        again.step(resumed)
    assert not Trajectory(tmp_path / "cut").closed
    resumed.close()
    names = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*"))
    assert names == sorted(path.relative_to(tmp_path / "cut") for path in (tmp_path / "cut").rglob("*.*"))
    if dtype == torch.float32:
        for name in names:
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert torch.allclose(Trajectory(tmp_path / "cut").position(10), again.space.read().double(), atol=1e-4)


def test_a_finished_recording_can_be_continued_and_a_lossy_checkpoint_loses_nothing(tmp_path: Path) -> None:
    """Where theta differs a little from the recording's, the difference is part of the next row."""
    training, thetas, _ = run(tmp_path / "r", 10)
    nudge = 3e-4 * (thetas[10] - thetas[0]).norm() / training.space.n_params**0.5
    training.space.write(training.space.read() + nudge)
    recorder = Recorder.resume(training.space, tmp_path / "r", 10)
    training.step(recorder)
    assert torch.allclose(recorder.close().position(11), training.space.read().double(), atol=1e-7)


def test_only_the_same_run_is_continued(tmp_path: Path) -> None:
    training, _, _ = run(tmp_path / "r", 12, every=3, first_step=5)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")}
    refusals: list[tuple[str, Any]] = [
        ("step 10.*starts at step 5.*every 3 steps.*last at step 17", lambda: _resume(training, tmp_path, 10)),
        ("last at step 17", lambda: _resume(training, tmp_path, 20)),
        ("another run", lambda: _resume(training, tmp_path, 14)),
        ("another run", lambda: _resume(Training(seed=3), tmp_path, 17)),
        ("another run", lambda: _resume(Training(seed=3), tmp_path, 5)),
        ("every = 3, but every = 2", lambda: _resume(training, tmp_path, 17, every=2)),
        ("float32, but dtype = torch.bfloat16", lambda: _resume(training, tmp_path, 17, dtype=torch.bfloat16)),
        ("gradients = False, but gradients = True", lambda: _resume(training, tmp_path, 17, gradients=True)),
        ("sketch = None", lambda: _resume(training, tmp_path, 17, sketch=Sketch(125, 10))),
    ]  # fmt: skip
    for words, call in refusals:
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(SpaceMismatchError):
        Recorder.resume(ParameterSpace.trainable(nn.Linear(3, 3)), tmp_path / "r", 17)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")} == before


def _resume(training: Training, folder: Path, at_step: int, **asked: Any) -> Recorder:
    return Recorder.resume(training.space, folder / "r", at_step, **asked)


def test_a_begun_recording_without_rows_is_begun_again(tmp_path: Path) -> None:
    Recorder(Training().space, tmp_path / "r")
    assert Trajectory(tmp_path / "r").n_steps == 0
    training, _, _ = run(tmp_path / "r", 3)
    assert torch.allclose(Trajectory(tmp_path / "r").position(3), training.space.read().double(), atol=1e-7)
    with pytest.raises(InputError, match="already holds a recording of 3 rows"):
        Recorder(training.space, tmp_path / "r")


def test_a_row_that_is_not_finite_names_its_step_and_keeps_the_rest(tmp_path: Path) -> None:
    training = Training()
    recorder = Recorder(training.space, tmp_path / "r", first_step=10)
    for _ in range(3):
        training.step(recorder)
    good = training.space.read()
    training.space.write(torch.full_like(good, float("nan")))
    with pytest.raises(NonFiniteError, match=r"update of step 14 .*the 3 rows"):
        recorder.append()
    assert Trajectory(tmp_path / "r").n_steps == 3
    training.space.write(good + 1)
    recorder.append()  # the loop may have gone back to weights that were kept
    found = recorder.close()
    assert found.steps == (1, 2, 3, 5)
    assert torch.allclose(found.position(4), good.double() + 1, atol=1e-6)
    gradients = Recorder(training.space, tmp_path / "g", gradients=True)
    with pytest.raises(NonFiniteError, match="gradient of step 1 "):
        gradients.append(good / 0)


def test_large_finite_rows_are_kept_though_their_sum_is_not_finite(tmp_path: Path) -> None:
    training = Training()
    recorder = Recorder(training.space, tmp_path / "r")
    training.space.write(torch.full((training.space.n_params,), 3e38))
    recorder.append()
    assert recorder.close().n_steps == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": torch.float16}, "float16.*float32, float64, bfloat16"),
        ({"every": 0}, "every is 0"),
        ({"first_step": -1}, "first_step -1"),
        ({"sketch": Sketch(3, 2)}, "sketch of 3 parameters does not fit"),
        ({"sketch": Sketch(125, 20), "dtype": torch.bfloat16}, "cannot carry their rounding"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        Recorder(Training().space, tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_recordings_of_schema_1_are_read_and_continued(tmp_path: Path) -> None:
    """As version 0.1.0 wrote them."""
    training, thetas, _ = run(tmp_path / "new", 7)
    old = tmp_path / "old"
    old.mkdir()
    updates = torch.stack(thetas).diff(dim=0)
    for number in range(3):
        save_file({"rows": updates[3 * number : 3 * number + 3].clone()}, old / f"rows-{number:05d}.safetensors")
    save_file({"theta": thetas[0]}, old / "start.safetensors")
    space = training.space.space
    index = {"schema": 1, "n_steps": 7, "rows_per_file": 3, "kind": "full", "n_params": 125, "layout": space.layout}
    (old / "index.json").write_text(json.dumps(index))
    found = Trajectory(old)
    assert (found.closed, found.steps, found.dtype, found.tensors) == (True, tuple(range(1, 8)), torch.float32, ())
    assert np.array_equal(found.gram().gram, Trajectory(tmp_path / "new").gram().gram)
    assert torch.equal(found.updates(2, 7).rows, updates[1:7])
    with pytest.raises(InputError, match="schema 1"):
        found.pairs()
    recorder = Recorder.resume(training.space, old, 7)
    training.step(recorder)
    assert recorder.close().tensors == tuple((n, tuple(p.shape)) for n, p in training.module.named_parameters())
    assert read_json(old / "index.json")["schema"] == 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "r"
    run(folder, 60, gradients=True)
    return folder


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _fewer(path: Path) -> None:
    save_file({"rows": load_file(path)["rows"][:5].clone()}, path)


def _narrow(path: Path) -> None:
    save_file({"rows": load_file(path)["rows"][:, :7].clone()}, path)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("rows-00001.safetensors", Path.unlink, "is missing"),
        ("rows-00001.safetensors", _cut, "cannot be read"),
        ("rows-00000.safetensors", _fewer, r"shape \[5, 125\], not \(50, 125\)"),
        ("rows-00001.safetensors", _narrow, r"shape \[10, 7\], not \(10, 125\)"),
        ("gradients/rows-00001.safetensors", Path.unlink, "is missing"),
        ("start.safetensors", Path.unlink, "does not exist"),
        ("start.safetensors", _cut, "cannot be read"),
        ("index.json", Path.unlink, "no recording"),
        ("index.json", _cut, "not valid JSON"),
        ("index.json", lambda p: p.write_text('{"schema": 3}'), "schema 3; this version reads schemas 1 and 2"),
        ("index.json", lambda p: p.write_text("[]"), "must be of type object"),
        ("index.json", lambda p: p.write_text('{"schema": 2, "n_steps": 1, "steps": []}'), "lacks the key 'kind'"),
        ("index.json", lambda p: p.write_text(p.read_text().replace('"n_steps": 60', '"n_steps": 61')), "61 rows"),
        ("index.json", lambda p: p.write_text(p.read_text().replace('"every": 1', '"every": 0')), "every is 0"),
    ],
)
def test_torn_recordings_name_the_file(name: str, damage: Any, words: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "r")
    damage(tmp_path / "r" / name)
    with pytest.raises(LineamentError, match=words) as raised:
        found = Trajectory(tmp_path / "r")
        assert found.gradients is not None
        found.gram()
        found.position(60)
    assert Path(name).name in str(raised.value)


@pytest.fixture(params=[None, 1000, 40_000], ids=["one block", "one column at a time", "a few"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers must not depend on how much is held at once, nor on the tiles of a Gram matrix."""
    if request.param:
        monkeypatch.setattr(rows, "MAX_BYTES_HELD", request.param)
        monkeypatch.setattr(rows, "TILE", 7)


@pytest.mark.usefixtures("blocks")
def test_products_between_recordings_equal_the_dense_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "ROWS_PER_FILE", 9)
    run(tmp_path / "a", 30)
    run(tmp_path / "b", 20, seed=1, dtype=torch.bfloat16)
    a, b = Trajectory(tmp_path / "a"), Trajectory(tmp_path / "b")
    dense = [t.updates(1, t.n_steps).rows.double().numpy() for t in (a, b)]
    assert oracles.relative_error(a.gram().gram, dense[0] @ dense[0].T) < 1e-14
    assert oracles.relative_error(a.cross_gram(b), dense[0] @ dense[1].T) < 1e-13
    part = a.cross_gram(b, slice(8, 19), slice(3, None))
    assert oracles.relative_error(part, dense[0][8:19] @ dense[1][3:].T) < 1e-13
    stacked = np.concatenate(dense)
    joint = Trajectory.joint_gram([a, b])
    assert oracles.relative_error(joint.gram, stacked @ stacked.T) < 1e-13
    # A basis of one run's first updates, and the other run's displacement.
    found = joint.capture(joint.prefix(5), joint.displacement(31, 50))
    assert found == pytest.approx(oracles.dense_capture(dense[0][:5], dense[1].sum(axis=0)), abs=1e-9)
    outside = a.end_inner_products(b.position(20) - b.start())
    assert a.gram().capture_outside(a.gram().prefix(5), outside) == pytest.approx(found, abs=1e-9)
    assert np.isnan(a.gram().capture_outside(a.gram().prefix(5), a.end_inner_products(torch.zeros(125))))
    basis = from_vectors(b.updates(1, 4), "other")
    assert oracles.relative_error(a.coefficients(basis).values, basis.columns.numpy().T @ dense[0].T) < 1e-13
    assert torch.allclose(a.position(30), a.positions()[30], atol=1e-12)


def test_recordings_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", 3)
    run(tmp_path / "s", 3, sketch=Sketch(125, 20))
    run(tmp_path / "s1", 3, sketch=Sketch(125, 20, seed=1))
    Recorder(ParameterSpace.trainable(nn.Linear(2, 2)), tmp_path / "other").close()
    a, s, s1, other = (Trajectory(tmp_path / name) for name in ("a", "s", "s1", "other"))
    for call in (lambda: a.cross_gram(other), lambda: Trajectory.joint_gram([a, other])):
        with pytest.raises(SpaceMismatchError):
            call()
    for call in (lambda: a.cross_gram(s), lambda: s.cross_gram(s1), lambda: Trajectory.joint_gram([s, s, s1])):
        with pytest.raises(InputError, match="only through one map"):
            call()
    for wrong in (lambda: Trajectory.joint_gram([]), lambda: a.end_inner_products(torch.zeros(4))):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="consecutive"):
        a.cross_gram(a, slice(0, 3, 2))
    with pytest.raises(SpaceMismatchError):
        a.gram().capture_outside(a.gram().prefix(1), other.end_inner_products(torch.zeros(6)))
