"""Who may ask: an open address needs tokens, a token names its owner, and owners do not see one another."""

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.live.client import TAR, Client, tar_of
from tests.live.conftest import running
from tests.live.platform import Platform

ALICE, BOB = "alice-token-0123456789", "bob-token-0123456789"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with two owners."""
    yield from running(tmp_path_factory.mktemp("guarded") / "home", {"DRAPE_API_TOKENS": f"{ALICE}:alice,{BOB}:bob"})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session of this test's own."""
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_open_address_without_tokens_is_refused(platform: Platform, host: str) -> None:
    """`drape up --host` an address that others reach: exit 1, saying which variable is missing; nothing runs then."""
    other = Platform(platform.home.root.parent / f"open{host.replace(':', '_')}")
    ran = await other.drape("up", "--detach", "--json", "--port", "0", "--host", host)
    assert (ran.code, ran.last["code"]) == (1, "tokens_required"), ran.out
    assert "DRAPE_API_TOKENS" in ran.last["detail"]
    assert ran.last["hint"]
    assert not list(other.home.run.glob("*.pid"))


async def test_tokens_that_are_no_tokens_are_refused(platform: Platform) -> None:
    """One that is too short: exit 1, and the token is not repeated."""
    other = Platform(platform.home.root.parent / "short", {"DRAPE_API_TOKENS": "secret99:alice"})
    ran = await other.drape("up", "--detach", "--json", "--port", "0")
    assert (ran.code, ran.last["code"]) == (1, "bad_api_tokens"), ran.out
    assert "secret99" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/projects"),
        ("POST", "/api/projects"),
        ("GET", "/api/previews"),
        ("GET", "/api/previews/nope"),
        ("PUT", "/api/projects/nope/files"),
        ("GET", "/metrics/stats"),
        ("GET", "/api/errors"),
        ("GET", "/api/costs"),
        ("GET", "/api/resources"),
        ("GET", "/api/alerts"),
        ("GET", "/ws"),
    ],
)
async def test_nothing_of_an_owner_is_answered_without_a_known_token(
    guarded: Platform, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    """401 with WWW-Authenticate, without a token and with a wrong one; health and page need none."""
    for token in ("", "wrong-token-0123456789"):
        answer = await Client(guarded.gateway, session, token).call(method, path)
        assert answer.problem() == (401, "token_required")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for public in ("/", "/health"):
        assert (await Client(guarded.gateway, session).call("GET", public)).status == 200


async def test_what_belongs_to_another_owner_is_not_there(guarded: Platform, session: aiohttp.ClientSession) -> None:
    """Bob's every request for Alice's project and preview is 404, as for ids that are none; hers work."""
    alice, bob = (Client(guarded.gateway, session, token) for token in (ALICE, BOB))
    project_id = await alice.project({"index.html": "<title>alice</title>"})
    preview_id = await alice.request_preview(project_id)
    assert (await alice.preview(preview_id))["owner"] == "alice"
    for method, path in (
        ("GET", f"/api/projects/{project_id}"),
        ("DELETE", f"/api/projects/{project_id}"),
        ("GET", f"/api/previews/{preview_id}"),
        ("DELETE", f"/api/previews/{preview_id}"),
        ("POST", f"/api/previews/{preview_id}/restart"),
        ("GET", f"/api/previews/{preview_id}/logs"),
        ("GET", f"/api/previews/{preview_id}/events"),
    ):
        assert (await bob.call(method, path)).status == 404, (method, path)
    assert (await bob.call("POST", "/api/previews", json={"project_id": project_id})).status == 404
    body = tar_of({"index.html": "bob"})
    assert (await bob.call("PUT", f"/api/projects/{project_id}/files", data=body, headers=TAR)).status == 404
    assert (await bob.call("GET", "/api/projects")).json == {"projects": []}
    assert (await bob.call("GET", "/api/previews")).json == {"previews": []}
    assert (await alice.ended(preview_id))["status"] == "ready"


async def test_a_socket_shows_its_owner_only(guarded: Platform, session: aiohttp.ClientSession) -> None:
    """A browser gives its token as a sub-protocol; the state that it gets first holds nothing of another owner."""
    alice = Client(guarded.gateway, session, ALICE)
    project_id = await alice.project({"index.html": "<title>alice</title>"})
    for token, sees in ((ALICE, True), (BOB, False)):
        protocols = ("drape.v1", f"bearer.{token}")
        async with session.ws_connect(guarded.gateway + "/ws", protocols=protocols) as opened:
            state = await opened.receive_json(timeout=10)
            assert opened.protocol == "drape.v1"
        assert (project_id in {project["project_id"] for project in state["projects"]}) is sees
