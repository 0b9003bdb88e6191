"""Typed settings: precedence, types, nearest matches, identity."""

from __future__ import annotations

import re
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import tomli_w
from annotated_types import Interval, MinLen

from lineament.errors import InputError
from lineament.problems.kinds import KINDS
from lineament.settings.fields import AnyFloat
from lineament.settings.keys import KEYS, Key
from lineament.settings.plain import flattened, to_dict
from lineament.settings.presets import PRESETS, resolve
from lineament.settings.ranges import ANY, range_of
from lineament.settings.reading import from_file, parse_assignment, updated
from lineament.settings.settings import Settings

EXTENDS_A_RUN = {"seed", "seeds", "measure"}


def leaf(settings: Settings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def other_value(key: str, kind: Any) -> Any:
    """A valid value that is not the default."""
    now = leaf(Settings(), key)
    if typing.get_origin(kind) is Literal:
        return next(choice for choice in typing.get_args(kind) if choice != now)
    if typing.get_origin(kind) is tuple:
        return {int: [7], float: [0.7], str: ["other"]}[typing.get_args(kind)[0]]
    return {bool: lambda: not now, int: lambda: now + 1, float: lambda: now + 0.5, str: lambda: now + "x"}[kind]()


def test_later_sources_win() -> None:
    settings = updated(Settings(), {"recovery.lr": 1e-3, "recovery.steps": 7}, "preset")
    settings = updated(settings, {"recovery.lr": "2e-3"}, "--set")
    assert settings.recovery.lr == 2e-3
    assert settings.recovery.steps == 7
    assert settings.recovery.momentum == Settings().recovery.momentum
    assert Settings().recovery.lr != 2e-3


def test_resolve_puts_defaults_below_preset_below_layers() -> None:
    plain = resolve("synthetic", "quick", [])
    assert plain.training.steps == PRESETS["synthetic", "quick"]["training.steps"] != Settings().training.steps
    layers = [("--config", {"training.steps": 11, "lora.rank": 3}), ("--set", {"training.steps": "12"})]
    found = resolve("synthetic", "quick", layers)
    assert (found.training.steps, found.lora.rank, found.preset) == (12, 3, "quick")
    assert resolve("lm", "quick", []).task.targets == KINDS["lm"].targets
    assert resolve("lm", "quick", [("--set", {"task.targets": "cities"})]).task.targets == ("cities",)
    with pytest.raises(InputError, match="Did you mean 'quick'"):
        resolve("synthetic", "quik", [])


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_can_be_set_and_only_seeds_and_measurements_leave_the_hash(key: str) -> None:
    value = other_value(key, KEYS[key].type)
    changed = updated(Settings(), {key: value}, "test")
    assert leaf(changed, key) == (tuple(value) if isinstance(value, list) else value)
    assert (changed.hash() == Settings().hash()) == (key in EXTENDS_A_RUN)


def test_an_unknown_key_gets_its_nearest_match_and_its_source() -> None:
    with pytest.raises(InputError, match=r"'recovery\.learning'") as caught:
        updated(Settings(), {"recovery.learning": 1}, "--config x.toml")
    assert "--config x.toml" in str(caught.value)
    with pytest.raises(InputError, match=r"Did you mean 'recovery\.momentum'"):
        updated(Settings(), {"recovery.momentun": 1}, "--set")
    with pytest.raises(InputError, match="no settings key"):
        updated(Settings(), {"recovery": {"lr": 1}}, "--set")
    with pytest.raises(InputError, match="Did you mean 'adamw'"):
        updated(Settings(), {"recovery.optimizer": "adam"}, "--set")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recovery.steps", "many"),
        ("recovery.steps", 1.5),
        ("recovery.steps", True),
        ("recovery.steps", "inf"),
        ("recovery.steps", "nan"),
        ("recovery.steps", [1]),
        ("recovery.lr", "fast"),
        ("recovery.lr", [0.1]),
        ("measurement.grid", "perhaps"),
        ("measurement.grid", 2),
        ("measurement.ranks", "1,two"),
        ("measurement.ranks", 5),
        ("measurement.ranks", [1.5]),
        ("recovery.space", 3),
    ],
)
def test_a_value_of_the_wrong_type_is_named(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        updated(Settings(), {key: value}, "--set")
    assert key in str(caught.value)
    assert "--set" in str(caught.value)


def test_text_is_read_as_the_field_demands() -> None:
    texts = {
        "recovery.steps": "1e2",
        "recovery.lr": "3e-4",
        "measurement.grid": "Yes",
        "measurement.inside_all": "0",
        "measurement.ranks": "1,2,5",
        "task.names": "copy,sort,",
        "task.targets": "",
        "model.name": "some/model",
    }
    found = updated(Settings(), texts, "--set")
    assert found.recovery.steps == 100
    assert isinstance(found.recovery.steps, int)
    assert found.recovery.lr == 3e-4
    assert found.measurement.grid is True
    assert found.measurement.inside_all is False
    assert found.measurement.ranks == (1, 2, 5)
    assert found.task.names == ("copy", "sort")
    assert found.task.targets == ()
    assert found.model.name == "some/model"


def test_large_seeds_are_kept_exactly() -> None:
    assert updated(Settings(), {"seed": 2**53 + 1}, "flag").seed == 2**53 + 1
    assert updated(Settings(), {"seed": str(2**53 + 1)}, "--set").seed == 2**53 + 1


def test_settings_survive_a_toml_file(tmp_path: Path) -> None:
    settings = updated(Settings(), {name: other_value(name, key.type) for name, key in KEYS.items()}, "test")
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(to_dict(settings)))
    assert updated(Settings(), from_file(path), str(path)) == settings
    assert dict(flattened(tomllib.loads(path.read_text()))).keys() == KEYS.keys()


