"""More than the gateway may take: what is over is refused with a code and Retry-After, and the rest goes on."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack

import aiohttp
import pytest

from services.gateway.adapters.load import Places
from services.gateway.adapters.upload_places import UploadPlaces
from services.gateway.config import GatewayConfig
from shared.errors import DrapeError, Refused, Unavailable
from tests.builders import PREVIEW, story
from tests.gateway.api_stage import TAR, TIMEOUT_S, TOKEN, Answer, ApiStage, api_stage, tar_of, until

BOB = "token-of-bob-456789"
MIB = 1024 * 1024


# --- places -------------------------------------------------------------------------------------------------------


def test_places_are_counted_by_key_and_in_all() -> None:
    """Whoever has too many is told so; where all are taken, everybody is; and what is given back can be had again."""
    places, over, full = Places(3, 2), Refused("over", "o"), Unavailable("full", "f")

    def taken(key: str) -> str:
        try:
            stack.enter_context(places.taken(key, over, full))
        except DrapeError as error:
            return error.code
        return "ok"

    with ExitStack() as stack:
        assert [taken(key) for key in "aaabb"] == ["ok", "ok", "over", "ok", "full"]
    with ExitStack() as stack:
        assert [taken(key) for key in "abb"] == ["ok", "ok", "ok"]


# --- uploads ------------------------------------------------------------------------------------------------------


def _places(**knobs: float) -> UploadPlaces:
    given = {"uploads_max": 2, "uploads_per_owner_max": 1, "upload_wait_s": TIMEOUT_S}
    return UploadPlaces(GatewayConfig(**{**given, **knobs}))  # type: ignore[arg-type]


async def _hold(places: UploadPlaces, owner: str, log: list[str], release: asyncio.Event) -> None:
    async with places.place(owner):
        log.append(owner)
        await release.wait()


async def test_the_owner_with_the_fewest_uploads_is_next() -> None:
    """A flood of one owner's waits behind itself, not before the others."""
    places, log = _places(uploads_max=1, uploads_per_owner_max=1), list[str]()
    releases = [asyncio.Event() for _ in range(6)]
    owners = ["ann", "ann", "ann", "ann", "ann", "bob"]
    tasks = [asyncio.create_task(_hold(places, who, log, event)) for who, event in zip(owners, releases, strict=True)]
    await until(lambda: len(log) == 1)
    releases[0].set()
    await until(lambda: len(log) == 2)
    for event in releases:
        event.set()
    await asyncio.gather(*tasks)
    assert sorted(log) == sorted(owners)

    places, log = _places(uploads_max=3, uploads_per_owner_max=2), list[str]()
    releases = [asyncio.Event() for _ in range(6)]
    tasks = [asyncio.create_task(_hold(places, who, log, event)) for who, event in zip(owners, releases, strict=True)]
    await until(lambda: len(log) == 3)
    assert log == ["ann", "ann", "bob"]
    for event in releases:
        event.set()
    await asyncio.gather(*tasks)


async def test_who_waits_too_long_or_gives_up_leaves_no_trace() -> None:
    """The place goes to the next, and the queue is empty afterwards."""
    places, log, release = _places(uploads_max=1, upload_wait_s=0.01), list[str](), asyncio.Event()
    holding = asyncio.create_task(_hold(places, "ann", log, release))
    await until(lambda: log)
    with pytest.raises(Refused) as refused:
        await _hold(places, "ann", log, release)
    assert (refused.value.code, refused.value.status) == ("too_many_uploads", 429)
    with pytest.raises(Unavailable) as full:
        await _hold(places, "bob", log, release)
    assert (full.value.code, full.value.status) == ("uploads_busy", 503)

    patient = _places(uploads_max=1)
    first = asyncio.create_task(_hold(patient, "ann", log, release))
    await until(lambda: len(log) == 2)
    leaving = asyncio.create_task(_hold(patient, "bob", log, release))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    release.set()
    await asyncio.gather(holding, first)
    await _hold(patient, "eve", log, release)
    assert log[-1] == "eve"


