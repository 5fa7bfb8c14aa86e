"""For all tests: property tests explore anew on a developer's machine, and repeat the same cases in CI; which servers are used
is said at the begin."""

import os

from hypothesis import settings

from tests.live.choice import choice

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_report_header() -> str:
    """Containers or not, and why."""
    chosen = choice()
    return f"drape: NATS and PostgreSQL: {chosen.kind} ({chosen.reason})"
