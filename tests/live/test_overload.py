"""A platform with small limits, and an owner who asks for more: refused with a code and a time to come back, while another
owner's previews start as ever."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from shared.events import PreviewRequested
from tests.live.client import SERVER, Answer, Client, node_project
from tests.live.conftest import running
from tests.live.platform import Platform

ALICE, BOB = "alice-token-0123456789", "bob-token-0123456789"
LIMITS = {
    "DRAPE_API_TOKENS": f"{ALICE}:alice,{BOB}:bob",
    "DRAPE_ORCHESTRATOR_PREVIEWS_PER_OWNER_MAX": "2",
    "DRAPE_ORCHESTRATOR_PREVIEWS_MAX": "3",
    "DRAPE_ORCHESTRATOR_LOG_RATE_BYTES": "2000",
    "DRAPE_ORCHESTRATOR_LOG_BURST_BYTES": "20000",
    "DRAPE_GATEWAY_TOKEN_WRITES_BURST": "60",
    "DRAPE_GATEWAY_TOKEN_WRITES_PER_S": "1",
}
LOUD = SERVER + "\nfor (let number = 0; number < 20000; number++) console.log('line ' + number)\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two owners, two previews for each and three in all."""
    yield from running(tmp_path_factory.mktemp("small") / "home", LIMITS)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def _ask(client: Client, project_id: str) -> Answer:
    return await client.call("POST", "/api/previews", json={"project_id": project_id})


def _refusal(answer: Answer) -> tuple[int, str]:
    assert int(answer.headers["Retry-After"]) >= 1
    return answer.problem()


@pytest.mark.timeout(170)
async def test_too_many_previews_are_refused_and_others_start(small: Platform, session: aiohttp.ClientSession) -> None:
    """By owner 429, in all 503; what is refused leaves nothing in the log, and room that is made is room."""
    alice, bob = (Client(small.gateway, session, token) for token in (ALICE, BOB))
    projects = [await alice.project(node_project(SERVER), f"shop-{number}") for number in range(3)]
    first = (await _ask(alice, projects[0])).json["preview_id"]
    second = (await _ask(alice, projects[1])).json["preview_id"]
    refused = await asyncio.gather(*(_ask(alice, projects[2]) for _ in range(10)))
    assert {_refusal(answer) for answer in refused} == {(429, "too_many_previews")}
    assert (await _ask(alice, projects[0])).json["preview_id"] == first

    theirs = await bob.ready(node_project(SERVER), "bobs")
    full = await _ask(bob, await bob.project(node_project(SERVER), "bobs-second"))
    assert _refusal(full) == (503, "previews_full")
    for preview_id in (first, second):
        assert (await alice.ended(preview_id))["status"] == "ready"

    await alice.stop(first)
    third = await _ask(alice, projects[2])
    assert third.status == 202
    requested = [each for each in await small.events() if isinstance(each.event, PreviewRequested)]
    assert len(requested) == 4
    for client, preview_id in ((alice, second), (alice, third.json["preview_id"]), (bob, theirs["preview_id"])):
        await client.stop(preview_id)


@pytest.mark.timeout(170)
async def test_output_without_end_is_cut_and_a_line_says_so(small: Platform, session: aiohttp.ClientSession) -> None:
    """The preview is ready all the same; of 20,000 lines some are kept, and the log names how many are not."""
    bob = Client(small.gateway, session, BOB)
    view = await bob.ready(node_project(LOUD), "loud")
    async with asyncio.timeout(60):
        async for kind, _, message in bob.sse(f"/api/previews/{view['preview_id']}/logs"):
            lines = [line["text"] for line in message.get("lines", [])] if kind == "log" else []
            if any(line.startswith("[drape] ") and "left out" in line for line in lines):
                break
    page = await bob.call("GET", f"/api/previews/{view['preview_id']}/logs")
    kept = [line["text"] for line in page.json["lines"] if line["text"].startswith("line ")]
    assert 0 < len(kept) < 2_000
    await bob.stop(view["preview_id"])


@pytest.mark.timeout(120)
async def test_a_flood_of_writes_is_slowed_for_its_token_alone(small: Platform, session: aiohttp.ClientSession) -> None:
    """Last of all: it uses alice's rate up."""
    alice, bob = (Client(small.gateway, session, token) for token in (ALICE, BOB))
    answers = await asyncio.gather(*(alice.call("POST", "/api/projects", json={"name": "x"}) for _ in range(120)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {201, 429}
    assert {_refusal(answer) for answer in answers if answer.status == 429} == {(429, "rate_limited")}
    assert (await bob.call("POST", "/api/projects", json={"name": "x"})).status == 201
    assert (await alice.call("GET", "/api/projects")).status == 200
