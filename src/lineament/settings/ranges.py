"""Which values a key may have, derived from the annotation of its field: in words, and as a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MinLen, MultipleOf

from lineament.settings.fields import Anything, OneOf

ANY = "any"
# Of every whole number that has no bound of its own.
MOST = 1_000_000


@dataclass(frozen=True)
class Range:
    """A range in words that go on after "it must be", as in "at least 1", and the test itself.

    Attributes:
        most: the largest whole number where the words name none: whatever counts more is a slip of the pen, and no
            memory holds it.
    """

    words: str
    holds: Callable[[Any], bool]
    most: int | None = None

    def complaint(self, value: Any) -> str | None:
        """Return what a value must be, to go on after "it must be"; None if it is allowed."""
        if not is_finite(value):
            return "finite"
        numbers = value if isinstance(value, tuple) else (value,)
        if self.most is not None and any(isinstance(number, int) and abs(number) > self.most for number in numbers):
            return f"at most {self.most}"
        return None if self.holds(value) else self.words


def range_of(annotation: Any) -> Range:
    """Derive the range of a field from its annotation.

    Raises:
        TypeError: the annotation states no range, or one that has no words here.
    """
    kind, bounds = _parts(annotation)
    if kind is bool:
        return Range("true or false", lambda value: isinstance(value, bool))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return Range(f"one of {', '.join(map(str, choices))}", lambda value: value in choices)
    if get_origin(kind) is tuple:
        return _list_range(get_args(kind)[0], bounds)
    if not bounds:
        raise TypeError(f"{annotation} states no range; annotate one, or Anything() if every value is allowed.")
    most = None if kind is not int or any(isinstance(bound, Le | Lt) for bound in bounds) else MOST
    return replace(_both([_bound_range(bound) for bound in bounds]), most=most)


def is_finite(value: Any) -> bool:
    """Whether a number, or every number of a list, is neither NaN nor infinite."""
    numbers = value if isinstance(value, tuple) else [value]
    return all(math.isfinite(number) for number in numbers if isinstance(number, float))


def _parts(annotation: Any) -> tuple[Any, list[Any]]:
    """The plain type of an annotation, and its bounds one by one."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    kind, *metadata = get_args(annotation)
    return kind, [bound for item in metadata for bound in _ungrouped(item)]


def _ungrouped(item: Any) -> Iterator[Any]:
    if isinstance(item, GroupedMetadata):  # Interval
        yield from item
    else:
        yield item


def _bound_range(bound: Any) -> Range:
    match bound:
        case Anything():
            return Range(ANY, lambda value: True)
        case OneOf(names=names):
            return Range(f"one of {', '.join(names)}", lambda value: value in names)
        case Gt(gt=low):
            return Range(f"above {low}", lambda value: value > low)
        case Ge(ge=low):
            return Range(f"at least {low}", lambda value: value >= low)
        case Lt(lt=high):
            return Range(f"below {high}", lambda value: value < high)
        case Le(le=high):
            return Range(f"at most {high}", lambda value: value <= high)
        case MultipleOf(multiple_of=step):
            return Range(f"a multiple of {step}", lambda value: value % step == 0)
    raise TypeError(f"{bound} is no bound that is known here; add its words and its test to `_bound_range`.")


def _list_range(entry: Any, bounds: list[Any]) -> Range:
    if any(bound != MinLen(1) for bound in bounds):
        raise TypeError(f"a list may be bound to be non-empty, MinLen(1), and by nothing else; got {bounds}.")
    each, shortest = range_of(entry), len(bounds)
    return Range(
        _list_words(each, shortest),
        lambda values: len(values) >= shortest and all(each.holds(value) for value in values),
        each.most,
    )


def _list_words(each: Range, shortest: int) -> str:
    if each.words == ANY:
        return "non-empty" if shortest else ANY
    return f"{'non-empty' if shortest else 'empty or'} with each entry {each.words}"


def _both(ranges: list[Range]) -> Range:
    return Range(
        " and ".join(one.words for one in ranges),
        lambda value: all(one.holds(value) for one in ranges),
    )
