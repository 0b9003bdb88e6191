"""What two tiny runs gave before files and names of the package changed places, they give still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from unchanged_runs import RUNS, kept

# On the processor of the fixtures the numbers are equal bit for bit. Without its vector instructions (AVX-512 and AVX2
# switched off in torch, MKL and oneDNN) no value moved by more than 0.013 of itself or, near zero, 2e-7.
RELATIVE, ABSOLUTE = 0.03, 1e-6
# Sentences, which may be put better; whether there is a reason stays.
PROSE = ("rule", "definition", "reason")


@pytest.fixture(scope="module", params=RUNS)
def before_and_now(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Records and claims as they were kept, and as they are made now."""
    name: str = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    return kept(name), RUNS[name](folder)


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Yield where two JSON values differ; a mapping may have gained keys, and numbers may be rounded otherwise."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key, value in before.items():
            if key in PROSE:
                value, other = value is None, now.get(key) is None
            else:
                other = now.get(key, "absent")
            yield from differences(value, other, f"{where}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (value, other) in enumerate(zip(before, now, strict=True)):
            yield from differences(value, other, f"{where}/{i}")
    elif isinstance(before, float) and isinstance(now, float):
        if now != pytest.approx(before, rel=RELATIVE, abs=ABSOLUTE):
            yield f"{where}: {before} became {now}"
    elif type(before) is not type(now) or before != now:
        yield f"{where}: {before!r} became {now!r}"


def test_records_hold_the_same_quantities(before_and_now: tuple[Any, Any]) -> None:
    before, now = before_and_now
    assert len(before["records"]) == 5
    assert list(now["records"]) == list(before["records"])
    assert list(differences(before["records"], now["records"])) == []


def test_claims_come_to_the_same_verdicts(before_and_now: tuple[Any, Any]) -> None:
    before, now = before_and_now
    assert [claim["id"] for claim in now["claims"]] == [claim["id"] for claim in before["claims"]]
    assert list(differences(before["claims"], now["claims"])) == []


@pytest.mark.parametrize(
    ("before", "now", "n"),
    [
        ({"value": 0.5}, {"value": 0.5, "new": 1}, 0),
        ({"value": 0.5}, {"value": 0.51}, 0),
        ({"value": 0.5}, {"value": 0.52}, 1),
        ({"value": 0.5}, {"value": None}, 1),
        ({"value": None}, {}, 1),
        ({"unit": "steps"}, {"unit": "step"}, 1),
        ({"reason": "one seed"}, {"reason": "a single seed"}, 0),
        ({"reason": "one seed"}, {"reason": None}, 1),
        ([1, 2], [1], 1),
        ({"holds": True}, {"holds": 1}, 1),
    ],
)
def test_differences_are_seen(before: Any, now: Any, n: int) -> None:
    assert len(list(differences(before, now))) == n
