"""One PostgreSQL for the session, one empty database for each test."""

import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from tests.live.servers import Database, database

PASSWORD = "telemetry-tests"

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    """A running PostgreSQL that all tests share."""
    shared = database(tmp_path_factory.mktemp("postgres"), PASSWORD)
    try:
        await shared.start()
        yield shared
    finally:
        await shared.remove()


@pytest_asyncio.fixture
async def database_url(server: Database) -> str:
    """The URL of an empty database of this test's own."""
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    before, _, parameters = server.url.partition("?")
    return f"{before.rpartition('/')[0]}/{name}?{parameters}"
