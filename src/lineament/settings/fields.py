"""What the settings are declared with: `setting()` for a field's default, meaning and unit, and types with ranges.

A type says which values a key may have, through annotated-types: `recovery.lr: PositiveFloat`. One that allows every
value says so: `AnyFloat`. `lineament keys`, the error for a value out of range and the reference page derive from both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from annotated_types import Ge, Gt, Interval, MinLen

T = TypeVar("T")


@dataclass(frozen=True)
class Anything:
    """Marks a type that allows every value, which is then a decision and not a range that was forgotten."""


@dataclass(frozen=True)
class OneOf:
    """Allows the names of a registry; unlike a `Literal`, also those that are added to it later."""

    names: Collection[str]


AnyFloat = Annotated[float, Anything()]
Text = Annotated[str, Anything()]
# A table of records, and numpy, have room for whole numbers below 2^63.
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
SeedCount = Annotated[int, Interval(ge=1, le=10_000)]
Threads = Annotated[int, Interval(ge=1, le=1024)]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
AtLeastTwo = Annotated[int, Ge(2)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(gt=0, le=1)]
DecayRate = Annotated[float, Interval(ge=0, lt=1)]
NonEmpty = Annotated[tuple[T, ...], MinLen(1)]


def setting(default: T, meaning: str, unit: str = "") -> T:
    """Declare one key: a dataclass field that carries its meaning and unit.

    Args:
        meaning: one sentence; no two keys share it.
        unit: what a number counts or measures, in the plural; empty for text, choices and pure numbers.
    """
    return field(default=default, metadata={"meaning": meaning, "unit": unit})
