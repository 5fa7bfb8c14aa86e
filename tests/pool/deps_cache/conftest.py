"""The world of these tests."""

from pathlib import Path

import pytest

from services.pool.adapters.deps_cache import VmPlace
from tests.pool.deps_cache.world import FILES, World, app_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def installed(world: World) -> VmPlace:
    """A VM with a small install: files, an executable, a link of npm's kind."""
    place = world.vm("installed", FILES)
    modules = app_of(place) / "node_modules"
    (modules / "vite/bin/vite.js").chmod(0o755)
    (modules / ".bin").mkdir()
    (modules / ".bin/vite").symlink_to("../vite/bin/vite.js")
    return place
