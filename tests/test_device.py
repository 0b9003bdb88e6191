"""What runs on a GPU, on a stand-in for one: no mixed devices, no waiting in loops, the same figures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from families import arguments, write_data, write_family
from stand_in_device import DEVICE, OnDevice, stand_in_device
from sweep_jobs import SMALLEST
from test_api import SMALL, Tiny, data

import lineament
from lineament import cli
from lineament.population.members import GaussianMembers
from lineament.population.population import Population
from lineament.problems.problem import Batch
from lineament.problems.synthetic import SyntheticProblem
from lineament.records import Record, record_files
from lineament.runs.job import run_job
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.vectors.gradients import gradient_gram, group_gradients, mean_gradient
from lineament.vectors.recording.writer import Recorder

JOBS = [
    ("gradient_rank,basis_capture,basis_drift", "lora"),
    ("gradient_rank,capture_by_horizon,capture_without_momentum", "full"),
    ("steering", "lora"),
    ("local_geometry", "lora"),
]
SMALLER = {
    "search.counts": "2,4",
    "search.headline_count": "4",
    "search.draws": "16",
    "search.theorem_draws": "16",
    "search.density_draws": "16",
    "measurement.random_draws": "2",
    "measurement.inside_steps": "2",
    "measurement.lanczos_steps": "3",
}
# Of figures after some thirty steps of training whose sums were taken in another order.
ROUNDING = 1e-2


def settings(device: str, **changes: str) -> Settings:
    return resolve("synthetic", "quick", [("test", {**SMALLEST, "device": device, **changes})])


def records(run: Path) -> list[Record]:
    """The records of a run."""
    return [Record.load(path, with_arrays=False) for path in record_files(run / "records")]


def require_same(found: Sequence[Record], expected: Sequence[Record]) -> None:
    """The same figures in the same order, up to rounding."""
    assert [record.name for record in found] == [record.name for record in expected]
    for one, other in zip(found, expected, strict=True):
        assert [q.name for q in one.quantities] == [q.name for q in other.quantities]
        assert [q.value is None for q in one.quantities] == [q.value is None for q in other.quantities]
        values = [[q.value for q in record.quantities if q.value is not None] for record in (one, other)]
        assert len(values[0]) > 5
        assert values[0] == pytest.approx(values[1], rel=ROUNDING, abs=ROUNDING, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(("measured", "space"), JOBS)
def test_a_job_on_the_device_gives_the_same_figures(
    measured: str, space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"measure": measured, "recovery.space": space, **SMALLER}
    run_job(settings("cpu", **changes), 0, tmp_path / "cpu")
    with stand_in_device(monkeypatch):
        run_job(settings("cuda", **changes), 0, tmp_path / "cuda")
    require_same(records(tmp_path / "cuda"), records(tmp_path / "cpu"))


@pytest.mark.slow
def test_a_language_model_on_the_device_gives_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = write_family("llama", tmp_path / "model"), write_data(tmp_path / "mine.jsonl")
    command = cli._parsed(arguments(model, examples, tmp_path / "run", "--measure", "gradient_rank,steering"))
    small = command.settings({})
    run_job(replace(small, device="cpu"), 0, tmp_path / "cpu")
    with stand_in_device(monkeypatch):
        run_job(replace(small, device="cuda"), 0, tmp_path / "cuda")
    require_same(records(tmp_path / "cuda"), records(tmp_path / "cpu"))


def test_a_model_in_memory_is_measured_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Tiny()
    few = {**SMALL, "measure": ["gradient_rank", "basis_capture"]}
    expected = lineament.measure(copy.deepcopy(model), data(), settings=few)
    with stand_in_device(monkeypatch):
        moved = copy.deepcopy(model).to(DEVICE)
        there = {task: batch.to(DEVICE) for task, batch in data().items()}
        found = lineament.measure(moved, there, settings=few)
        assert all(isinstance(parameter, OnDevice) for parameter in moved.parameters())
    require_same(found.records, expected.records)


def problem_on(device: str, space: str) -> tuple[SyntheticProblem, Batch]:
    problem = SyntheticProblem(settings(device, **{"recovery.space": space}), 0)
    return problem, problem.sample("copy", 12, Streams(0).generator("examples"))


@pytest.mark.parametrize("space", ["lora", "full"])
def test_scoring_a_population_waits_once_however_many_members(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Population(*problem_on("cpu", space)).score(members(problem_on("cpu", space)[0], 6)).losses
    with stand_in_device(monkeypatch) as waits:
        problem, batch = problem_on("cuda", space)
        population, counts = Population(problem, batch), []
        for n in (6, 24):
            waits.clear()
            losses = population.score(members(problem, n)).losses
            counts.append(waits.total())
            np.testing.assert_allclose(losses[:6], expected, rtol=1e-5)
    assert counts == [1, 1]


def members(problem: SyntheticProblem, n: int) -> GaussianMembers:
    return GaussianMembers(problem.parameters, Streams(0).child("members"), range(n), 0.01)


@pytest.mark.parametrize("space", ["lora", "full"])
def test_gradients_wait_no_longer_for_more_examples(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(device: str) -> tuple[torch.Tensor, ...]:
        problem, batch = problem_on(device, space)
        return group_gradients(problem, batch, 2).rows, gradient_gram(problem, batch, 2), mean_gradient(problem, batch)

    expected = made("cpu")
    with stand_in_device(monkeypatch) as waits:
        found = made("cuda")
        problem, batch = problem_on("cuda", space)
        counts = []
        for part in (batch.rows(slice(0, 4)), batch):
            waits.clear()
            gradient_gram(problem, part, 2)
            counts.append(waits.total())
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cpu"
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
    assert counts[0] == counts[1] <= 2


def test_a_training_on_the_device_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_device(monkeypatch):
        problem, batch = problem_on("cuda", "lora")
        points = [problem.parameters.read()]
        recorder = Recorder(problem.parameters, tmp_path / "rows")
        for _ in range(3):
            gradient = problem.parameters.gradient(problem.loss(batch))
            problem.parameters.write(problem.parameters.read() - 0.1 * gradient)
            recorder.append()
            points.append(problem.parameters.read())
        updates = recorder.close().updates(1, 3).rows
        moved = torch.stack([b.cpu() - a.cpu() for a, b in pairwise(points)])
    torch.testing.assert_close(updates.float(), moved.float())


def test_mixing_devices_and_generators_of_the_cpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_device(monkeypatch) as waits:
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="mixes devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator of the CPU"):
            torch.randn(3, device=DEVICE, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert float(there.sum()) == 3.0
        assert waits.total() == 1
