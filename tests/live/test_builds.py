"""A framework's build cache, kept between two VMs of a project, for real: the next start has it, and shows what is new."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from shared.events import FilesSynced
from tests.deploy.waiting import eventually
from tests.live.client import Client
from tests.live.conftest import running
from tests.live.platform import Platform

EXAMPLE = Path(__file__).parents[2] / "examples" / "nextjs"
FILES: dict[str, str | bytes] = {
    path.relative_to(EXAMPLE).as_posix(): path.read_bytes()
    for path in EXAMPLE.rglob("*")
    if path.is_file() and not {"node_modules", ".next"} & set(path.parts)
}
KEPT_WITHIN_S = 60.0
CACHE = ".next/dev/cache"
HEAD_BYTES = 1024
"""Of a manifest: a sum, then what the entry is."""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    yield from running(tmp_path_factory.mktemp("builds") / "home", {"DRAPE_ORCHESTRATOR_KEEP_BUILD_AFTER_S": "4"})


@pytest.fixture
async def user(platform: Platform) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(platform.gateway, session)


def kept(platform: Platform) -> bool:
    """Both: a build is of use only beside the dependencies that it was made with."""
    entries = (platform.home.root / "cache" / "deps" / "entries").glob("*/manifest")
    heads = [each.read_bytes()[:HEAD_BYTES] for each in entries]
    return all(any(f'"trees":["{tree}"]'.encode() in head for head in heads) for tree in ("node_modules", CACHE))


async def test_the_next_start_has_what_the_framework_kept(platform: Platform, user: Client) -> None:
    """Edited in between, it shows the new page all the same: the framework checks what it finds there."""
    project_id = await user.project(FILES)
    first = await user.request_preview(project_id)
    assert (await user.ended(first))["status"] == "ready"
    assert "Drape example: Next.js</h1>" in (await user.visit(first)).text
    await eventually(lambda: kept(platform), KEPT_WITHIN_S)
    await user.stop(first)
    page = (EXAMPLE / "app" / "page.tsx").read_text().replace("Drape example: Next.js", "The page of later")
    assert (await user.patch(project_id, 1, {"app/page.tsx": page})).status == 200

    second = await user.request_preview(project_id)
    assert (await user.ended(second))["status"] == "ready"
    synced = [each.event for each in await platform.events(second) if isinstance(each.event, FilesSynced)]
    assert [each.build for each in synced] == [True]
    assert "The page of later</h1>" in (await user.visit(second)).text
    await user.stop(second)
