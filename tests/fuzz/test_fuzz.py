"""Some inputs of every kind, the same ones each time; `make fuzz INPUTS=100000` has more. And those that once broke something."""

import asyncio
import contextlib
import io
from pathlib import Path

import pytest

from services.gateway.adapters.archive import MANIFEST_MEMBER, check_archive
from services.gateway.config import GatewayConfig
from shared.agent.client import AgentUnreachable
from shared.causes import ACTOR, CAUSATION, CORRELATION, TRACEPARENT, cause_of
from shared.errors import Invalid, Refused
from shared.ports import Cause
from tests.builders import project_created
from tests.fuzz import agents, archives, tars
from tests.fuzz.__main__ import DEFAULT_SEED, TARGETS, run
from tests.gateway.api_stage import TOKEN, api_stage
from tests.journeys.stage import staged

INPUTS = {"api": 60, "wires": 150, "bodies": 350, "agents": 100, "archives": 200, "texts": 140}
DEEP = b"[" * 200_000


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_rubbish_is_refused_and_nothing_is_left_behind(target: str) -> None:
    """No 5xx, no hang, no leak, nothing outside of its folder."""
    outcome = run(target, INPUTS[target], DEFAULT_SEED)
    assert outcome.findings == ()
    assert outcome.inputs > 0


# --- what once broke something ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [DEEP, b'{"x": ' + DEEP, b'"\xff"', b'{"project_id": "\xff"}', b'{"project_id": "\\ud800"}']
)
async def test_commands_that_are_no_json(body: bytes) -> None:
    """Text that is no UTF-8 and nesting beyond the stack are refused as other rubbish is."""
    async with staged(warm=False) as stage:
        for subject in ("cmd.orchestrator.request", "cmd.gateway.create_project", "cmd.pool.resize"):
            for handler, _ in stage.broker.endpoints.get(subject, ()):
                with pytest.raises(Refused) as refused:
                    await handler(body, {})
                assert refused.value.code in ("bad_json", "bad_command")


@pytest.mark.parametrize("word", ["\ud800", "a\r\nb: c", "x" * 300, "ä"])
def test_words_of_a_header_that_can_not_be_stored(word: str) -> None:
    """They count as not sent: in an event, half a surrogate pair would break every append."""
    headers = dict.fromkeys((CORRELATION, CAUSATION, ACTOR, TRACEPARENT), word)
    assert cause_of(headers) == Cause()


def test_a_listing_that_is_cut_off_is_refused() -> None:
    """The header member ends in the middle: it is read before anybody knows that the archive is not whole."""
    raw = tars.plain({MANIFEST_MEMBER: b"[" + b" " * 2_000})[:1_200]
    with pytest.raises(Invalid) as refused:
        check_archive(io.BytesIO(raw), GatewayConfig(), patch=False)
    assert refused.value.code == "bad_archive"


@pytest.mark.parametrize("body", [b"\xff", b'{"a": "\xff"}', DEEP])
async def test_bodies_that_are_no_json(body: bytes) -> None:
    async with api_stage(project_created()) as stage:
        for method, path in (("PUT", "env"), ("POST", "files/missing"), ("PUT", "residents"), ("POST", "prepare")):
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            url = f"{stage.url}/api/projects/project-1/{path}"
            async with stage.session.request(method, url, data=io.BytesIO(body), headers=headers) as response:
                assert response.status == (413 if len(body) > 64 * 1024 and path != "files/missing" else 400)
                assert (await response.json(content_type=None))["code"]


async def test_a_number_of_days_with_too_many_digits() -> None:
    """Python converts no text of more than 4,300 digits."""
    async with api_stage() as stage:
        assert (await stage.call("GET", "/metrics/stats?days=" + "9" * 5_000)).problem() == (400, "bad_days")


async def test_an_idempotency_key_that_is_no_text() -> None:
    """Sent as bytes: a client library would refuse to."""
    async with api_stage() as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stage.url.rsplit(":", 1)[1]))
        writer.write(
            f"POST /api/projects HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\nIdempotency-Key: ".encode()
            + b"\xff\xfe\r\n\r\n{}"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"bad_idempotency_key" in answer


@pytest.mark.parametrize("body", [b"x" * 4_000_000, DEEP, b'{"offset": "\xff"}'], ids=["long", "deep", "no text"])
async def test_lines_of_an_agent_that_are_none(body: bytes) -> None:
    """They count as an answer that broke off, which is asked for again."""
    async with agents.hostile() as (server, client):
        server.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body + b"\n"
        async with contextlib.aclosing(client.log("job")) as lines:
            with pytest.raises(AgentUnreachable):
                await anext(lines)


def test_what_is_written_outside_would_be_seen(tmp_path: Path) -> None:
    """The look at the canary sees contents and links."""
    (tmp_path / "a").write_text("before")
    before = archives.tree(tmp_path)
    (tmp_path / "a").write_text("after")
    changed = archives.tree(tmp_path)
    (tmp_path / "b").symlink_to("a")
    assert len({str(each) for each in (before, changed, archives.tree(tmp_path))}) == 3
