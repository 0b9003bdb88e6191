"""Analysis of recordings against closed forms: orthogonal steps, a straight line, a plane that turns evenly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lineament import cli
from lineament.claims.advice import advise
from lineament.errors import InputError
from lineament.files.reading import read_json
from lineament.files.schemas import FOLDER as SCHEMAS
from lineament.measurements.recording.analysis import (
    Companions,
    analyze_recording,
    find_recordings,
    momentum_gap_rows,
)
from lineament.measurements.recording.moving_rows import MovingRows
from lineament.measurements.recording.options import AnalysisOptions
from lineament.measurements.recording.planes import compared_windows, fitting_window, plane_figures
from lineament.measurements.recording.spans import first_to_reach
from lineament.parameters import ParameterSpace, Space
from lineament.records import Record, load_records
from lineament.vectors.recording.reader import Trajectory
from lineament.vectors.recording.writer import Recorder
from lineament.vectors.trajectory_gram import TrajectoryGram

OPTIONS = AnalysisOptions(window=4, plane_rank=1)


def recording(folder: Path, rows: torch.Tensor, **options: object) -> Trajectory:
    """A recording whose updates are these rows (n_steps, n_params), from theta_0 = 0."""
    module = nn.Linear(rows.shape[1], 1, bias=False).double()
    nn.init.zeros_(module.weight)
    recorder = Recorder(ParameterSpace.trainable(module), folder, dtype=torch.float64, **options)
    for row in rows.double():
        with torch.no_grad():
            module.weight.add_(row)
        recorder.append()
    return recorder.close()


def value(record: Record, quantity: str, **labels: object) -> float:
    found = record.value(quantity, **labels)
    assert found is not None, (quantity, labels)
    return found


@pytest.fixture
def orthogonal(tmp_path: Path) -> Record:
    return analyze_recording(recording(tmp_path / "rows", torch.eye(100)), "orthogonal", 0, OPTIONS)


def test_orthogonal_steps_have_the_values_of_independent_updates(orthogonal: Record) -> None:
    for rank in (1, 10, 50):
        for basis in ("prefix", "control_random_times", "trajectory_top"):
            figure = next(orthogonal.select("capture", basis=basis, rank=rank, definition="whole"))
            assert figure.value == pytest.approx(rank / 100)
            assert figure.null == pytest.approx(rank / 100)
        assert value(orthogonal, "capture", basis="prefix", rank=rank, definition="rest") == pytest.approx(0, abs=1e-12)
    for share, steps in ((0.5, 50), (0.77, 77), (0.9, 90)):
        figure = next(orthogonal.select("steps_to_span", share=share, basis="prefix"))
        assert (figure.value, figure.null) == (steps, pytest.approx(steps))
    for step, at in ((10, 25), (25, 100), (50, 75)):
        figure = next(orthogonal.select("task_vector_cosine", share=step / 100, at_share=at / 100))
        assert (figure.labels["step"], figure.labels["at"]) == (step, at)
        assert figure.value == pytest.approx(np.sqrt(step / at))
        assert figure.null == pytest.approx(np.sqrt(step / at))
    assert value(orthogonal, "run_rank", statistic="participation_ratio") == pytest.approx(100)
    assert value(orthogonal, "recorded", what="straightness") == pytest.approx(0.1)


def test_a_straight_line_is_spanned_by_its_first_step(tmp_path: Path) -> None:
    record = analyze_recording(recording(tmp_path / "rows", torch.ones(60, 7)), "line", 0, OPTIONS)
    assert value(record, "capture", basis="prefix", rank=1, definition="whole") == pytest.approx(1)
    assert value(record, "steps_to_span", share=0.9, basis="prefix") == 1
    assert value(record, "task_vector_cosine", step=6, at=60) == pytest.approx(1)
    assert value(record, "run_rank", statistic="stable_rank") == pytest.approx(1)
    assert value(record, "recorded", what="straightness") == pytest.approx(1)


def turning(n_rows: int, rate: float) -> TrajectoryGram:
    """Rows that turn by `rate` radians a step in a plane of a space of 1000 dimensions."""
    angles = rate * np.arange(n_rows)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return TrajectoryGram(rows @ rows.T, Space("full", 1000, "turning"))


@pytest.mark.parametrize("half_life", [30, 60])
def test_a_direction_that_turns_evenly_has_its_half_life(half_life: int) -> None:
    """overlap of two lines is cos^2 of their angle: 1/2 at 45 degrees; half of the run is a turn by 90."""
    gram = turning(4 * half_life, np.pi / 4 / half_life)
    figures = plane_figures(gram, "gradients", 1, 0, AnalysisOptions(window=4, plane_rank=1))
    found = next(f for f in figures if f.matches("plane_half_life", **{"from": "all"}))
    assert found.value == pytest.approx(half_life, rel=0.03)
    assert found.stderr == pytest.approx(0, abs=1)


def test_half_lives_are_in_optimizer_steps() -> None:
    figures = plane_figures(turning(120, np.pi / 4 / 30), "gradients", 5, 0, AnalysisOptions(window=4, plane_rank=1))
    found = next(f for f in figures if f.matches("plane_half_life", **{"from": "all"}))
    assert found.value == pytest.approx(150, rel=0.03)


def test_a_plane_that_stays_does_not_cross() -> None:
    generator = np.random.default_rng(0)
    rows = np.concatenate([generator.standard_normal((200, 3)), 0.1 * generator.standard_normal((200, 50))], axis=1)
    gram = TrajectoryGram(rows @ rows.T, Space("full", 10_000, "fixed plane"))
    figures = plane_figures(gram, "gradients", 1, 0, AnalysisOptions(window=12, plane_rank=3))
    for phase in ("all", "early", "late"):
        found = next(f for f in figures if f.matches("plane_half_life", **{"from": phase}))
        assert found.value is None
        assert "does not cross" in (found.reason or "")


def test_a_direction_that_fades_before_the_shortest_lag_is_censored() -> None:
    """Momentum hides lags below 34: a half-life that lies there is an upper bound, not an interpolation from lag 0."""
    lags = np.abs(np.subtract.outer(np.arange(120), np.arange(120)))
    fading = TrajectoryGram(np.exp(-lags / 10), Space("full", 1000, "fading"))
    figures = plane_figures(fading, "updates", 1, 30, AnalysisOptions(window=4, plane_rank=1))
    found = next(f for f in figures if f.matches("plane_half_life", **{"from": "all"}))
    assert found.value is None
    assert (found.reason or "").startswith("< 36")


def test_unrelated_rows_have_no_ceiling() -> None:
    gram = TrajectoryGram(np.eye(200), Space("full", 200, "orthogonal"))
    figures = plane_figures(gram, "gradients", 1, 0, AnalysisOptions(window=4, plane_rank=2))
    assert "no ceiling" in next(f.reason or "" for f in figures if f.matches("plane_half_life", **{"from": "all"}))


def test_updates_are_compared_beyond_their_momentum_only(tmp_path: Path) -> None:
    rows = torch.eye(120)
    plain = recording(tmp_path / "sgd", rows, about={"beta1": 0.0})
    heavy = recording(tmp_path / "adam", rows, about={"beta1": 0.9})
    sparse = recording(tmp_path / "sparse", rows, about={"beta1": 0.9}, every=10)
    runs = {t: MovingRows.of(t.gram(), t.steps, None, "rows") for t in (plain, heavy, sparse)}
    assert [run.steps_per_row for run in runs.values()] == [1, 1, 10]
    assert [momentum_gap_rows(t, run.steps_per_row, OPTIONS) for t, run in runs.items()] == [0, 30, 3]
    pairs = compared_windows(heavy.gram(), AnalysisOptions(window=4, plane_rank=1), 4 + 30)
    assert 34 <= min(pair.lag for pair in pairs) <= 36


def test_short_recordings_have_shorter_windows() -> None:
    assert [fitting_window(n, 30, AnalysisOptions()) for n in (1000, 120, 112, 90, 10)] == [20, 20, 16, 10, 10]


def test_short_recordings_say_why_they_have_no_half_life(tmp_path: Path) -> None:
    record = analyze_recording(recording(tmp_path / "rows", torch.eye(12)), "short", 0, AnalysisOptions())
    assert "12 rows, where planes of rank 5" in next(f.reason or "" for f in record.select("plane_half_life"))
    assert record.value("capture", basis="prefix", rank=5, definition="whole") == pytest.approx(5 / 12)


def test_prefixes_of_another_recording_and_an_outside_end_point(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(30, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    first, second = recording(tmp_path / "own", own), recording(tmp_path / "other", other)
    end = torch.randn(40, generator=generator, dtype=torch.float64)
    companions = Companions({"null_noise_prefix": second}, end.numpy())
    record = analyze_recording(first, "pair", 0, OPTIONS, companions)
    for rank in (1, 5, 10):
        q, _ = torch.linalg.qr(other[:rank].T)
        displacement = own.sum(dim=0)
        wanted = float((q.T @ displacement).square().sum() / displacement.square().sum())
        found = value(record, "capture", basis="null_noise_prefix", rank=rank, definition="whole")
        assert found == pytest.approx(wanted)
        q, _ = torch.linalg.qr(own[:rank].T)
        wanted = float((q.T @ end).square().sum() / end.square().sum())
        assert value(record, "capture", basis="prefix", rank=rank, definition="outside_end") == pytest.approx(wanted)


def test_recorded_gradients_decide_the_half_life(tmp_path: Path) -> None:
    module = nn.Linear(50, 1, bias=False)
    recorder = Recorder(ParameterSpace.trainable(module), tmp_path / "rows", gradients=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        gradient = torch.randn(50, generator=generator)
        with torch.no_grad():
            module.weight.sub_(0.1 * gradient)
        recorder.append(gradient)
    record = analyze_recording(recorder.close(), "gradients", 0, OPTIONS)
    assert {f.labels["rows"] for f in record.select("plane_half_life")} == {"gradients"}


def test_first_to_reach_is_the_smallest_rank() -> None:
    captures = [0.1, 0.5, 0.5, 0.8, 1.0]
    for share in (0.05, 0.5, 0.6, 0.8, 0.9, 1.0):
        wanted = next(k for k, c in enumerate(captures, start=1) if c >= share)
        assert first_to_reach(lambda k: captures[k - 1], share, 5) == wanted


def test_intervals_are_over_recordings(tmp_path: Path) -> None:
    records = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(60, 200, generator=generator, dtype=torch.float64) + 0.3
        records.append(analyze_recording(recording(tmp_path / str(seed), rows), "noisy", seed, OPTIONS))
    line = next(a for a in advise(records) if a.figure.startswith("steps_to_span(share=0.77, basis=prefix"))
    values = [value(r, "steps_to_span", share=0.77, basis="prefix") for r in records]
    logs = np.log(values)
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / np.sqrt(3)
    assert line.value == pytest.approx(np.mean(values))
    assert (line.low, line.high) == pytest.approx(tuple(np.exp(logs.mean() + np.array([-half, half]))))
    assert line.interval == "3 recordings"
    cosines = [a for a in advise(records) if a.unit == "cosine" and a.low is not None]
    assert cosines
    assert all(-1 <= a.low <= a.high <= 1 for a in cosines if a.low is not None and a.high is not None)
    alone = next(a for a in advise(records[:1]) if a.figure == line.figure)
    assert (alone.low, alone.high, alone.interval) == (None, None, "one recording")


def test_advice_names_galore_beside_the_refresh_interval(orthogonal: Record) -> None:
    line = next(a for a in advise([orthogonal]) if "refresh" in a.text)
    assert "200" in line.text
    assert line.figure.startswith("refresh_lag")
    assert line.value is None
    assert "gradients=True" in (line.reason or "")


def test_command_line_writes_records_advice_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording(tmp_path / "rows", torch.eye(80) + 0.1)
    assert cli.main(["analyze", str(tmp_path / "rows"), "--quiet", "--window", "4", "--plane-rank", "2"]) == 0
    printed = capsys.readouterr().out
    assert "First steps that span the run" in printed
    assert max(map(len, printed.splitlines())) <= 80 or "report:" in max(printed.splitlines(), key=len)
    out = tmp_path / "rows" / "analysis"
    assert len(load_records(out / "records")) == 1
    page = (out / "report.html").read_text()
    assert "<h1>Recorded training" in page
    assert "<dt>recordings</dt><dd>1 (no interval over recordings)</dd>" in page
    assert "Advice, and how it stood its test" in page
    body = json.loads((out / "advice.json").read_text())
    assert body["advice"]
    jsonschema.validate(body, read_json(SCHEMAS / "advice.schema.json"))
    assert "\n* " not in printed
    assert cli.main(["advise", str(tmp_path / "rows"), "--quiet", "--window", "4", "--plane-rank", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\* The first (\d+ steps span|step spans) 77 % of the way\. Untested\.", said)
    assert cli.main(["advise", str(tmp_path / "rows"), "--json", "--quiet"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {"topic", "value", "interval", "null", "figure"} <= set(lines[0])


def test_replicates_and_runs_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("words-seed0", "words-seed1"):
        rows = torch.randn(30, 20, generator=generator, dtype=torch.float64)
        recording(tmp_path / "run" / "recording" / name, rows)
    assert [(t, s) for t, s, _ in find_recordings(tmp_path / "run")] == [("words", 0), ("words", 1)]
    both = [str(tmp_path / "run" / "recording" / name) for name in ("words-seed0", "words-seed1")]
    assert cli.main(["advise", *both, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "2 recordings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analyze", "nothing"], "no recording"),
        (["analyze", "rows", "--window", "3"], "must be even"),
        (["analyze", "rows", "--window", "4", "--plane-rank", "3"], "rank from 1 to 2"),
        (["analyze", "rows", "--null", "wide"], "different spaces"),
        (["advise"], "at least one recording"),
        (["analyze", "rows", "--end", "nothing"], "adapter"),
        (["advise", "rows", "--check"], "--optimizer"),
        (["advise", "rows", "--check", "--optimizer", "sgd"], "--model and --data are missing"),
        (["advise", "rows", "--check", "--optimizer", "sgd", "--model", "m"], "--data is missing"),
        (["advise", "rows", "--data", "data.jsonl"], "together with --check"),
        (["advise", "rows", "--check", "--tests", "rank,spam"], "Did you mean 'span'"),
        (["advise", "rows", "--check", "--optimizer", "sgd", "--model", "m", "--data", "no.jsonl"], "no.jsonl"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    recording(tmp_path / "rows", torch.eye(20))
    recording(tmp_path / "wide", torch.eye(21))
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--quiet"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "rows" / "analysis").exists()


def test_one_row_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2"):
        analyze_recording(recording(tmp_path / "rows", torch.eye(1)), "one", 0, OPTIONS)
