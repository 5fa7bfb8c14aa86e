"""The agent's client where something else answers for the agent."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from shared.agent.client import AgentClient, AgentError, AgentUnreachable

OWN = b'{"code": "port_unreachable", "message": "The job listens, and takes no connection."}'


@pytest.fixture
async def asked() -> AsyncIterator[tuple[AgentClient, dict[str, tuple[int, bytes]]]]:
    """A client, and what its next request is answered with (below `next`)."""
    answers: dict[str, tuple[int, bytes]] = {}

    async def answer(_: web.Request) -> web.Response:
        status, body = answers["next"]
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield AgentClient(f"http://127.0.0.1:{runner.addresses[0][1]}", "token", session), answers
    await runner.cleanup()


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", [b"", b"<html>no healthy instance</html>", b'{"error": "no route"}'])
async def test_a_proxy_that_reaches_no_agent_is_no_refusal(
    asked: tuple[AgentClient, dict[str, tuple[int, bytes]]], status: int, body: bytes
) -> None:
    """Its VM may be on its way up, or awake: asking again may help."""
    client, answers = asked
    answers["next"] = (status, body)
    with pytest.raises(AgentUnreachable, match=f"status {status}"):
        await client.health()


@pytest.mark.parametrize(
    ("status", "body", "code"), [(502, OWN, "port_unreachable"), (404, b"<html>", "agent_answer_unknown")]
)
async def test_what_the_agent_says_itself_is_one(
    asked: tuple[AgentClient, dict[str, tuple[int, bytes]]], status: int, body: bytes, code: str
) -> None:
    client, answers = asked
    answers["next"] = (status, body)
    with pytest.raises(AgentError) as refused:
        await client.health()
    assert (refused.value.code, refused.value.status) == (code, status)
