"""What is printed: nothing that comes from outside is ever markup, and no name is one that cannot be printed."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

import lineament
from lineament.commands import terminal
from lineament.runs.executors.driver import ALL_JOBS

PACKAGE = Path(lineament.__file__).parent
HOSTILE = "[bold]a[/bold] [/red] :smile: [link=x]"
# Of rich, whatever prints may use these; consoles and all else that knows markup stay in `commands/terminal.py`.
HARMLESS = {"rich.box", "rich.table", "rich.text"}
# What a style looks like in markup: where strings are no markup, one of these would be printed as it is.
TAGS = ("[bold", "[dim", "[red", "[green", "[yellow", "[/")
OFF = {"Console": {"markup", "emoji", "highlight"}, "TextColumn": {"markup"}}


def marked_up(source: str) -> Iterator[str]:
    """What a module does that could make markup of a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rich":
            yield from [node.module or ""] * (node.module not in HARMLESS)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "rich")
        if isinstance(node, ast.Attribute) and node.attr in ("from_markup", "render_str", "file", "from_ansi"):
            yield from [ast.unparse(node)] * (node.attr != "file" or "console" in ast.unparse(node.value))
        if isinstance(node, ast.Call):
            yield from (ast.unparse(node) for word in node.keywords if word.arg in ("markup", "emoji", "highlight"))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and any(tag in node.value for tag in TAGS):
            yield node.value


@pytest.mark.parametrize(
    "path", sorted(p for p in (PACKAGE / "commands").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_command_makes_markup_of_a_string(path: Path) -> None:
    if path.name != "terminal.py":
        assert list(marked_up(path.read_text())) == []


def test_nothing_but_commands_prints_with_rich() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if not path.is_relative_to(PACKAGE / "commands"):
            assert "import rich" not in path.read_text()
            assert "from rich" not in path.read_text()


@pytest.mark.parametrize(
    "source",
    [
        *("from rich.console import Console", "from rich.markup import escape", "from rich import print"),
        *("import rich.console", "Text.from_markup(x)", "console.file.write(x)", "console.print(x, markup=True)"),
        *('console.print(f"[bold]{x}[/]")', '"[dim]-"', "console.render_str(x)"),
    ],
)
def test_markup_is_found(source: str) -> None:
    assert list(marked_up(source))


def test_every_console_has_markup_off() -> None:
    """Each is made in one module, with the one set of options that switches it off."""
    assert terminal._PLAIN == {"markup": False, "emoji": False, "highlight": False}
    made = 0
    for node in ast.walk(ast.parse(Path(terminal.__file__).read_text())):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in OFF:
            off = {word.arg for word in node.keywords if ast.unparse(word.value) == "False"}
            if any(word.arg is None and ast.unparse(word.value) == "_PLAIN" for word in node.keywords):
                off |= terminal._PLAIN.keys()
            assert off >= OFF[name], ast.unparse(node)
            made += 1
    assert made > 3


def test_strings_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("head " + HOSTILE, title=HOSTILE, box=SIMPLE)
    table.add_row(HOSTILE)
    table.add_row(Text.assemble((HOSTILE, "bold"), HOSTILE))
    console = terminal.console
    monkeypatch.setattr(console, "_width", 200)
    console.print(HOSTILE)
    console.print(Text.assemble((HOSTILE, "bold")))
    console.print(table)
    assert capsys.readouterr().out.count(HOSTILE) == 7


@pytest.mark.parametrize("terminal_there", [True, False])
def test_progress_shows_names_as_they_are(
    terminal_there: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "200")
    if terminal_there:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    with terminal.job_progress(quiet=False, log_file=tmp_path / "log.txt") as progress:
        progress(HOSTILE, f"measuring {HOSTILE}", 1, 2)
        progress(ALL_JOBS, "jobs ended", 1, 2)
    assert f"{HOSTILE}: measuring {HOSTILE}" in shown.getvalue()
    assert f"{HOSTILE}: measuring {HOSTILE}" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_cannot_be_encoded_is_still_printed(encoding: str, tmp_path: Path) -> None:
    """Names of files are bytes, and a terminal may know few letters."""
    folder = os.fsencode(tmp_path) + b"/run-\xff-\xc3\xa9"
    Path(os.fsdecode(folder)).mkdir()
    (Path(os.fsdecode(folder)) / "config.toml").write_text('problem = "synthetic"\n')
    command = [sys.executable, "-m", "lineament.cli", "runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert b"run-\\udcff" in done.stdout
