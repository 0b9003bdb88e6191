"""The architecture as a test: imports go one way, files stay small, nothing unpickles, public names are documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import lineament

PACKAGE = Path(lineament.__file__).parent
# A module may import from its own line and from lines above it. The two tables stand above the rest of their packages:
# they name modules and import none, so that settings, flags and `--help` can read them.
LAYERS = (
    ("errors", "__init__"),
    ("files",),
    ("streams",),
    ("measurements.registry", "problems.kinds"),
    ("records",),
    ("theory",),
    ("settings",),
    ("parameters",),
    ("problems",),
    ("bases",),
    ("vectors",),
    ("subspace",),
    ("activations",),
    ("integrations",),
    ("population",),
    ("steering",),
    ("study",),
    ("merging",),
    ("measurements",),
    ("claims",),
    ("advice",),
    ("report",),
    ("runs",),
    ("results",),
    ("api",),
    ("command_line",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
# The report is made from records and claims alone: no model, no settings, nothing that measures. Besides, it may use
# three modules that import nothing of the package: how plain values are written, and the labels of points in records.
REPORT_IMPORTS = {"errors", "files", "records", "claims", "report"}
LEAVES = {"settings.plain", "settings.words", "study.points"}
FILES = sorted(PACKAGE.rglob("*.py"))
COMMAND_FILES = sorted((PACKAGE / "commands").glob("*/*.py"))
# What commands share; whatever else two of them need lies further up, where both can import it.
SHARED_BY_COMMANDS = ("commands.terminal", "commands.time_left", "commands.verdict_tables", "commands.job_flags")
MOST_LINES = 400


def layer(module: str) -> int:
    """Where `lineament.<module>` stands; unknown modules must be given a place here first."""
    head = module.split(".")[0]
    own = {i for i, names in enumerate(LAYERS) if module in names}
    return min(own or (i for i, names in enumerate(LAYERS) if head in names))


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lineament":
            rest = node.module.partition(".")[2]
            found |= {rest} if rest else {alias.name for alias in node.names if alias.name != "__version__"}
        if isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("lineament.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    if own == "__init__":
        return  # the lazy public names
    for module in imported(path):
        assert layer(module) <= layer(own), f"{own} imports {module}, which stands below it in LAYERS"


@pytest.mark.parametrize("path", sorted((PACKAGE / "report").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_report_imports_claims_and_records_only(path: Path) -> None:
    assert {module.split(".")[0] for module in imported(path) - LEAVES} <= REPORT_IMPORTS


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_nothing_of_the_package(leaf: str) -> None:
    assert imported(PACKAGE / f"{leaf.replace('.', '/')}.py") == set()


@pytest.mark.parametrize("path", COMMAND_FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_command_imports_no_other_command(path: Path) -> None:
    for module in imported(path):
        own = module.startswith(f"commands.{path.parent.name}.")
        assert own or module in SHARED_BY_COMMANDS or not module.startswith("commands"), f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_small_and_unpickle_nothing(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for word in ("pickle.load", "trust_remote_code=True", "allow_pickle=True"):
        assert word not in text
    assert unpickling_loads(text) == []


def unpickling_loads(source: str) -> list[int]:
    """Lines that name torch's `load` other than in a call with `weights_only=True` written out."""
    tree = ast.parse(source)
    safe = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "load" and id(node) not in safe:
            found += [node.lineno] * (ast.unparse(node.value).split(".")[0] == "torch")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            found += [node.lineno] * any(alias.name == "load" for alias in node.names)
    return found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import torch\ntorch.load(path, weights_only=True)", []),
        ("torch.load(\n    path,\n    map_location='cpu',\n    weights_only=True,\n)", []),
        ("json.load(stream)", []),
        ("torch.load(path)", [1]),
        ("torch.load(path, weights_only=False)", [1]),
        ("torch.load(path, weights_only=only)", [1]),
        ("torch.load(path, **{'weights_only': True})", [1]),
        ("torch.load(path)  # weights_only=True", [1]),
        ("\nread = torch.load", [2]),
        ("torch.serialization.load(path)", [1]),
        ("from torch import load", [1]),
        ("from torch.serialization import load as read", [1]),
        ("f(torch.load(path), weights_only=True)", [1]),
    ],
)
def test_unpickling_loads_are_found(source: str, lines: list[int]) -> None:
    assert unpickling_loads(source) == lines


def test_public_names_resolve_and_are_documented() -> None:
    for name in lineament.__all__:
        found = getattr(lineament, name)
        if name != "__version__":
            assert inspect.getdoc(found), f"{name} has no docstring"


def test_every_module_imports_and_says_what_it_is() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "lineament."):
        module = importlib.import_module(info.name)
        if not info.ispkg:
            assert module.__doc__, f"{info.name} has no docstring"


def test_every_command_has_a_function() -> None:
    from lineament import cli

    for kind in cli.COMMANDS.values():
        assert callable(cli.function_of(kind)), kind


# Last parts of the modules that the command line starts with; HEAVY is imported when a command needs it.
LIGHT = ("cli", "errors", "flags", "job_flags", "options", "registry", "kinds", "stated_optimizer")
HEAVY = ("torch", "transformers", "numpy", "scipy", "pyarrow", "rich.table", "rich.progress")


def test_the_command_line_starts_with_flags_alone() -> None:
    """`--help` and usage errors need flags, the options and names in them, settings and errors, and nothing else."""
    import subprocess
    import sys

    code = "import sys, lineament.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(modules)
    for name in modules:
        package, _, module = name.partition(".")
        is_package = (PACKAGE / module.replace(".", "/")).is_dir()
        if (
            package == "lineament"
            and not is_package
            and not module.startswith(("settings.", "files.", "command_line."))
        ):
            assert module.split(".")[-1] in LIGHT, name
