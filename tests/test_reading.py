"""The one reader: every fault of a file from outside has a sentence, and nothing else reads files."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import lineament_here

import lineament
from lineament import cli
from lineament.commands.steer.flags import ACTIONS
from lineament.errors import InputError
from lineament.files.reading import (
    MAX_DEPTH,
    csv_rows,
    json_lines,
    parse_json,
    parse_toml,
    read_bytes,
    read_text,
    shown,
)
from lineament.files.tensors import load_tensors
from lineament.problems.labelled_data import read_labelled
from lineament.settings.flag_values import flag_ranges, require_flags
from lineament.settings.keys import require_in_range
from lineament.settings.presets import resolve

PACKAGE = Path(lineament.__file__).parent
READING = {"open", "read_text", "read_bytes", "load", "loads", "fdopen", "reader", "DictReader", "load_file"}
# What these modules are asked for reads a path, or parses a text, from outside.
PARSERS = {"json", "tomllib", "csv", "io", "os", "safetensors", "pickle"}
# Line ends with what may: no path from outside, or a format with a reader of its own behind `require_file`.
ALLOWED = {
    ("cli.py", "os.open"),  # the null device
    ("steering/formats.py", "torch.load"),
    ("commands/inspect/export.py", "csv.writer"),
}


def reads(path: Path) -> list[str]:
    """Calls of a module that open a path or parse a text."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in ("read_text", "read_bytes") and owner:
            found.append(called)
        if called == "open" or (name in READING and owner.split(".")[0] in PARSERS | {"torch"}):
            found.append(called)
        if name == "open" and owner and (node.args and isinstance(node.args[0], ast.Constant)):
            found.append(called)  # Path.open("r"), not RunFolder.open(settings)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_but_the_reader_reads(path: Path) -> None:
    own = path.relative_to(PACKAGE).as_posix()
    if not own.startswith("files/"):
        assert [call for call in reads(path) if (own, call) not in ALLOWED] == []


def test_reads_are_found(tmp_path: Path) -> None:
    lines = ["open(p)", "p.open('r')", "p.read_text()", "json.loads(t)", "tomllib.load(f)", "csv.DictReader(f)"]
    (tmp_path / "a.py").write_text("\n".join([*lines, "folder.open(settings)", "console.print(t)"]))
    assert len(reads(tmp_path / "a.py")) == len(lines)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        (deep(100_000), "levels deep"),
        (deep(MAX_DEPTH + 1), "levels deep"),
        ("9" * 5000, "not valid JSON"),
        (r'{"text": "a\ud83d"}', "half a character"),
        (r'{"\uDC00": 1}', "half a character"),
        ("", "not valid JSON"),
    ],
)
def test_json_that_cannot_be_used(text: str, words: str) -> None:
    with pytest.raises(InputError, match=f"^the text .*{words}"):
        parse_json(text, "the text")


def test_json_that_can(tmp_path: Path) -> None:
    assert parse_json(deep(MAX_DEPTH), "it")
    assert parse_json(r'"\ud83d\ude00 \\ud83d"', "it") == "😀 \\ud83d"
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]\r\n")
    assert read_text(tmp_path / "a.json") == "[1]\n"


@pytest.mark.parametrize(
    "text", ["a = ", "a = " + deep(5000), "a" + ".a" * 500 + " = 1", "a = " + "9" * 5000, "a = 1\na = 2", "a = '\\0'\0"]
)
def test_toml_that_cannot_be_used(text: str) -> None:
    with pytest.raises(InputError, match=r"not valid TOML|levels deep"):
        parse_toml(text, "the text")


def test_rows_name_their_lines() -> None:
    with pytest.raises(InputError, match=r"data, line 3 is not valid JSON"):
        list(json_lines('{"a": 1}\n\n{"a"', "data"))
    with pytest.raises(InputError, match="line 2 has more cells"):
        csv_rows("a,b\n1,2,3\n", "data")
    with pytest.raises(InputError, match="two columns named 'a'"):
        csv_rows("a,a\n1,2\n", "data")
    assert csv_rows("a\tb\n1\t2\n", "data", "\t") == [(2, {"a": "1", "b": "2"})]


