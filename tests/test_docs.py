"""What the README, the docs and the examples say is run: Python blocks, example files, commands, generated pages."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import lineament
from sweep_jobs import sets

from lineament import cli
from lineament.claims.registry import CLAIMS
from lineament.command_line.described import flags_of
from lineament.commands.run.flags import Run
from lineament.measurements.capture_bases import BASES
from lineament.measurements.registry import MEASUREMENTS
from lineament.runs.job import validate
from lineament.runs.sweep.grid import make_grid
from lineament.settings.keys import KEYS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOT_RUN = "<!-- not run"
RUN_WITH_COMMANDS = "<!-- run with the commands -->"  # by tests/test_docs_commands.py


def blocks(path: Path, language: str) -> list[str]:
    """Fenced blocks of a language, without those that the line before marks as not run, or as run elsewhere."""
    found = re.findall(rf"(?ms)^([^\n]*)\n```{language}\n(.*?)^```", path.read_text())
    return [code for before, code in found if not before.startswith((NOT_RUN, RUN_WITH_COMMANDS))]


def whole_lines(block: str) -> list[str]:
    """Lines of a block for the shell, those that a backslash continues as one."""
    return block.replace("\\\n", " ").splitlines()


def commands() -> list[tuple[str, str]]:
    lines = [(p, line) for p in PAGES for block in blocks(p, "sh") for line in whole_lines(block)]
    return [(p.name, line.partition("#")[0].partition(">")[0]) for p, line in lines if line.startswith("lineament ")]


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    code = "\n\n".join(blocks(path, "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_run(path: Path, tmp_path: Path) -> None:
    """As a script, with the picture that it leaves for the gallery."""
    code = f"import runpy, sys; sys.argv = [{str(path)!r}]; assert runpy.run_path(sys.argv[0])['figure']"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert path.read_text().startswith("# %% [markdown]")


@pytest.mark.parametrize(("page", "line"), commands())
def test_documented_commands_parse(page: str, line: str) -> None:
    arguments = shlex.split(line)[1:]
    if arguments[0].isupper():
        return
    if cli._asked_text(arguments) is not None:
        return
    options = cli._parsed(arguments)
    if isinstance(options, Run) and not options.config:
        base = options.settings({})
        validate(base)
        if options.vary:
            make_grid(base, options.variations(), page)


@pytest.mark.parametrize(
    "script",
    [
        "docs/make_keys.py",
        "docs/make_claims.py",
        "docs/make_images.py",
        "docs/make_gallery.py",
        "benchmarks/scaling_picture.py",
    ],
)
def test_generated_pages_and_drawings_are_up_to_date(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / script), "--check"], check=False)
    assert done.returncode == 0, f"run: python {script}"


def test_every_claim_basis_measurement_and_key_is_documented() -> None:
    text = "\n".join(path.read_text() for path in PAGES)
    for name in [*CLAIMS, *BASES, *MEASUREMENTS, *KEYS]:
        assert f"`{name}`" in text, f"{name} is not in the docs"


def test_modules_of_the_reference_exist() -> None:
    """As the building of the site demands, which takes longer."""
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for module in re.findall(r"(?m)^::: ([\w.]+)$", page.read_text()):
            file = ROOT / "src" / module.replace(".", "/")
            assert file.is_dir() or file.with_suffix(".py").is_file(), (page.name, module)


def test_flags_and_files_that_the_text_names_exist() -> None:
    """Blocks of code aside, which are run; pages about extending name files that the reader is to write."""
    flags = {flag.name for kind in cli.COMMANDS.values() for flag in flags_of(kind)}
    flags |= {"--help", "--version", "--print-completion"}
    for page in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
        spans = [span for span in re.findall(r"`([^`\n]+)`", text) if not page.name.startswith("add-a-")]
        for span in spans:
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)) <= flags, (page.name, span)
            for file in re.findall(r"\b(?:tests|benchmarks|examples|src|docs|dev)/[\w./-]+\.\w+", span):
                assert (ROOT / file).exists(), (page.name, span)


def studies() -> dict[str, set[str]]:
    """Study -> configurations that its tables, and the pictures of its report, were made from."""
    found: dict[str, set[str]] = {}
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        marks = re.findall(r"(?ms)<!-- (?:claims|captures) (\w+)[^\n]* -->\n(.*?)<!-- end -->", page.read_text())
        for study, table in marks:
            found.setdefault(study, set()).update(re.findall(r"configuration `([0-9a-f ]+)`", table) or ["none"])
    for made in json.loads((ROOT / "docs" / "images" / "made-from.json").read_text()).values():
        found.setdefault(made["study"], set()).add(made["configuration"])
    return found


def test_tables_and_pictures_of_a_study_are_of_one_configuration() -> None:
    held = studies()
    assert held.keys() == {"embedded", "smollm2", "smollm2_geometry"}
    for study, configurations in held.items():
        assert len(configurations) == 1, f"{study}: make its tables and pictures from one run"
        assert re.fullmatch("[0-9a-f]{16}", configurations.pop())


def readme_commands() -> list[str]:
    """Commands of the README in the order in which they stand, but for set-up and what is marked as not run."""
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("lineament ")]


@pytest.mark.slow
@pytest.mark.lm
def test_the_commands_of_the_readme_run_in_their_order(tmp_path: Path) -> None:
    """As in a fresh clone after `make demo`, whose run is a smaller one here."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run = lineament(
        "run",
        "synthetic",
        *sets(**{"task.names": "sort,copy", "task.targets": "sort"}),
        "--set",
        "seeds=1",
        "--out",
        "runs/demo",
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    assert len(readme_commands()) >= 5
    for line in readme_commands():
        done = lineament(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout.strip(), line


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for name in re.findall(r"`((?:docs|benchmarks|dev|examples)/[\w./-]*)`", text):
        if not name.startswith("site"):
            assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / name).exists(), name
