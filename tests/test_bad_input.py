"""Generated bad input over every key, every number on the command line and every data format: one message, no trace."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import tempfile
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import lineament_here
from test_damaged_files import OURS

import lineament.commands.steer.generate  # noqa: F401 (what it imports sets filters of warnings, makes a folder)
from lineament import cli
from lineament.commands.steer.flags import ACTIONS
from lineament.errors import InputError
from lineament.problems.data_files import READERS
from lineament.problems.labelled_data import read_labelled
from lineament.runs.job import validate
from lineament.settings.flag_values import flag_name, flag_ranges, require_flags
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
# Files of somebody else where the commands run, with names that Lineament has for its own.
FOREIGN = (
    *("records/recording-mine-seed0.json", "records/a.safetensors", "report.html", "claims.json", "index.json"),
    *("rows-00000.safetensors", "start.safetensors", ".tmp-mine.tmp", "runs/notes.txt", "lock"),
)
TOML = (
    *(
        "a",
        "a = ",
        "= 1",
        "\0",
        "seed = 9999999999999999999999",
        "seed = nan",
        "seed = -1",
        "seed = [1]",
        "seed = 1\nseed = 2",
    ),
    *(
        "task = 1",
        "[task]\nnames = 1",
        "[task]\nnames = [1]",
        '[task]\ntargets = ["[/red]"]',
        '"" = 1',
        "[[task]]\na = 1",
    ),
    *("[recovery]\nlr = 'x'", "recovery.lr = 1\nrecovery = 2", "x = " + "[" * 5000, "a" + ".a" * 500 + " = 1"),
    *(
        "[vary]\nseed = []",
        "vary = 3",
        "[vary]\nmeasure = 1",
        "[vary]\n'recovery.lr' = [nan]",
        "[vary.recovery]\nlr = 1",
    ),
    *("problem = 7", 'problem = "lm\\u0000"', 'preset = "[/red]"', "model = 1979-05-27T07:32:00Z", "threads = 1e400"),
)
SMALL: dict[str, Any] = {"task.names": ["copy"], "task.targets": ["copy"]}
# Files of ours in which every key may be absent, as in what earlier versions wrote.
ALL_OPTIONAL = {"provenance.json"}
COMMANDS = {
    "run": ["run", "synthetic"],
    "search": ["search", "run"],
    "analyze": ["analyze", "rows"],
    "advise": ["advise", "rows"],
    "adapters": ["adapters", "adapter"],
    "make": ["steer", "make", "data.jsonl"],
    "eval": ["steer", "eval", "v.gguf", "data.jsonl"],
    "generate": ["steer", "generate", "v.gguf", "hello"],
    "compose": ["compose", "a", "b", "--data", "a.jsonl", "--data", "b.jsonl"],
    "import": ["steer", "import", "v.gguf", "v.safetensors"],
    "model": ["model", "./nowhere", "--out", "new"],
}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is written where the test runs, and nothing stays in the temporary folder."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in FOREIGN:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(f"{name} of somebody")
    filters = list(warnings.filters)
    yield
    kept = {path.relative_to(here).as_posix(): path.read_text() for path in here.rglob("*") if path.is_file()}
    assert kept == {name: f"{name} of somebody" for name in FOREIGN}
    assert [path.name for path in temporary.iterdir()] == []
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


def kind_of(name: str) -> Any:
    return {**cli.COMMANDS, **ACTIONS}[name]


def flags_of(kind: Any, *types: Any) -> list[str]:
    """Fields of a command that take one of these types, positional ones left out."""
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [item.name for item in dataclasses.fields(kind)]
    return [name for name in names if "Positional" not in str(hints[name]) and set(types) & set(inner(hints[name]))]


def inner(hint: Any) -> Iterator[Any]:
    """The plain types that an annotation is made of; a choice counts as `Literal`."""
    origin = typing.get_origin(hint)
    yield origin or hint
    if origin is not typing.Literal:
        for part in typing.get_args(hint):
            yield from inner(part)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_text_on_the_command_line_is_checked(name: str) -> None:
    parsed, kind = cli._parsed(COMMANDS[name]), kind_of(name)
    hints = typing.get_type_hints(kind)
    fields = flags_of(kind, str, Path)
    assert fields
    for field, text in itertools.product(fields, ("a\0b", "\ud800", "x/" + "\udfff")):
        value: Any = Path(text) if Path in set(inner(hints[field])) else text
        given = (value,) if tuple in set(inner(hints[field])) else value
        with pytest.raises(InputError, match=f"^{flag_name(field)} is ") as raised:
            require_flags(dataclasses.replace(parsed, **{field: given}))
        assert str(raised.value).encode()


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_choice_on_the_command_line_is_checked(name: str) -> None:
    for field in flags_of(kind_of(name), typing.Literal):
        done = lineament_here(*COMMANDS[name], f"{flag_name(field)}=[/red]²")
        assert done.returncode == 2, (field, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("field", ["preset", "measure", "device", "set", "vary", "ray-address", "track", "executor"])
def test_texts_that_are_names_of_something(field: str) -> None:
    for value in ("[/red]", "²", "", "=", "a=[/red]", "task.names=[/red]", ",", "x" * 5000):
        done = lineament_here(*COMMANDS["run"], "--dry-run", f"--{field}={value}")
        assert done.returncode == 2, (field, value, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["run", "synthetic", "--config"], ["sweep"]], ids=" ".join)
def test_every_toml_file_is_refused_where_it_is_wrong(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "given.toml"
    for text in TOML:
        file.write_text(text)
        done = lineament_here(*command, str(file))
        assert done.returncode == 2, (text[:60], done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("name", list(OURS))
def test_every_json_file_of_ours_is_read_or_refused(name: str, tmp_path: Path) -> None:
    body, read = OURS[name]
    file = tmp_path / name
    for text in TEXTS:
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        refused = contextlib.nullcontext() if name in ALL_OPTIONAL and is_object(text) else pytest.raises(InputError)
        with refused as raised:
            read(file)
        assert raised is None or name in str(raised.value)
    whole = body()
    values = [value for value in VALUES if not isinstance(value, float) and value != "\ud800"]
    for key, value in itertools.product(whole, values):
        file.write_text(json.dumps({**whole, key: value}))
        with contextlib.suppress(InputError):
            read(file)


def is_object(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        return isinstance(body, dict) and bool(json.dumps(body, ensure_ascii=False).encode())
    return False


def parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def test_every_parquet_file_is_read_or_refused(tmp_path: Path) -> None:
    texts, labels = ["a b", "c d", None], [1, 0, None]
    far = pa.array([2**52, -(2**52)], pa.timestamp("ms"))
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    whole = parquet({"text": texts, "label": labels})
    files = [b"", b"PAR1", whole[:-9], whole[9:], whole, whole[: len(whole) // 2] + whole[len(whole) // 2 + 1 :]]
    tables: list[dict[str, Any]] = [
        *({"text": texts}, {"text": [], "label": []}, {"text": broken, "label": [1]}, {"text": far, "label": [1, 0]}),
        *(
            {"text": [b"\xff"], "label": [1]},
            {"text": [[["x"]]], "label": [{"a": 1}]},
            {"text": ["x"], "label": [1e400]},
        ),
        *({"question": ["q"], "choices": [[1]], "answer": [0]}, {"text": ["\0"], "label": ["²"]}),
    ]
    file = tmp_path / "data.parquet"
    for content in (*files, *map(parquet, tables)):
        file.write_bytes(content)
        with contextlib.suppress(InputError):
            read_labelled(file)
