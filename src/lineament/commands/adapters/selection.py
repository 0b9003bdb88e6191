"""What `lineament adapters` was asked to make: names of adapters, weights of a sum, a rank or share to cut to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lineament.errors import InputError, unknown_name
from lineament.files.reading import shown


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name each folder by the shortest end of its path that no other one has.

    Raises:
        InputError: a folder that is given twice.
    """
    paths = [folder.absolute().resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise InputError(f"{folders[i]} is given twice; give each adapter once.")
    names = []
    for path in paths:
        length = 1
        while length < len(path.parts) and sum(_end(other, length) == _end(path, length) for other in paths) > 1:
            length += 1
        names.append(_end(path, length))
    return names


def weights_of(text: str, names: Sequence[str]) -> dict[str, float]:
    """Parse `a=1,b=0.5` to the weights of a sum by adapters' names.

    Raises:
        InputError: no such form, an unknown name, one twice, a weight that is no finite number, or only zeros.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, sign, number = part.strip().rpartition("=")
        if not sign:
            raise InputError(f"--combine must be NAME=WEIGHT, comma separated, as a=1,b=0.5; got {shown(part)}.")
        if name not in names:
            raise unknown_name("adapter", name, names, "--combine")
        if name in weights:
            raise InputError(f"--combine names {name} twice; give it one weight.")
        weights[name] = _number(number, f"the weight of {name} in --combine")
    if not any(weights.values()):
        raise InputError("--combine has no weight but 0, which makes no adapter.")
    return weights


def sum_in_words(weights: Mapping[str, float]) -> str:
    """Write a sum as `a - 0.5 b`."""
    text = ""
    for name, weight in weights.items():
        sign = ("-" if weight < 0 else "") if not text else (" - " if weight < 0 else " + ")
        text += f"{sign}{'' if abs(weight) == 1 else f'{abs(weight):g} '}{name}"
    return text


def rank_or_share(text: str) -> int | float:
    """Parse what `--truncate` gives: a whole number is a rank, a decimal number or one of per cent a share.

    Raises:
        InputError: neither; says what is allowed.
    """
    allowed = f"--truncate must be a rank of at least 1, as 4, or a share, as 0.99 or 99%; got {shown(text)}."
    bare = text.strip()
    if bare.isascii() and bare.isdigit() and len(bare) < 7:
        if int(bare) < 1:
            raise InputError(allowed)
        return int(bare)
    try:
        share = float(bare.removesuffix("%")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        raise InputError(allowed) from None
    if not 0 < share <= 1:
        raise InputError(allowed)
    return share


def differing_bases(bases: Mapping[str, str | None]) -> str | None:
    """Say which base models adapters name, by adapter, where they name different ones; None where they do not."""
    named = {name: base for name, base in bases.items() if base}
    if len(set(named.values())) < 2:
        return None
    listed = "; ".join(f"{name}: {base}" for name, base in named.items())
    return f"the adapters name different base models ({listed}); sums mean something on one base only."


def _end(path: Path, length: int) -> str:
    return Path(*path.parts[-length:]).as_posix()


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} must be a finite number; got {shown(text)}.")
    return value