async def test_a_queue_is_bounded() -> None:
    places, log, release = _places(uploads_waiting_max=2, uploads_waiting_per_owner_max=1), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(_hold(places, who, log, release)) for who in ("ann", "bob", "ann", "bob")]
    await until(lambda: len(log) == 2)
    for who in ("ann", "eve"):
        with pytest.raises(DrapeError) as refused:
            await _hold(places, who, log, release)
        assert refused.value.status in (429, 503)
        assert refused.value.retry_after_s is not None
    release.set()
    await asyncio.gather(*tasks)


class _Slow:
    """An upload's body that ends only when it is told to."""

    def __init__(self, data: bytes) -> None:
        self.may_end = asyncio.Event()
        self._data = data

    async def __call__(self) -> AsyncIterator[bytes]:
        yield self._data[:512]
        await self.may_end.wait()
        yield self._data[512:]


async def _put(on: ApiStage, project: str, data: object, token: str = TOKEN) -> tuple[int, str, str]:
    """(status, code, Retry-After)."""
    headers = {"Authorization": f"Bearer {token}", **TAR}
    body_of = io.BytesIO(data) if isinstance(data, bytes) else data
    async with on.session.put(f"{on.url}/api/projects/{project}/files", data=body_of, headers=headers) as answer:
        body = await answer.json(content_type=None)
        return answer.status, str(body.get("code", "")), answer.headers.get("Retry-After", "")


async def test_a_refused_upload_hangs_nothing() -> None:
    """Many large bodies at once, all but one refused while they are being sent: the gateway answers others meanwhile, and takes
    the next upload."""
    async with api_stage(uploads_max=1, uploads_per_owner_max=1, upload_wait_s=0.5) as on:
        project, probe = await on.project(), await on.project("probe")
        slow = _Slow(tar_of({"index.html": "<h1>slow</h1>"}))
        first = asyncio.create_task(_put(on, project, slow()))
        async with asyncio.timeout(TIMEOUT_S):
            while (await _put(on, probe, tar_of({"index.html": "before"})))[0] == 200:
                assert not first.done()
        large = tar_of({"large.bin": b"x" * 8 * MIB})
        refused = [asyncio.create_task(_put(on, project, large)) for _ in range(12)]
        health = await on.call("GET", "/health")
        assert health.status == 200
        for status, code, retry_after in await asyncio.gather(*refused):
            assert (status, code) in ((429, "too_many_uploads"), (503, "uploads_busy"))
            assert int(retry_after) >= 1
        slow.may_end.set()
        assert (await first)[0] == 200
        assert (await _put(on, project, tar_of({"index.html": "next"})))[0] == 200


async def test_uploads_hold_only_so_many_bytes_together() -> None:
    async with api_stage(uploads_bytes_max=4 * MIB) as on:
        project = await on.project()
        status, code, retry_after = await _put(on, project, tar_of({"large.bin": b"x" * 5 * MIB}))
        assert (status, code, retry_after) == (503, "uploads_full", "2")
        assert (await _put(on, project, tar_of({"a": b"x" * 3 * MIB})))[0] == 200
        assert (await _put(on, project, tar_of({"b": b"x" * 3 * MIB})))[0] == 200


async def test_an_upload_that_trickles_is_ended() -> None:
    """It would hold a place for ever."""
    async with api_stage(upload_limit_s=0.2) as on:
        project = await on.project()
        status, code, _ = await _put(on, project, _Slow(tar_of({"a": "b"}))())
        assert (status, code) == (408, "upload_too_slow")


# --- requests and clients -----------------------------------------------------------------------------------------


