"""Plans: timed as a job would run, leaving nothing behind, and adding up."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems_table import tiny_settings

from lineament.problems.problem import Problem
from lineament.runs import planning
from lineament.runs.planning import plan
from lineament.settings.reading import updated
from lineament.settings.settings import Settings

TINY = updated(tiny_settings(), {"task.targets": ["copy"], "seeds": 3}, "test")


@pytest.mark.parametrize("named", [True, False])
def test_a_plan_leaves_no_base_model_and_no_setting(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if named:
        monkeypatch.setenv("LINEAMENT_CACHE", str(tmp_path / "own"))
    else:
        monkeypatch.delenv("LINEAMENT_CACHE")
    before, threads = dict(os.environ), torch.get_num_threads()
    plan(TINY, 1)
    assert list(tmp_path.rglob("*")) == []
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads


def test_a_plan_that_fails_leaves_no_setting_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(problem: Problem, settings: Settings) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "_seconds_per_example", fail)
    before, threads = dict(os.environ), torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        plan(replace(TINY, threads=threads + 1), 1)
    assert dict(os.environ) == before
    assert torch.get_num_threads() == threads


def test_steps_are_timed_with_the_threads_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def spy(problem: Problem, settings: Settings) -> float:
        timed.append(torch.get_num_threads())
        return 0.5

    monkeypatch.setattr(planning, "_seconds_per_example", spy)
    for threads in (1, 2):
        plan(replace(TINY, threads=threads), 1)
    assert timed == [1, 2]


def test_a_plan_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_seconds_per_example", lambda problem, settings: 0.5)
    one, two = plan(TINY, 1), plan(TINY, 2)
    for stage in one.stages:
        assert stage.examples > 0
        assert stage.seconds == pytest.approx(stage.examples / 2, abs=0.5)
    job = sum(stage.seconds for stage in one.stages)
    assert (one.n_jobs, one.seconds, two.seconds) == (3, pytest.approx(3 * job), pytest.approx(2 * job))
    assert plan(replace(TINY, seeds=1), 4).seconds == pytest.approx(job)
