"""What clients are told, and in what order: WebSocket, server-sent events, logs; and who is not told anything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Json

MESSAGE_TIMEOUT_S = 30.0
ORDER = [
    *("PreviewRequested", "FilesSynced", "InstallSkipped", "DevServerStarted", "DevServerReady", "PreviewReady"),
    "PreviewStopped",
]
"""What a preview without dependencies goes through, less what comes in either order."""
EITHER_ORDER = ("ProjectDetected", "VmAcquired", "HmrProbed")

CHATTY = SERVER + "\nconsole.log('line one'); console.error('line two')\n"


@asynccontextmanager
async def socket(client: Client, query: str = "", **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """An open WebSocket to the feed."""
    async with client.session.ws_connect(client.gateway + "/ws" + query, **options) as opened:
        yield opened


async def _next(opened: aiohttp.ClientWebSocketResponse) -> Json:
    async with asyncio.timeout(MESSAGE_TIMEOUT_S):
        message: Json = await opened.receive_json(loads=msgspec.json.decode)
    return message


async def _until(opened: aiohttp.ClientWebSocketResponse, event: str) -> list[Json]:
    """Messages up to and with the preview's event."""
    heard = [await _next(opened)]
    while heard[-1].get("event") != event:
        heard.append(await _next(opened))
    return heard


def _facts(heard: list[Json], preview_id: str) -> list[tuple[int, str]]:
    return [
        (message["seq"], message["event"])
        for message in heard
        if message["type"] == "preview" and message["preview"]["preview_id"] == preview_id
    ]


def _in_order(facts: list[tuple[int, str]]) -> list[str]:
    assert [seq for seq, _ in facts] == sorted({seq for seq, _ in facts})
    return [event for _, event in facts if event not in EITHER_ORDER]


async def test_a_socket_gets_the_state_first_and_then_every_change_in_order(client: Client) -> None:
    """`state`, then each event of the preview once with a rising `seq`; percent never goes back and ends at 100 with
    `server_ready`; messages of progress have the shape that front ends know."""
    project_id = await client.project(node_project(SERVER))
    async with socket(client, f"?project={project_id}") as opened:
        first = await _next(opened)
        assert (first["type"], first["missed"], first["previews"]) == ("state", False, [])
        assert [project["project_id"] for project in first["projects"]] == [project_id]
        preview_id = await client.request_preview(project_id)
        heard = await _until(opened, "PreviewReady")
        heard.append(await _next(opened))
        await client.stop(preview_id)
        heard += await _until(opened, "PreviewStopped")
    assert _in_order(_facts(heard, preview_id)) == ORDER
    assert all(message["seq"] > first["seq"] for message in heard if message["type"] == "preview")
    ticks = [message for message in heard if message["type"] == "preview_progress"]
    assert ticks
    for tick in ticks:
        assert {"type", "step", "percent", "message", "timestamp", "details", "elapsed"} <= set(tick)
    percents = [tick["percent"] for tick in ticks]
    assert percents == sorted(percents)
    assert (ticks[-1]["step"], ticks[-1]["percent"]) == ("server_ready", 100)


async def test_a_client_that_was_away_misses_nothing(client: Client) -> None:
    """It leaves in the middle and comes back with `since`: both parts together are every change, none twice."""
    project_id = await client.project(node_project(SERVER))
    async with socket(client, f"?project={project_id}") as opened:
        await _next(opened)
        preview_id = await client.request_preview(project_id)
        heard = await _until(opened, "VmAcquired")
    last = heard[-1]["seq"]
    assert (await client.ended(preview_id))["status"] == "ready"
    await client.stop(preview_id)
    async with socket(client, f"?project={project_id}&since={last}") as opened:
        state = await _next(opened)
        assert (state["type"], state["missed"]) == ("state", False)
        assert state["previews"][0]["status"] == "stopped"
        heard += await _until(opened, "PreviewStopped")
    assert _in_order(_facts(heard, preview_id)) == ORDER


async def test_rubbish_on_a_socket_harms_nobody(client: Client) -> None:
    """Not JSON, not an object, an unknown type, binary: each is answered; 20 of them close the socket; a message that
    is too large closes it at once; another client's socket goes on."""
    async with socket(client) as other:
        await _next(other)
        async with socket(client) as opened:
            for text in ("no json", "[]", "5", '{"type": 7}', '{"type": "dance"}', "\0", "{" * 2000):
                await opened.send_str(text)
            await opened.send_bytes(b"\x00\xff")
            answered = 0
            while answered < 8:
                answered += (await _next(opened)).get("code") == "bad_message"
            for _ in range(12):
                await opened.send_str("rubbish")
            assert await _close_code(opened) == aiohttp.WSCloseCode.POLICY_VIOLATION
        async with socket(client) as opened:
            await opened.send_str("x" * 5000)
            assert await _close_code(opened) == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        project_id = await client.project(node_project(SERVER))
        while (message := await _next(other))["type"] != "project":
            pass
        assert message["project"]["project_id"] == project_id
    assert (await client.call("GET", "/health")).status == 200


