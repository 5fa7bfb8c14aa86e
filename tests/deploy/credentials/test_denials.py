"""A real server with keys: what is denied is an error at once, and ordered consumers work without the bare subject."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from nats.aio.client import Client

from deploy.local.nats import NatsServer, running_nats
from deploy.local.paths import Home
from deploy.nats.authorization import users
from deploy.nats.identities import make_identities, new_seed, seed_file
from deploy.provision import provision
from shared.errors import DrapeError, Unavailable
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.denials import Denied
from tests.deploy.waiting import eventually

LONG_S = 60.0
"""A denied request that ran into its time-out would fail the test."""


@dataclass
class Guarded:
    """A server that knows every identity, and the streams."""

    home: Home
    server: NatsServer

    @asynccontextmanager
    async def connected(self, identity: str) -> AsyncIterator[Client]:
        """A connection as one of them."""
        seed = seed_file(self.home.nats_seeds, identity).read_text()
        client = await connect(self.server.address, f"test-{identity}", identity=identity, seed=seed)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture
async def guarded(home: Home) -> AsyncIterator[Guarded]:
    """Started and provisioned."""
    known = users(make_identities(home.nats_seeds), "operators-own")
    async with running_nats(home, "operators-own", users=known) as server:
        await provision(server.address, seed=seed_file(home.nats_seeds, "provision").read_text())
        yield Guarded(home, server)


async def test_a_denied_request_is_an_error_at_once(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Its code, subject and identity are told; the requests beside it go on; the log has one line, not one a try."""
    async with guarded.connected("pool") as client:
        allowed = client.jetstream(timeout=LONG_S).stream_info("DRAPE_EVENTS")
        denied = [client.request("drape.cmd.gateway.Delete-Project", b"{}", timeout=LONG_S) for _ in range(3)]
        info, *refused = await asyncio.wait_for(asyncio.gather(allowed, *denied, return_exceptions=True), LONG_S / 2)

    assert not isinstance(info, BaseException)
    for error in refused:
        assert isinstance(error, Denied)
        assert (error.code, error.subject) == ("nats_denied", "drape.cmd.gateway.Delete-Project")
        assert not isinstance(error, Unavailable)  # it would be tried for an hour instead of being parked
        assert "pool" in error.message
    told = [record for record in caplog.records if record.getMessage() == "nats_denied"]
    assert [record.levelno for record in told] == [logging.ERROR]


async def test_through_the_ports_a_denial_stays_what_it_is(guarded: Guarded) -> None:
    """Logs, objects and parked reactions do not make a log that is out of reach of it."""
    async with guarded.connected("pool") as client:
        bus = bus_on(client, "test")
        for work in (
            bus.objects.put("name", b"data"),
            bus.objects.get("name"),
            bus.preview_logs.read("p"),
            bus.parked.list(),
            bus.commands.query("telemetry", "stats"),
        ):
            with pytest.raises(DrapeError) as caught:
                await asyncio.wait_for(work, LONG_S / 2)
            assert caught.value.code == "nats_denied"


async def test_objects_of_several_chunks_need_nothing_that_is_denied(guarded: Guarded) -> None:
    """The gateway stores, lists and erases them, the orchestrator reads them: small ones take another way."""
    large = bytes(range(256)) * 2_000
    async with guarded.connected("gateway") as writer, guarded.connected("orchestrator") as reader:
        objects = bus_on(writer, "test").objects
        await objects.put("owner/project/large", large)
        await objects.put("owner/project/small", b"small")
        assert await bus_on(reader, "test").objects.get("owner/project/large") == large
        assert await objects.get("owner/project/large") == large
        assert await objects.erase("owner/project/") == 2
        assert await objects.erase("owner/project/") == 0


async def test_a_denied_subscription_is_told(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """Another's inbox, and another's commands."""
    async with guarded.connected("pool") as client:
        for subject in ("_INBOX_gateway.>", "drape.cmd.gateway.delete-project", ">"):
            await client.subscribe(subject)
        await client.flush()

    denied = {record.denied for record in caplog.records if hasattr(record, "denied")}
    assert denied == {
        "subscription _inbox_gateway.>",
        "subscription drape.cmd.gateway.delete-project",
        "subscription >",
    }


async def test_an_ordered_consumer_survives_a_restart_under_another_name(guarded: Guarded) -> None:
    """nats-py makes it anew after the server was away: the name in the subject must be a new one, or it would be refused."""
    wire = {"type": "Unknown", "id": "i", "at": 1.0, "rev": 1, "v": 1, "correlation_id": "", "causation_id": ""}
    body = json.dumps({**wire, "actor": "test", "data": {}}).encode()
    async with guarded.connected("pool") as client, guarded.connected("operator") as reader:
        seen: list[int] = []
        broken: list[BaseException] = []
        following = await bus_on(reader, "test").log.follow(0, lambda each: seen.append(each.seq), broken.append)
        js = client.jetstream(timeout=LONG_S)
        await js.publish("drape.evt.pool.vm.a.Unknown", body)
        await eventually(lambda: seen == [1], LONG_S)
        pid = guarded.server.child.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: client.is_connected and guarded.server.child.pid not in (None, pid), LONG_S)

        async def published() -> bool:
            try:
                await js.publish("drape.evt.pool.vm.a.Unknown", body)
            except Exception:
                return False  # it is still coming back
            return True

        await eventually(published, LONG_S)
        await eventually(lambda: seen[:2] == [1, 2], LONG_S)
        await following.stop()
    assert broken == []


async def test_a_wrong_key_is_refused(guarded: Guarded) -> None:
    """A key that the server does not know, none at all, and another's password."""
    for url, seed in (
        (guarded.server.address, new_seed()),
        (guarded.server.address, ""),
        (guarded.server.url.replace("operators-own", "guessed"), ""),
    ):
        with pytest.raises(Unavailable) as caught:
            await connect(url, "test-nobody", seed=seed)
        assert caught.value.code == "nats_unreachable"
        assert seed == "" or seed not in caught.value.message


async def test_a_server_without_authorization_takes_a_key_too(home: Home) -> None:
    """Whoever has keys can be sent to a server that asks for none, or for a password in its address."""
    async with running_nats(home, "a-password") as server:
        client = await connect(server.url, "test-both", identity="pool", seed=new_seed())
        try:
            assert client.is_connected
        finally:
            await client.close()
