"""Where a study operates: an adapter and untrained weights are trained to theta_star, trained weights are there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems_table import CASES, tiny_settings

from lineament.problems.in_memory import InMemoryProblem
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import Problem
from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.training import DamageSettings, OperatingSettings
from lineament.streams import Streams
from lineament.study.case import Case
from lineament.study.files import StudyFiles
from lineament.study.study import EARLY_STEPS, damaged_point
from lineament.study.training import reach_operating_point

SETTINGS = replace(
    tiny_settings("full"),
    operating=OperatingSettings(steps=EARLY_STEPS + 2, lr=1e-2),
    damage=DamageSettings(steps=3),
)


def points(problem: Problem, folder: Path) -> dict[str, torch.Tensor]:
    return damaged_point(Case(problem, SETTINGS, problem.tasks[0], 0, StudyFiles.inside(folder)))


@pytest.mark.parametrize("name", ["own_linear", "transformer_lora"])
def test_an_untrained_model_and_an_adapter_are_trained_to_the_operating_point(name: str, tmp_path: Path) -> None:
    problem = CASES[name].make()
    start = problem.parameters.read()
    found = points(problem, tmp_path)
    again = CASES[name].make()
    steps = {}
    reach_operating_point(
        again,
        SETTINGS.operating,
        Streams(0).child("study").child("operating"),
        lambda step, loss: bool(steps.update({step: again.parameters.read()})),
    )
    assert torch.equal(found["start"], start)
    assert torch.equal(found["early"], steps[EARLY_STEPS])
    assert torch.equal(found["star"], steps[EARLY_STEPS + 2])
    assert not torch.equal(found["star"], start)
    assert not torch.equal(found["broken"], found["star"])


def test_all_weights_of_a_trained_model_are_the_operating_point(tmp_path: Path) -> None:
    problem = CASES["transformer_full"].make()
    found = points(problem, tmp_path)
    assert torch.equal(found["star"], found["start"])
    assert torch.equal(found["early"], found["start"])
    assert not torch.equal(found["broken"], found["star"])


def test_which_problems_begin_trained() -> None:
    """A user's own kind of problem is trained unless it says otherwise; a language model knows no statement task."""
    assert [kind.starts_trained for kind in (SyntheticProblem, InMemoryProblem)] == [True, True]
    assert [kind.starts_trained for kind in (Problem, LanguageModelProblem)] == [False, False]