def test_bad_files_and_assignments_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        from_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(InputError, match="not valid TOML"):
        from_file(tmp_path / "bad.toml")
    assert parse_assignment(" recovery.lr = 1e-3=x ") == ("recovery.lr", "1e-3=x")
    with pytest.raises(InputError, match="has no '='"):
        parse_assignment("recovery.lr")


# Numbers that count and measure nothing: ratios, step sizes, decays, offsets, and the name of a seed.
PURE_NUMBERS = {
    "seed",
    "training.lr",
    "operating.lr",
    "lora.alpha",
    "damage.lr",
    "damage.relative_sigma",
    "recovery.lr",
    "recovery.momentum",
    "recovery.beta2",
    "recovery.eps",
    "recovery.weight_decay",
    "recovery.threshold",
    "search.curvature_error",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_has_a_sentence_a_range_that_holds_its_default_and_a_unit(key: Key) -> None:
    assert re.fullmatch(r"[A-Z].*[^.]\.", key.meaning)
    assert key.range.words
    assert key.range.holds(key.default)
    entry = typing.get_args(key.type)[0] if typing.get_origin(key.type) is tuple else key.type
    assert bool(key.unit) == (entry in (int, float) and key.name not in PURE_NUMBERS)


def test_no_two_keys_share_a_sentence() -> None:
    assert len({key.meaning for key in KEYS.values()}) == len(KEYS)


def test_free_keys_are_texts() -> None:
    free = {name for name, key in KEYS.items() if key.range.words == ANY}
    assert {name for name in free if KEYS[name].type not in (str, tuple[str, ...])} == set()


def test_the_range_of_an_annotation_is_found_or_demanded() -> None:
    assert range_of(Annotated[int, Interval(ge=1, le=3)]).words == "at least 1 and at most 3"
    assert range_of(Literal["a", "b"]).words == "one of a, b"
    assert not range_of(bool).holds("true")
    assert range_of(AnyFloat).holds(-7.5)
    for annotation in (float, tuple[int, ...], Annotated[int, "small"], Annotated[tuple[AnyFloat, ...], MinLen(2)]):
        with pytest.raises(TypeError):
            range_of(annotation)