async def test_requests_at_once_are_counted_by_owner_and_in_all() -> None:
    """While alice's requests hang in the orchestrator, one more of hers is a 429, bob's go on, and /health always does."""
    async with api_stage(*story("ready"), api_requests_max=3, api_requests_per_owner_max=2) as on:
        asking = asyncio.Event()
        answered = asyncio.Event()

        async def hang(body: bytes, kind: object) -> bytes:
            asking.set()
            await answered.wait()
            return b'{"seq":0,"preview_id":"x","status":"ready"}'

        on.orchestrate = hang  # type: ignore[method-assign]
        hanging = [asyncio.create_task(on.call("POST", f"/api/previews/{PREVIEW}/restart")) for _ in range(2)]
        await asking.wait()
        await _all_in(on, hanging)
        assert (await on.call("GET", "/api/projects")).problem() == (429, "too_many_requests")
        assert (await on.call("GET", "/api/projects", token=BOB)).status == 200
        assert (await on.call("GET", "/health")).status == 200
        answered.set()
        await asyncio.gather(*hanging)
        assert (await on.call("GET", "/api/projects")).status == 200


async def _all_in(on: ApiStage, hanging: Sequence["asyncio.Task[Answer]"]) -> None:
    """Returns once alice has no place left: each refused look shows it."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await on.call("GET", "/api/projects")).status != 429:
            assert not any(task.done() for task in hanging)


async def test_clients_are_counted_by_owner_address_and_in_all() -> None:
    """WebSockets and SSE alike; a client that goes leaves its place."""
    async with api_stage(*story("ready"), websocket_clients_max=3, websocket_clients_per_owner_max=2) as on:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                socket = await stack.enter_async_context(on.session.ws_connect(f"{on.url}/ws", headers=_bearer(TOKEN)))
                assert (await socket.receive_json())["type"] == "state"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await on.session.ws_connect(f"{on.url}/ws", headers=_bearer(TOKEN))
            assert (refused.value.status, refused.value.headers is not None) == (429, True)
            events = await on.call("GET", f"/api/previews/{PREVIEW}/events")
            assert events.problem() == (429, "too_many_clients")
            assert (await on.call("GET", "/api/projects")).status == 200
            await stack.enter_async_context(on.session.ws_connect(f"{on.url}/ws", headers=_bearer(BOB)))
            with pytest.raises(aiohttp.WSServerHandshakeError) as full:
                await on.session.ws_connect(f"{on.url}/ws", headers=_bearer(BOB))
            assert full.value.status == 503
        async with asyncio.timeout(TIMEOUT_S):
            while not await _connects(on):
                await asyncio.sleep(0)
    async with (
        api_stage(websocket_clients_per_address_max=1) as on,
        on.session.ws_connect(f"{on.url}/ws", headers=_bearer(TOKEN)),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.session.ws_connect(f"{on.url}/ws", headers=_bearer(BOB))
        assert refused.value.status == 429


async def _connects(on: ApiStage) -> bool:
    try:
        async with on.session.ws_connect(f"{on.url}/ws", headers=_bearer(TOKEN)):
            return True
    except aiohttp.WSServerHandshakeError:
        return False


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_what_the_orchestrator_refuses_keeps_its_status_code_and_time() -> None:
    """429 and 503 with Retry-After, as the orchestrator decided it."""
    async with api_stage(*story("requested")[:-1]) as on:
        on.faults += [
            Refused("too_many_previews", "m", "h", status=429, retry_after_s=30.0),
            Unavailable("previews_full", "m", "h", retry_after_s=30.0),
        ]
        for wanted in ((429, "too_many_previews"), (503, "previews_full")):
            body = {"project_id": (await on.call("GET", "/api/projects")).json["projects"][0]["project_id"]}
            async with on.session.post(f"{on.url}/api/previews", json=body, headers=_bearer(TOKEN)) as answer:
                problem = await answer.json(content_type=None)
                assert (answer.status, problem["code"], answer.headers["Retry-After"]) == (*wanted, "30")
