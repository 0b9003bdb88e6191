"""Every settings key with all that is known of it, read from the fields of `Settings` and its groups."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from lineament.errors import InputError
from lineament.files.reading import shortened
from lineament.settings.plain import value_of
from lineament.settings.ranges import Range, is_finite, range_of
from lineament.settings.settings import Settings
from lineament.settings.words import value_words


@dataclass(frozen=True)
class Key:
    """One key of the settings.

    Attributes:
        name: dotted, e.g. `recovery.lr`.
        type: as declared, without its range: `float`, `tuple[int, ...]`, a `Literal` of choices.
        default: before any preset.
        range: which values are allowed.
        unit: what a number counts or measures; empty where it has none.
        meaning: one sentence.
    """

    name: str
    type: Any
    default: Any
    range: Range
    unit: str
    meaning: str

    def require_in_range(self, value: Any) -> None:
        """Refuse a value out of range.

        Raises:
            InputError: names the key, its value and what is allowed.
        """
        if complaint := self.range.complaint(value):
            raise InputError(f"{self.name} is {shortened(value_words(value))}; it must be {complaint}.")


def require_in_range(settings: Settings, unused_groups: Collection[str] = ()) -> None:
    """Check every key's value, except those of groups that this run does not use, e.g. `search`.

    Raises:
        InputError: names the first key out of range, its value and what is allowed.
    """
    for name, key in KEYS.items():
        value = value_of(settings, name)
        if name.partition(".")[0] not in unused_groups:
            key.require_in_range(value)
        elif not is_finite(value):  # what no file of settings can be compared with
            raise InputError(f"{name} is {value_words(value)}; it must be finite.")


def _keys_of(group: type, prefix: str = "") -> Iterator[Key]:
    plain, annotated = typing.get_type_hints(group), typing.get_type_hints(group, include_extras=True)
    for item in dataclasses.fields(group):
        name, kind = prefix + item.name, plain[item.name]
        if dataclasses.is_dataclass(kind):
            yield from _keys_of(cast(type, kind), f"{name}.")
        else:
            allowed = range_of(annotated[item.name])
            yield Key(name, kind, item.default, allowed, item.metadata["unit"], item.metadata["meaning"])


# In the order of the fields, which is that of config.toml.
KEYS: Mapping[str, Key] = {key.name: key for key in _keys_of(Settings)}
