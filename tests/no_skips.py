"""A plugin for pytest: with CI=true a skipped test fails the session, also one that a worker skipped."""

from __future__ import annotations

import os
from typing import Any

import pytest

MARK_THAT_MAY_SKIP = "gpu"
_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a skipped test; workers hand the reports of their tests on, so that the controller sees all of them."""
    if report.skipped and not hasattr(report, "wasxfail") and MARK_THAT_MAY_SKIP not in report.keywords:
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that was skipped as a whole."""
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session, or hand what a worker skipped to the controller."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["skipped"] = _skipped
    elif _skips_fail() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker skipped: skipped files are not reported to the controller otherwise."""
    skipped: list[str] = getattr(node, "workeroutput", {}).get("skipped", [])  # a worker that crashed left nothing
    _skipped.extend(item for item in skipped if item not in _skipped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was skipped, where that fails the session."""
    if _skips_fail():
        terminalreporter.write_line(f"skipped although CI=true, which fails the session: {', '.join(_skipped)}")


def _skips_fail() -> bool:
    return bool(_skipped) and os.environ.get("CI", "").lower() == "true"
