"""Tests of advice on trainings with a known answer: each passes where the advice holds, and fails where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from advice_cases import Layer, adapted, recorded, training, with_values
from torch import Tensor

from lineament.advice.check import check_advice, check_recording
from lineament.advice.loss_drop import LossDrop
from lineament.advice.rank_check import rank_figure
from lineament.advice.run import CheckedRun
from lineament.claims.advice import Advice, advise
from lineament.errors import InputError
from lineament.measurements.recording.analysis import analyze_recording
from lineament.measurements.recording.options import AnalysisOptions
from lineament.parameters import ParameterSpace
from lineament.records import Record
from lineament.vectors.recording.sketch import Sketch
from lineament.vectors.recording.writer import Recorder

OPTIONS = AnalysisOptions(window=4, plane_rank=1)


def rank_run(folder: Path, target: Tensor, rank: int = 6) -> CheckedRun:
    """A LoRA training towards a matrix, long enough to get there."""
    model = adapted(rank)
    own = training(model, target)
    parameters = [p for p in model.parameters() if p.requires_grad]
    trajectory = recorded(folder, own, torch.optim.Adam(parameters, lr=0.03), 150)
    return CheckedRun.of(trajectory, own)


def line_of(lines: list[Advice], quantity: str, **labels: object) -> Advice:
    return next(x for x in lines if x.quantity == quantity and all(x.labels.get(k) == v for k, v in labels.items()))


def test_truncated_losses_are_those_of_the_dense_matrices(tmp_path: Path) -> None:
    target = with_values(3.0, 2.0, 1.0, 0.5)
    run = rank_run(tmp_path / "rows", target)
    (pair,) = run.trajectory.pairs()

    def dense(theta: Tensor) -> Tensor:
        a, b = theta[pair.a].view(pair.a_shape), theta[pair.b].view(pair.b_shape)
        return pair.scale * b @ a

    u, s, v = torch.linalg.svd(dense(run.end) - dense(run.start))
    model = Layer()
    plain = training(model, target)
    for rank in (1, 2, 3):
        with torch.no_grad():
            model.linear.weight.copy_(dense(run.start) + u[:, :rank] * s[:rank] @ v[:rank])
        wanted = (float(plain.held_out().detach().mean()) - run.drop.end.mean()) / (
            run.drop.start - run.drop.end
        ).mean()
        assert rank_figure(run, "k90", rank).value == pytest.approx(wanted, rel=1e-5)
    whole = rank_figure(run, "k90", 2 * 6)
    assert whole.value == pytest.approx(0, abs=1e-7)
    assert rank_figure(run, "k90", 1).null is not None


@pytest.mark.parametrize(("values", "outcome"), [((3.0, 2.9), "passed"), ((1.0, 0.7, 0.5, 0.3), "failed")])
def test_a_rank_that_suffices_passes_and_one_that_does_not_fails(
    tmp_path: Path, values: tuple[float, ...], outcome: str
) -> None:
    run = rank_run(tmp_path / "rows", with_values(*values))
    before = run.space.read()
    lines = check_advice(tmp_path / "rows", run.training, options=OPTIONS)
    assert torch.equal(run.space.read(), before)
    line = line_of(lines, "mean_module_rank", statistic="participation_ratio")
    assert line.value is not None
    assert line.tested is not None
    assert line.standing == outcome
    assert line.tested.interval.startswith("bootstrap")
    assert line.tested.null is not None
    assert line.tested.value is not None
    assert line.tested.null > line.tested.value
    assert outcome in (line.sentence or "")
    assert (": no)" in (line.sentence or "")) == (outcome == "failed")


def checked(run: CheckedRun, seed: int = 0) -> tuple[Record, Record]:
    analysis = analyze_recording(run.trajectory, "layer", seed, OPTIONS)
    return analysis, check_recording(run.trajectory, run.training, analysis, advise([analysis]), OPTIONS)


def test_a_test_of_another_recording_does_not_count(tmp_path: Path) -> None:
    first = checked(rank_run(tmp_path / "a", with_values(3.0, 2.0)))
    second = checked(rank_run(tmp_path / "b", with_values(3.0, 2.5)))
    assert line_of(advise(first), "mean_module_rank").tested is not None
    assert line_of(advise([first[0], second[1]]), "mean_module_rank").standing == "untested"
    assert line_of(advise(first[:1]), "mean_module_rank").standing == "untested"


def test_a_check_goes_on_with_what_an_earlier_one_left(tmp_path: Path) -> None:
    run = rank_run(tmp_path / "rows", with_values(3.0, 2.0))
    analysis, whole = checked(run)
    saved: list[Record] = []
    again = check_recording(
        run.trajectory, run.training, analysis, advise([analysis]), OPTIONS, earlier=whole, save=saved.append
    )
    assert again == whole
    assert saved[-1] == whole


def test_over_recordings_the_interval_is_student_t(tmp_path: Path) -> None:
    runs = [rank_run(tmp_path / str(i), with_values(3.0, 2.0, 0.1 * i)) for i in range(3)]
    records = [record for i, run in enumerate(runs) for record in checked(run, i)]
    values = [record.value("rank_cost", statistic="k90") for record in records if record.measurement == "advice_check"]
    tested = line_of(advise(records), "mean_module_rank", statistic="k90").tested
    assert tested is not None
    assert tested.interval == "3 recordings"
    assert tested.value == pytest.approx(np.mean([v for v in values if v is not None]))
    assert tested.low is not None
    two = line_of(advise(records[:4]), "mean_module_rank", statistic="k90").tested
    assert two is not None
    assert two.outcome == "undecided"


def test_shares_of_a_drop_have_the_error_of_the_examples() -> None:
    generator = np.random.default_rng(0)
    start = 5 + generator.standard_normal(400)
    end = start - 2 - 0.5 * generator.standard_normal(400)
    drop = LossDrop(start, end)
    half = (start + end) / 2
    assert drop.told
    assert drop.share(half).value == pytest.approx(0.5)
    assert drop.share(half).stderr == pytest.approx(0, abs=1e-9)  # the same share of every example
    other = end + 0.3 * generator.standard_normal(400)
    assert drop.share(other).stderr == pytest.approx(0.3 / np.sqrt(400) / 2, rel=0.2)
    assert drop.rise(other, end).value == pytest.approx(1 - float(drop.share(other).value or 0))
    flat = LossDrop(start, start + 0.01 * generator.standard_normal(400))
    assert not flat.told
    assert "did not fall" in (flat.share(half).reason or "")


def test_what_cannot_be_trained_again_is_refused(tmp_path: Path) -> None:
    model = Layer()
    own = training(model, with_values(1.0))
    unknown = recorded(tmp_path / "unknown", own, torch.optim.RMSprop(model.parameters(), lr=0.01), 6)
    with pytest.raises(InputError, match="cannot be trained again"):
        check_advice(unknown.folder, own)
    sketched = tmp_path / "sketched"
    Recorder(
        ParameterSpace.trainable(own.model),
        sketched,
        dtype=torch.float64,
        sketch=Sketch(64, 32),
    ).close()
    with pytest.raises(InputError, match="sketched"):
        check_advice(sketched, own)
    known = recorded(tmp_path / "known", own, torch.optim.SGD(model.parameters(), lr=0.01), 6)
    with pytest.raises(InputError, match="lacks"):
        check_advice(known.folder, training(adapted(2), with_values(1.0)), options=OPTIONS)
