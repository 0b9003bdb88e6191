"""With CI=true a skipped test fails the session, in one process as with workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PASSING = {"test_passing.py": "def test_one(): pass\n\ndef test_two(): pass\n"}
SKIPPED = {
    "test_marked.py": "import pytest\n\n@pytest.mark.skip\ndef test_it(): pass\n",
    "test_finds_out.py": "import pytest\n\ndef test_it(): pytest.skip('no')\n",
    "test_whole_file.py": "import pytest\n\npytest.importorskip('no_such_module')\n",
}
ALLOWED = {
    "test_expected.py": "import pytest\n\n@pytest.mark.xfail\ndef test_it(): assert False\n",
    "test_accelerator.py": "import pytest\n\n@pytest.mark.gpu\n@pytest.mark.skip\ndef test_it(): pass\n",
}


def session(folder: Path, files: dict[str, str], workers: int, ci: str = "true") -> subprocess.CompletedProcess[str]:
    """Run these files of tests in a session of their own."""
    for name, source in files.items():
        (folder / name).write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "no_skips", "-n", str(workers), str(folder)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    changes = {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": ci}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=own | changes)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skip_fails_the_session_and_is_named(workers: int, tmp_path: Path) -> None:
    done = session(tmp_path, PASSING | SKIPPED, workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert " failed" not in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("skipped although CI=true"))
    for name in SKIPPED:
        assert name in line


def test_a_file_that_a_worker_skips_is_enough(tmp_path: Path) -> None:
    """Workers do not report such a file to the controller of their own accord."""
    files = PASSING | {"test_whole_file.py": SKIPPED["test_whole_file.py"]}
    assert session(tmp_path, files, 1).returncode == pytest.ExitCode.TESTS_FAILED
    assert session(tmp_path, files, 1, ci="").returncode == 0


def test_what_is_no_skip_fails_nothing(tmp_path: Path) -> None:
    done = session(tmp_path, PASSING | ALLOWED, 1)
    assert done.returncode == 0, done.stdout
