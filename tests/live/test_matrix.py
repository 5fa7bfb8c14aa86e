"""Six rows of the matrix: each framework's project, from its lock file to the right page and an open socket for edits."""

import asyncio
from pathlib import Path

import pytest

from tests.live.client import Client
from tests.live.platform import Platform
from tests.matrix.rows import make_project, read_matrix
from tests.matrix.running import run_row

MATRIX = read_matrix()
SOCKETLESS = ("express",)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("name", [name for name, row in MATRIX.row.items() if row.ci])
async def test_a_framework_from_lock_file_to_ready(
    platform: Platform, client: Client, tmp_path: Path, name: str
) -> None:
    """Detected by its name, installed, and right through the gateway; edits will show by themselves."""
    row = MATRIX.row[name]
    folder = tmp_path / name
    await asyncio.to_thread(make_project, row, MATRIX.before, folder)
    outcome = await run_row(name, row, folder, platform, client)

    assert outcome.problem == ""
    assert outcome.manager == "npm"
    assert outcome.hmr == ("none" if name in SOCKETLESS else "open")