def unreadable(folder: Path) -> dict[str, Path]:
    """Paths at which there is no ordinary file."""
    (folder / "a.json").mkdir()
    (folder / "b.json").symlink_to(folder / "c.json")
    (folder / "c.json").symlink_to(folder / "b.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "file").write_text("x")
    return {
        "is a folder": folder / "a.json",
        "is a loop of links": folder / "b.json",
        "is a pipe or a device": folder / "pipe.json",
        "does not exist": folder / "none.json",
        "does not exist: a part of its path is a file": folder / "file" / "a.json",
        "name that is too long": folder / f"{'x' * 300}.json",
        "name that no file can have": Path(f"{folder}/a\0b.json"),
    }


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    for words, path in {**unreadable(tmp_path), "pipe or a device": Path("/dev/zero")}.items():
        for read in (read_bytes, read_text, load_tensors):
            with pytest.raises(InputError, match=words):
                read(path)  # type: ignore[operator]
    with pytest.raises(InputError, match="is not UTF-8"):
        (tmp_path / "latin.txt").write_bytes(b"gr\xfc\xdfe")
        read_text(tmp_path / "latin.txt")
    with pytest.raises(InputError, match="the most that is read"):
        read_bytes(tmp_path / "latin.txt", most=3)


@pytest.mark.parametrize("command", [["run", "lm", "--data"], ["run", "lm", "--config"], ["steer", "make"], ["report"]])
def test_commands_refuse_what_is_no_file(command: list[str], tmp_path: Path) -> None:
    for path in [*unreadable(tmp_path).values(), Path("/dev/zero"), Path("\udc80.json")]:
        done = lineament_here(*command, str(path), cwd=tmp_path)
        assert done.returncode == 2, (path, done.stderr)
        *progress, message = done.stderr.splitlines()
        assert message.startswith("lineament: "), done.stderr
        assert all(line.startswith("[") for line in progress), done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("a.CSV", "text,label\nx,1.0\ny,0.0\n", [True, False]),
        ("a.tsv", "text\tlabel\nx\ttrue\n", [True]),
        ("a.ndjson", '{"text": "x", "label": 1.0}\n{"text": "y", "label": 0.0}', [True, False]),
        ("a.JSONL", '{"text": "x", "label": "Yes"}', [True]),
    ],
)
def test_names_and_labels_that_were_refused(name: str, text: str, labels: list[bool], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert [item.label for item in read_labelled(tmp_path / name).items] == labels  # type: ignore[union-attr]


@pytest.mark.parametrize("answer", ["²", "٣", "A²", "-1", "4", "9" * 200])
def test_answers_that_are_no_choice(answer: str, tmp_path: Path) -> None:
    row = {"question": "q", "choices": ["a", "b", "c"], "answer": answer}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="give a letter from A to C"):
        read_labelled(tmp_path / "a.jsonl")


COMMANDS = [kind for kind in (*cli.COMMANDS.values(), *ACTIONS.values()) if kind.__name__ != "Steer"]


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_number_on_the_command_line_has_a_range(kind: type) -> None:
    for name, allowed in flag_ranges(kind).items():
        assert allowed.complaint(10**30) or allowed.words in ("any", "above 0", "at least 0"), name
        assert allowed.complaint(float("nan")), name


@pytest.mark.parametrize(
    "command",
    [
        ["run", "synthetic", "--seeds", "1" + "0" * 30],
        ["run", "synthetic", "--seeds", "0"],
        ["run", "synthetic", "--seeds", "9" * 5000],
        ["run", "synthetic", "--threads", "0"],
        ["run", "synthetic", "--set", "seed=-1"],
        ["run", "synthetic", "--set", f"seed={2**63}"],
        ["run", "synthetic", "--set", f"seed={2**63 - 1}", "--seeds", "2"],
        ["run", "synthetic", "--set", "lora.rank=1" + "0" * 30],
        ["run", "synthetic", "--set", "lora.rank=²"],
        ["run", "synthetic", "--set", "model.name=a\0b"],
        ["run", "synthetic", "--set", "steering.doses=nan"],
        ["run", "synthetic", "--out", "x" * 300],
        ["search", "run", "--rank", "9" * 30],
        ["search", "run", "--examples", "0"],
        ["analyze", "rows", "--threads", "0"],
        ["analyze", "rows", "--threads", "-1"],
        ["analyze", "a\0b"],
        ["steer", "generate", "v.gguf", "hello", "--temperature", "nan"],
        ["steer", "generate", "v.gguf", "\ud83d"],
    ],
    ids=lambda command: " ".join(command)[:50].encode("ascii", "backslashreplace").decode().replace("\0", "NUL"),
)
def test_numbers_and_texts_beyond_any_range(command: list[str], tmp_path: Path) -> None:
    done = lineament_here(*command, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_value_is_shown_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    inside: list[Any] = []
    inside.append(inside)
    for value in (10**5000, "a\nb", "\ud800", inside, "x" * 1000):
        sys.stdout.write(shown(value))
        assert "\n" not in shown(value)
        assert len(shown(value)) < 70


def test_ranges_hold_for_requests_made_in_python() -> None:
    with pytest.raises(InputError, match="--rank must be at least 1; got 0"):
        require_flags(cli.COMMANDS["search"](rank=0))
    with pytest.raises(InputError, match="at most 1000000"):
        require_in_range(resolve("synthetic", "quick", [("test", {"lora.rank": 10**7})]))


def test_help_into_a_closed_pipe_is_no_traceback() -> None:
    """As in `lineament run --help | head -1`."""
    shown = [sys.executable, "-m", "lineament.cli", "run", "--help"]
    with subprocess.Popen(shown, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