async def _close_code(opened: aiohttp.ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(MESSAGE_TIMEOUT_S):
        while not opened.closed:
            await opened.receive()
    return opened.close_code


async def _read(client: Client, path: str, until: str, last_id: str = "") -> list[tuple[str, str, Json]]:
    """Server-sent events up to and with the first whose data names the event `until`, or has such a log line."""
    heard = []
    async with asyncio.timeout(MESSAGE_TIMEOUT_S):
        async for each in client.sse(path, last_id):
            heard.append(each)
            lines = [line["text"] for line in each[2].get("lines", ())]
            if each[2].get("event") == until or any(until in line for line in lines):
                return heard
    raise AssertionError(f"the stream ended before {until}")


async def test_events_go_on_after_last_event_id(client: Client) -> None:
    """SSE: state first; with the id of an early event as `Last-Event-ID`, everything after it, and nothing else."""
    project_id = await client.project(node_project(SERVER))
    preview_id = await client.request_preview(project_id)
    path = f"/api/previews/{preview_id}/events"
    heard = await _read(client, path, "DevServerStarted")
    assert heard[0][2]["type"] == "state"
    last = heard[-1][1]
    assert int(last) == heard[-1][2]["seq"]
    assert (await client.ended(preview_id))["status"] == "ready"
    rest = await _read(client, path, "PreviewReady", last)
    assert rest[0][2]["type"] == "state"
    assert [data["event"] for _, _, data in rest if data["type"] == "preview"] == ["DevServerReady", "PreviewReady"]
    assert all(int(event_id) > int(last) for _, event_id, _ in rest[1:])
    await client.stop(preview_id)


async def test_logs_come_live_and_stay_after_the_end(client: Client) -> None:
    """The log as SSE while it runs; after the end the same lines by SSE and by JSON, and `Last-Event-ID` goes on."""
    view = await client.ready(node_project(CHATTY))
    preview_id = view["preview_id"]
    path = f"/api/previews/{preview_id}/logs"
    live = await _read(client, path, "listening on")
    await client.stop(preview_id)
    after = await _read(client, path, "listening on")
    lines = [line for _, _, data in after for line in data["lines"]]
    assert lines == [line for _, _, data in live for line in data["lines"]]
    assert {("stdout", "line one"), ("stderr", "line two")} <= {(line["stream"], line["text"]) for line in lines}
    page = (await client.call("GET", path)).json
    assert page["lines"] == lines
    assert (await client.call("GET", f"{path}?since={page['next']}")).json["lines"] == []


async def test_log_lines_reach_a_socket_that_asked_for_them(client: Client) -> None:
    """`subscribe_logs` for one preview: its lines come as `log` messages."""
    project_id = await client.project(node_project(SERVER))
    async with socket(client, f"?project={project_id}") as opened:
        preview_id = await client.request_preview(project_id)
        await opened.send_str(msgspec.json.encode({"type": "subscribe_logs", "preview_id": preview_id}).decode())
        while (message := await _next(opened))["type"] != "log":
            pass
        assert message["preview_id"] == preview_id
        assert message["lines"]
    await client.stop(preview_id)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://somepreview.preview.localhost:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_pages_of_another_origin_are_refused(client: Client, headers: dict[str, str]) -> None:
    """403 for the API and, by Origin, for the WebSocket."""
    assert (await client.call("GET", "/api/projects", headers=headers)).problem() == (403, "origin_not_allowed")
    refused = await client.call("POST", "/api/projects", json={"name": "x"}, headers=headers)
    assert refused.problem() == (403, "origin_not_allowed")
    if "Origin" in headers:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            async with socket(client, headers=headers):
                pass
        assert error.value.status == 403


async def test_the_gateways_own_page_may_use_the_api(client: Client) -> None:
    """Origin and Host agree, by address and by `localhost`."""
    port = urlsplit(client.gateway).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert (await client.call("GET", "/api/projects", headers=headers)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "preview.localhost"])
async def test_another_host_name_is_not_answered(client: Client, host: str) -> None:
    """421 whatever the path: DNS rebinding reaches nothing."""
    for path in ("/", "/api/projects", "/health"):
        answer = await client.call("GET", path, headers={"Host": host})
        assert answer.problem() == (421, "unknown_host"), path


async def test_a_previews_host_serves_no_api(client: Client) -> None:
    """On a preview's host name `/api/…` is the dev server's, and an unknown preview's is nothing."""
    view = await client.ready(node_project(SERVER))
    page = await client.visit(view["preview_id"], "/api/projects")
    assert (page.status, page.text) == (200, "<title>live</title>/api/projects")
    assert (await client.visit("01unknown", "/api/projects", accept="application/json")).problem()[0] == 404
    await client.stop(view["preview_id"])
