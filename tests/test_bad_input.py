"""Generated bad input over every key, every number on the command line and every data format: one message, no trace."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from command_line import lineament_here

import lineament.commands.steer.generate  # noqa: F401 (what it imports sets filters of warnings, makes a folder)
from lineament import cli
from lineament.commands.steer.flags import ACTIONS
from lineament.errors import InputError
from lineament.problems.data_files import READERS
from lineament.problems.labelled_data import read_labelled
from lineament.runs.job import validate
from lineament.settings.flag_values import flag_name, flag_ranges
from lineament.settings.keys import KEYS
from lineament.settings.presets import resolve

VALUES: tuple[Any, ...] = (
    *(
        "nan",
        "inf",
        "-1",
        "0",
        "1" + "0" * 30,
        "9" * 5000,
        "²",
        "٣",
        "a\0b",
        "\ud800",
        "x" * 5000,
        "",
        " ",
        "[bold]",
        "1e400",
    ),
    *(None, True, [], {}, [[]], -(10**30), float("nan"), "../x", "True", ",", "1,,x", "1e400"),
)
TEXTS = (
    *("", "\ufeff", "[", "{}", "[[]]", "null", '{"text": 1}', '{"text": "x", "label": "maybe"}', '{"text": "\\ud800"}'),
    *(
        '{"text": "x"}' * 2,
        "[" * 5000,
        "9" * 5000,
        '"',
        'text,label\n"x',
        "a,a\n1,2",
        "a\n1,2",
        "text\tlabel\nx\ty",
        "\0",
    ),
    *(
        "text\tlabel\nx\ty",
        '[{"text": "x", "label": NaN}]',
        '{"question": "q", "choices": [1], "answer": 0}',
        '{"messages": []}',
    ),
)
SMALL: dict[str, Any] = {"task.names": ["copy"], "task.targets": ["copy"]}
COMMANDS = {
    "run": ["run", "synthetic"],
    "search": ["search", "run"],
    "analyze": ["analyze", "rows"],
    "advise": ["advise", "rows"],
    "make": ["steer", "make", "data.jsonl"],
    "eval": ["steer", "eval", "v.gguf", "data.jsonl"],
    "generate": ["steer", "generate", "v.gguf", "hello"],
    "import": ["steer", "import", "v.gguf", "v.safetensors"],
}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is written where the test runs, and nothing stays in the temporary folder."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    filters = list(warnings.filters)
    yield
    assert [path.name for path in (*here.iterdir(), *temporary.iterdir())] == []
    assert list(warnings.filters) == filters


def refusal(key: str, value: Any) -> str | None:
    """What is said of a value; None if it is taken."""
    try:
        validate(resolve("synthetic", "quick", [("here", {**SMALL, key: value})]))
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("key", list(KEYS))
def test_every_key_takes_a_value_or_says_why_not(key: str) -> None:
    said = [message for value in VALUES if (message := refusal(key, value)) is not None]
    assert len(said) > 2
    for message in said:
        assert "\n" not in message
        assert message.encode()  # whole characters alone


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_number_on_the_command_line_is_refused_out_of_its_range(name: str) -> None:
    kind = {**cli.COMMANDS, **ACTIONS}[name]
    for field, value in itertools.product(flag_ranges(kind), ("nan", "-1" + "0" * 30, "9" * 5000, "²", "a\0b")):
        done = lineament_here(*COMMANDS[name], f"{flag_name(field)}={value}")
        assert done.returncode == 2, (field, value, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("suffix", list(READERS))
def test_every_data_file_is_read_or_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"data{suffix}"
    for text in (*TEXTS, *(json.dumps([{"text": value}]) for value in VALUES if not isinstance(value, float))):
        for content in (text.encode("utf-8", "surrogatepass"), text.encode("utf-16", "surrogatepass")):
            file.write_bytes(content)
            with contextlib.suppress(InputError):
                read_labelled(file)
