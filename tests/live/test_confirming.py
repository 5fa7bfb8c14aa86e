"""Ready means an answer from the dev server itself, on the path that the browser uses."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.live.client import SERVER, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Platform


@pytest.fixture
def misdirected(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform whose orchestrator confirms through another platform's gateway, which knows none of its previews."""
    env = {"DRAPE_ORCHESTRATOR_GATEWAY_URL": platform.gateway, "DRAPE_ORCHESTRATOR_CONFIRM_LIMIT_S": "2"}
    yield from running(tmp_path_factory.mktemp("misdirected") / "home", env)


@pytest.fixture
async def user(misdirected: Platform) -> AsyncIterator[Client]:
    """A user of that platform."""
    async with aiohttp.ClientSession() as session:
        yield Client(misdirected.gateway, session)


async def test_an_answer_that_is_not_the_dev_servers_confirms_nothing(user: Client) -> None:
    """The wrong gateway answers the probe with its own 404 page: that is below 500, and yet the preview is not ready."""
    view = await user.ended(await user.request_preview(await user.project(node_project(SERVER))))
    assert (view["status"], (view["error"] or {}).get("code")) == ("failed", "gateway_unreachable")


async def test_a_dev_server_that_answers_404_is_ready(client: Client) -> None:
    """A whole answer below 500 of the dev server's own counts, whatever it is: an API has no page at `/`."""
    view = await client.ready(node_project(SERVER.replace("response.end", "response.statusCode = 404; response.end")))
    assert (await client.visit(view["preview_id"])).status == 404
    await client.stop(view["preview_id"])
