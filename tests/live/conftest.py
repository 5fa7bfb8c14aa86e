"""Platforms for live tests: one that most share, and one that is there to be broken. Both are ended with the session."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.live.client import Client
from tests.live.platform import Platform

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs real servers."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The platform that tests share: nobody kills its services, and everybody stops their previews."""
    yield from running(tmp_path_factory.mktemp("shared") / "home", {})


@pytest.fixture(scope="session")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose processes tests kill; each leaves it able to work again."""
    yield from running(tmp_path_factory.mktemp("rough") / "home", {})


def running(root: Path, env: dict[str, str], *up: str) -> Iterator[Platform]:
    """A platform that is up until the fixture's end, and then gone whole."""
    started = Platform(root, env)
    try:
        started.up(*up)
        yield started
    finally:
        started.down()


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[Client]:
    """A user of the shared platform."""
    async with aiohttp.ClientSession() as session:
        yield Client(platform.gateway, session)


@pytest.fixture
async def rough_client(rough: Platform) -> AsyncIterator[Client]:
    """A user of the platform that is broken on purpose."""
    async with aiohttp.ClientSession() as session:
        yield Client(rough.gateway, session)
