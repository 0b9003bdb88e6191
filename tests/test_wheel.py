"""The built wheel, installed alone into an empty folder, holds everything that the package needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = (
    "py.typed",
    "report/macros.html.j2",
    "report/template.html.j2",
    "report/sweep.html.j2",
    "report/adapters.html.j2",
    "report/report.css",
    "report/report.js",
    "schemas/claims.schema.json",
    "schemas/sweep.schema.json",
)


def run(*command: str, **changes: str) -> str:
    environment = {**os.environ, **changes}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd="/").stdout


@pytest.mark.slow
def test_wheel_installs_and_runs(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    run(*build)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in DATA:
        assert f"lineament/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    target = str(tmp_path / "installed")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, str(wheel))
    code = "import lineament; print(lineament.__file__); lineament.measure; lineament.Recorder"
    assert run(sys.executable, "-c", code, PYTHONPATH=target).startswith(target)
    assert "lineament 0." in run(sys.executable, "-m", "lineament.cli", "--version", PYTHONPATH=target)
