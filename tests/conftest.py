"""One thread, a cache of our own, and no silent skips: with CI=true a skipped test fails the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_line import arguments, lineament
from hypothesis import settings as hypothesis_settings

# Draws are fixed and each example may take as long as it needs: the suite must give one answer on any machine.
hypothesis_settings.register_profile("lineament", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis_settings.load_profile("lineament")

_skipped: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs an accelerator; the only tests that CI may skip")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Commands that ran in this process may have left another number, and last bits depend on it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trained base models go to a folder of this session, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINEAMENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def finished(own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small synthetic run with two seeds, made by the command line."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = lineament(*arguments(out), "--seeds", "2", "--executor", "processes")
    assert done.returncode == 0, done.stderr
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    assert "Traceback" not in done.stderr
    return out


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and "gpu" not in report.keywords:
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skips_fail() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _skips_fail():
        terminalreporter.write_line(f"skipped although CI=true, which fails the session: {', '.join(_skipped)}")


def _skips_fail() -> bool:
    return bool(_skipped) and os.environ.get("CI", "").lower() == "true"
