"""Agents for the tests: a fresh one for each, or one for a module whose tests change nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .world import RunningAgent, running_agent


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[RunningAgent]:
    """A running agent with the usual limits, for one test."""
    async with running_agent(tmp_path / "vm") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent_shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningAgent]:
    """A running agent that the tests of a module share; use only its url."""
    async with running_agent(tmp_path_factory.mktemp("shared") / "vm") as running:
        yield running
