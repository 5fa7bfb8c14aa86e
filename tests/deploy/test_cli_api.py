"""The CLI's requests while what the gateway stands on is away for a moment: repeated under one key, and not for ever."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from deploy.cli import api as cli_api
from deploy.cli.api import Api
from shared.errors import DrapeError


class Gateway:
    """Answers 503 with `code` so many times, then 201; remembers the keys that requests came with."""

    def __init__(self, code: str, refusals: int) -> None:
        self._code = code
        self._refusals = refusals
        self.keys: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        if len(self.keys) <= self._refusals:
            problem = {"code": self._code, "title": "Away", "detail": "Away.", "status": 503, "retry_after_s": 0.01}
            return web.json_response(problem, status=503)
        return web.json_response({"made": True}, status=201)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(gateway: Gateway, session: aiohttp.ClientSession) -> object:
    """A POST to it over a real socket."""
    app = web.Application()
    app.router.add_post("/api/projects", gateway.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        return await Api(f"http://{host}:{port}", session).call("POST", "/api/projects", json={})
    finally:
        await runner.cleanup()


async def test_what_is_away_for_a_moment_is_asked_again_under_one_key(session: aiohttp.ClientSession) -> None:
    """As during an election: the user sees an answer, and nothing is made twice."""
    gateway = Gateway("keys_unavailable", refusals=2)

    assert await ask(gateway, session) == {"made": True}
    assert len(gateway.keys) == 3
    assert len(set(gateway.keys)) == 1
    assert gateway.keys[0]


async def test_a_refusal_is_final(session: aiohttp.ClientSession) -> None:
    """A limit that was reached is no outage: it is told at once."""
    gateway = Gateway("previews_full", refusals=1)

    with pytest.raises(DrapeError) as refused:
        await ask(gateway, session)
    assert (refused.value.code, len(gateway.keys)) == ("previews_full", 1)


async def test_the_patience_ends(session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays away is said to be away."""
    monkeypatch.setattr(cli_api, "BUSY_WAIT_S", 0.1)
    gateway = Gateway("log_unavailable", refusals=1_000)

    with pytest.raises(DrapeError) as refused:
        await ask(gateway, session)
    assert refused.value.code == "log_unavailable"
    assert len(set(gateway.keys)) == 1
