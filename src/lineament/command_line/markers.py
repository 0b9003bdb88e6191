"""What the dataclass of a command's flags is annotated with, besides its types and ranges.

A field is a flag of its own name (`dry_run` is --dry-run) and the text below it the flag's meaning. A tuple may be
given several times. `run: Positional[Path]` is an argument without a name. A class variable HEADING is what the help
lists the flags of that class under.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    """Marks an argument that stands by its place."""


Positional = Annotated[T, _Place()]


@dataclass(frozen=True)
class Said:
    """Says of a flag what no text below the field can.

    Attributes:
        meaning: instead of that text, where it is made of other things; empty keeps the text.
        value: what the flag's value is called in the help, e.g. `KEY=VALUE`; empty calls it by its type.
    """

    meaning: str = ""
    value: str = ""
