"""Settings that cannot work are refused by name, before anything is made."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from lineament.errors import InputError
from lineament.runs.job import validate, validate_on
from lineament.runs.validation import RANGES, SEARCH_RANGES, STEERING_RANGES
from lineament.settings.presets import PRESETS, resolve
from lineament.settings.settings import flat_keys

SEARCH, STEERING = {"measure": "random_search"}, {"measure": "steering"}
BAD: list[tuple[str, Any, str]] = [
    ("seeds", 0, "at least 1"),
    ("measure", "", "at least one name"),
    ("threads", 0, "at least 1"),
    ("model.width", 0, "at least 1"),
    ("model.layers", 0, "at least 1"),
    ("model.heads", 0, "at least 1"),
    ("model.length", 0, "at least 1"),
    ("task.evaluation_examples", 0, "at least 1"),
    ("task.text_tokens", 1, "at least 2"),
    ("training.steps", 0, "at least 1"),
    ("training.lr", 0, "above 0"),
    ("training.batch", 0, "at least 1"),
    ("operating.steps", 0, "at least 1"),
    ("operating.lr", -1e-3, "above 0"),
    ("operating.batch", 0, "at least 1"),
    ("lora.rank", 0, "at least 1"),
    ("lora.alpha", 0, "at least 1"),
    ("damage.steps", -1, "at least 0"),
    ("damage.lr", 0, "above 0"),
    ("damage.batch", 0, "at least 1"),
    ("damage.relative_sigma", -0.5, "at least 0"),
    ("recovery.lr", 0, "above 0"),
    ("recovery.lr", "inf", "finite"),
    ("recovery.lr", "nan", "finite"),
    ("recovery.momentum", 1, "at least 0 and below 1"),
    ("recovery.momentum", -0.1, "at least 0 and below 1"),
    ("recovery.beta2", 1, "at least 0 and below 1"),
    ("recovery.eps", 0, "above 0"),
    ("recovery.weight_decay", -1, "at least 0"),
    ("recovery.steps", 0, "at least 1"),
    ("recovery.batch", 0, "at least 1"),
    ("recovery.threshold", 0, "above 0 and at most 1"),
    ("recovery.threshold", 1.01, "above 0 and at most 1"),
    ("recovery.stay", -1, "at least 0"),
    ("measurement.ranks", "", "at least one entry"),
    ("measurement.ranks", "0,10", "each at least 1"),
    ("measurement.headline_rank", 0, "at least 1"),
    ("measurement.gradients", 1, "at least 2"),
    ("measurement.minibatch", 0, "at least 1"),
    ("measurement.curvature_batch", 0, "at least 1"),
    ("measurement.lanczos_steps", 0, "at least 1"),
    ("measurement.task_vector_steps", 0, "at least 1"),
    ("measurement.random_draws", 0, "at least 1"),
    ("measurement.inside_steps", 0, "at least 1"),
    ("measurement.inside_batch", 0, "at least 1"),
    ("measurement.drift_gradients", 0, "at least 1"),
    ("measurement.drift_rank", 0, "at least 1"),
    ("search.examples", 0, "at least 1"),
    ("search.draws", 1, "at least 2"),
    ("search.counts", "", "at least one entry"),
    ("search.counts", "0,64", "each at least 1"),
    ("search.headline_count", 1, "at least 2"),
    ("search.costs", "0.1,0", "each above 0"),
    ("search.costs", "0.1,inf", "finite"),
    ("search.spaces", "", "at least one name"),
    ("search.informed", "", "at least one name"),
    ("search.density_draws", 1, "at least 2"),
    ("search.curvature_error", 0, "above 0"),
    ("search.most_probes", 1, "at least 2"),
    ("search.lora_ranks", "4,0", "each at least 1"),
    ("search.widths", "0", "each at least 1"),
    ("steering.examples", 7, "at least 8"),
    ("steering.step_examples", 1, "at least 2"),
    ("steering.folds", 3, "even and at least 2"),
    ("steering.random_directions", 0, "at least 1"),
    ("steering.shuffled_steps", 0, "at least 1"),
    ("steering.sizes", "0.1,0", "each above 0"),
    ("steering.doses", "", "at least one number"),
    ("steering.depths", "0.5,1.5", "each above 0 and at most 1"),
    ("steering.kl", 0, "above 0"),
    ("steering.neutral_examples", 0, "at least 1"),
    ("steering.effect_directions", 0, "at least 1"),
]
TOGETHER: list[tuple[dict[str, Any], list[str]]] = [
    ({"measurement.ranks": "1,10,500"}, ["rank 500", "150"]),
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


@pytest.mark.parametrize(("key", "value", "words"), BAD)
def test_a_value_out_of_range_is_refused_with_key_and_range(key: str, value: Any, words: str) -> None:
    needed = {"search": SEARCH, "steering": STEERING}.get(key.split(".")[0], {})
    message = refusal({**needed, key: value})
    assert message.startswith(f"{key} is ")
    assert words in message


@pytest.mark.parametrize(("changes", "words"), TOGETHER)
def test_keys_that_do_not_fit_together_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    message = refusal(changes)
    for word in words:
        assert word in message


def is_checked(kind: Any) -> bool:
    arguments = typing.get_args(kind)
    return kind in (int, float) or (typing.get_origin(kind) is tuple and arguments[0] in (int, float))


def test_every_number_has_a_range_and_every_range_a_refused_value() -> None:
    ranged = {**RANGES, **SEARCH_RANGES, **STEERING_RANGES}
    numbers = {key for key, kind in flat_keys().items() if is_checked(kind)}
    assert numbers - set(ranged) == {"seed"}  # any whole number names a family of streams
    assert set(ranged) - {key for key, _, _ in BAD} == {"task.targets"}  # empty means the default


@pytest.mark.parametrize(("problem", "preset"), PRESETS)
def test_presets_are_allowed_with_every_measurement(problem: str, preset: str) -> None:
    every = "gradient_rank,basis_capture,basis_drift,random_search,steering"
    validate(resolve(problem, preset, [("test", {"measure": every})]))


def test_edges_are_allowed() -> None:
    edges = {
        "damage.steps": 0,
        "recovery.threshold": 1,
        "recovery.stay": 0,
        "recovery.momentum": 0,
        "measurement.gradients": 6,
        "measurement.drift_gradients": 5,
        "model.length": 5000,
        "seed": -3,
    }
    validate(resolve("synthetic", "quick", [("test", edges)]))
    validate(resolve("synthetic", "quick", [("test", {"damage.batch": 1, "damage.kind": "ascent"})]))


def test_a_measurement_s_keys_are_looked_at_only_when_it_is_measured() -> None:
    validate(resolve("synthetic", "quick", [("test", {"search.draws": 1, "steering.folds": 3})]))


def test_another_problem_is_held_to_its_own_tasks() -> None:
    settings = resolve("synthetic", "quick", [("test", {"task.targets": "mine", "measurement.gradients": 3})])
    validate_on(settings, ["mine", "yours", "theirs"])
    with pytest.raises(InputError, match="unknown task 'mine'"):
        validate_on(settings, ["yours"])
    with pytest.raises(InputError, match="number of tasks, 4"):
        validate_on(settings, ["mine", "a", "b", "c"])
