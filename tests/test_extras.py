"""What only some commands need is an extra: named where it is missing, and not needed by the main job."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from command_line import arguments, lineament_here

import lineament

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Modules of distributions that are called otherwise.
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def asked_packages() -> Iterator[tuple[str, str]]:
    """(module, extra) of every call of `require_package` in the package."""
    for path in sorted(Path(lineament.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_package":
                module, extra = (ast.literal_eval(argument) for argument in node.args[:2])
                yield module, extra


def test_every_package_that_is_asked_for_is_in_its_extra_and_in_no_core() -> None:
    asked = set(asked_packages())
    assert {extra for _, extra in asked} == {"steer", "search", "sweep", "data", "notebook", "figures"}
    for module, extra in asked:
        name = DISTRIBUTIONS.get(module, module)
        assert any(re.match(rf"{name}\b", text) for text in EXTRAS[extra]), (module, extra)
        assert not any(re.match(rf"{name}\b", text) for text in PROJECT["dependencies"]), module


def test_all_and_the_tests_have_every_extra() -> None:
    assert EXTRAS["all"] == [f"lineament[{','.join(name for name in EXTRAS if name not in ('all', 'dev'))}]"]
    assert "lineament[all]" in EXTRAS["dev"]


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("sklearn", "steer", ["steer", "make", "data.jsonl", "--method", "probe"]),
        ("cmaes", "search", ["search", "somewhere", "--method", "cmaes"]),
        ("pyarrow", "sweep", ["run", "synthetic", "--preset", "quick", "--vary", "recovery.lr=1e-3,2e-3"]),
        ("pyarrow", "data", ["run", "lm", "--data", "rows.parquet", "--preset", "quick"]),
        ("datasets", "data", ["run", "lm", "--data", "hf:boolq", "--preset", "quick"]),
        ("resvg_py", "figures", ["report", "runs/demo", "--figures", "pictures"]),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    module: str, extra: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rows.parquet", "data.jsonl"):
        (tmp_path / name).write_text("x")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, module, None)
    done = lineament_here(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert module in done.stderr
    assert f"pip install 'lineament[{extra}]'" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def linked(packages: Iterable[str], site: Path) -> None:
    """Link these installed packages into a folder, and no other."""
    site.mkdir()
    for name in packages:
        for file in metadata.files(name) or []:
            first = file.parts[0]
            if first not in ("..", "__pycache__") and not (site / first).exists():
                whole = Path(str(metadata.distribution(name).locate_file(first)))
                if whole.exists():
                    (site / first).symlink_to(whole)


@pytest.mark.slow
def test_the_wheel_does_the_main_job_in_an_environment_of_the_core_alone(tmp_path: Path) -> None:
    """A run, its report and its tables, where nothing is installed but what pyproject.toml names as needed."""
    closure = runpy.run_path(str(ROOT / "benchmarks" / "install_size.py"))["closure"]
    linked(closure(PROJECT["dependencies"]), tmp_path / "site")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "own"))
    subprocess.run((*install, str(wheel)), check=True, capture_output=True)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (packages / "here.pth").write_text(f"{tmp_path / 'own'}\n{tmp_path / 'site'}\n")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean, check=False)

    for module in ("sklearn", "cmaes", "pyarrow", "datasets", "ray", "pandas", "pytest"):
        assert "ModuleNotFoundError" in run("-c", f"import {module}").stderr
    done = run("-m", "lineament", *arguments(tmp_path / "out"), "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "own") in run("-c", "import lineament; print(lineament.__file__)").stdout
    for words in (["report", "out"], ["claims", "out"], ["export", "out", "--csv"], ["advise", "out", "--quiet"]):
        done = run("-m", "lineament", *words)
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout
