"""For all tests: property tests explore anew on a developer's machine, and repeat the same cases in CI; which servers are used
is said at the begin."""

import os

import pytest
from hypothesis import settings

from tests.live.choice import CONTAINERS, SETTING, WANTING, choice

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_report_header() -> str:
    """Containers or not, and why."""
    chosen = choice()
    return f"drape: NATS and PostgreSQL: {chosen.kind} ({chosen.reason})"


_left_out: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes what is skipped for want of an engine."""
    if report.skipped and isinstance(report.longrepr, tuple) and WANTING in report.longrepr[2]:
        _left_out.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where containers are demanded nothing may be left out for want of an engine."""
    if _left_out and os.environ.get(SETTING) == CONTAINERS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was left out."""
    if _left_out and os.environ.get(SETTING) == CONTAINERS:
        terminalreporter.section(f"left out for want of an engine, though {SETTING}={CONTAINERS}", red=True)
        for name in _left_out:
            terminalreporter.line(name)
