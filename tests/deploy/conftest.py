"""One fresh DRAPE_HOME a test."""

from pathlib import Path

import pytest

from deploy.local.paths import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A created home of this test's own."""
    fresh = Home(tmp_path / "home")
    fresh.create()
    return fresh
