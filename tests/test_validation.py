"""Settings that cannot work are refused by name, before anything is made."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from lineament.errors import InputError
from lineament.runs.job import validate, validate_on
from lineament.settings.keys import KEYS, Key
from lineament.settings.presets import PRESETS, resolve
from lineament.settings.ranges import ANY
from lineament.settings.settings import Settings
from lineament.settings.words import value_words

SEARCH, STEERING = {"measure": "random_search"}, {"measure": "steering"}
GEOMETRY = {"measure": "local_geometry"}
# One of each form of a range, written out; those of all keys are tried below.
OUT_OF_RANGE = [
    ("seeds", 0, "seeds is 0; it must be at least 1 and at most 10000."),
    ("measure", "", "measure is (empty); it must be non-empty."),
    ("recovery.lr", -1, "recovery.lr is -1.0; it must be above 0."),
    ("recovery.lr", "inf", "recovery.lr is inf; it must be finite."),
    ("recovery.lr", "nan", "recovery.lr is nan; it must be finite."),
    ("recovery.beta2", 1, "recovery.beta2 is 1.0; it must be at least 0 and below 1."),
    ("recovery.threshold", 1.01, "recovery.threshold is 1.01; it must be above 0 and at most 1."),
    ("measurement.ranks", "0,10", "measurement.ranks is 0,10; it must be non-empty with each entry at least 1."),
    ("search.costs", "0.1,inf", "search.costs is 0.1,inf; it must be finite."),
    ("search.lora_ranks", "4,0", "search.lora_ranks is 4,0; it must be empty or with each entry at least 1."),
    ("steering.folds", 3, "steering.folds is 3; it must be at least 2 and a multiple of 2."),
    ("steering.depths", "", "steering.depths is (empty); it must be non-empty with each entry above 0 and at most 1."),
]
TOGETHER: list[tuple[dict[str, Any], list[str]]] = [
    ({"measurement.ranks": "1,10,500"}, ["rank 500", "280"]),
    ({"measurement.headline_rank": 3}, ["measurement.headline_rank is 3", "1,2,5,10,20"]),
    ({"measurement.gradients": 5}, ["measurement.gradients is 5", "number of tasks, 6"]),
    ({"measurement.drift_rank": 40}, ["measurement.drift_rank is 40", "32"]),
    ({"damage.kind": "other_tasks", "task.names": "sort"}, ["other_tasks", "besides the target"]),
    ({"damage.batch": 1}, ["damage.batch is 1", "at least 2"]),
    ({"damage.batch": 1, "damage.kind": "ascent", "measurement.grid": True}, ["damage.batch is 1"]),
    ({"model.heads": 3}, ["model.width is 64", "multiple of model.heads, 3"]),
    ({"model.length": 3}, ["task.evaluation_examples is 256", "Raise model.length"]),
    ({"model.name": "gpt2"}, ["model.name is gpt2", "lineament run lm"]),
    ({"task.targets": "sotr"}, ["sotr", "Did you mean 'sort'"]),
    ({"lora.targets": "qproj"}, ["qproj", "Did you mean 'q_proj'"]),
    ({"measure": "basis_capure"}, ["basis_capure", "Did you mean 'basis_capture'"]),
    ({**SEARCH, "search.headline_count": 63}, ["search.headline_count is 63", "among search.counts"]),
    ({**SEARCH, "search.draws": 127}, ["search.draws is 127", "128"]),
    ({**SEARCH, "search.theorem_draws": 127}, ["search.theorem_draws is 127", "128"]),
    ({**SEARCH, "search.density_draws": 127}, ["search.density_draws is 127", "128"]),
    ({**SEARCH, "search.spaces": "prefx"}, ["search.spaces", "Did you mean 'prefix'"]),
    ({**SEARCH, "search.informed": "full"}, ["search.informed", "'full'"]),
    ({**STEERING, "steering.examples": 15}, ["steering.examples is 15", "2 * steering.folds = 16"]),
    ({**STEERING, "task.evaluation_examples": 15}, ["task.evaluation_examples is 15", "2 * steering.folds = 16"]),
    ({**STEERING, "steering.effect_directions": 25}, ["steering.effect_directions is 25", "24"]),
    ({**SEARCH, "search.widths": "30"}, ["search.widths is 30", "multiple of model.heads, 4"]),
]


def refusal(changes: dict[str, Any]) -> str:
    settings = resolve("synthetic", "quick", [("test", changes)])
    with pytest.raises(InputError) as caught:
        validate(settings)
    return str(caught.value)


def needed_by(key: str) -> dict[str, Any]:
    return {"search": SEARCH, "steering": STEERING, "geometry": GEOMETRY}.get(key.split(".")[0], {})


@pytest.mark.parametrize(("key", "value", "message"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_in_one_form_of_sentence(key: str, value: Any, message: str) -> None:
    assert refusal({**needed_by(key), key: value}) == message


def edge_values(kind: Any) -> list[Any]:
    """Values around the bounds that ranges have."""
    if typing.get_origin(kind) is tuple:
        return [(), *((value,) for value in edge_values(typing.get_args(kind)[0]))]
    return {int: [-1, 0, 1, 2, 3, 7], float: [-1.0, 0.0, 1.0, 1.01], str: ["any"]}.get(kind, [])


# A kind of problem is a name, refused with the nearest one before ranges are looked at.
NUMBERS_AND_LISTS = [
    key for key in KEYS.values() if key.range.words != ANY and edge_values(key.type) and key.name != "problem"
]


@pytest.mark.parametrize("key", NUMBERS_AND_LISTS, ids=lambda key: key.name)
def test_every_range_refuses_a_value_and_names_key_value_and_range(key: Key) -> None:
    outside = [value for value in edge_values(key.type) if not key.range.holds(value)]
    assert outside
    for value in outside:
        message = refusal({**needed_by(key.name), key.name: value})
        assert message == f"{key.name} is {value_words(value)}; it must be {key.range.words}."


def test_an_unknown_kind_of_problem_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no problem 'syntetic'.* Did you mean 'synthetic'"):
        resolve("syntetic", "quick", [])
    assert "Did you mean 'synthetic'" in refusal({"problem": "syntetic"})


@pytest.mark.parametrize(("changes", "words"), TOGETHER)
def test_keys_that_do_not_fit_together_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(changes)
    for word in words:
        assert word in message


def test_a_run_without_a_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"task\.targets is empty"):
        validate(Settings())


def test_a_task_may_not_be_called_as_all_tasks_are() -> None:
    with pytest.raises(InputError, match="a task is named all_tasks"):
        validate_on(resolve("lm", "quick", [("test", {"task.targets": ["all_tasks"]})]), ["all_tasks", "other"])


@pytest.mark.parametrize(("problem", "preset"), PRESETS)
def test_presets_are_allowed_with_every_measurement(problem: str, preset: str) -> None:
    every = "gradient_rank,basis_capture,basis_drift,random_search,steering,local_geometry"
    validate(resolve(problem, preset, [("test", {"measure": every})]))


def test_edges_are_allowed() -> None:
    edges = {
        "damage.steps": 0,
        "recovery.threshold": 1,
        "recovery.momentum": 0,
        "measurement.gradients": 6,
        "measurement.drift_gradients": 5,
        "model.length": 5000,
        "seed": 2**63 - 5,
    }
    validate(resolve("synthetic", "quick", [("test", edges)]))
    validate(resolve("synthetic", "quick", [("test", {"damage.batch": 1, "damage.kind": "ascent"})]))


def test_a_measurement_s_keys_are_looked_at_only_when_it_is_measured() -> None:
    validate(resolve("synthetic", "quick", [("test", {"search.draws": 1, "steering.folds": 3})]))


def test_another_problem_is_held_to_its_own_tasks() -> None:
    settings = resolve("synthetic", "quick", [("test", {"task.targets": "mine", "measurement.gradients": 3})])
    validate_on(settings, ["mine", "yours", "theirs"])
    with pytest.raises(InputError, match="no task 'mine'"):
        validate_on(settings, ["yours"])
    with pytest.raises(InputError, match="number of tasks, 4"):
        validate_on(settings, ["mine", "a", "b", "c"])
