"""Each service may do what it must and nothing else; an agent's token opens its own VM only. On a real platform."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import aiohttp
import nats.errors
import pytest
from nats.aio.client import Client as NatsClient

from deploy.nats.permissions import OBSERVER, OPERATOR, PROVISION, SERVICES
from shared.errors import DrapeError, Unavailable
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.servers import public_url
from shared.secrets import agent_token
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

ASKED_S = 30.0
VMS_WAIT_S = 60.0
API = "$JS.API"


async def test_a_whole_preview_needs_nothing_that_is_denied(platform: Platform, client: Client) -> None:
    """Create, upload, variables, preview, page, edit, output, stop, delete: not one violation in the server's log."""
    project_id = await client.project(node_project(SERVER))
    assert (
        await client.call("PATCH", f"/api/projects/{project_id}/env", json={"GREETING": "hello there"})
    ).status == 200
    preview_id = await client.request_preview(project_id)
    view = await client.ended(preview_id)
    assert view["status"] == "ready", view["error"]
    assert (await client.visit(preview_id, "/a-page")).text == "<title>live</title>/a-page"
    assert (await client.patch(project_id, 1, {"more.txt": "more"})).status == 200
    # Not followed: the stream of a preview that runs has no end.
    logs = await client.call("GET", f"/api/previews/{preview_id}")
    assert "listening on" in json.dumps(logs.json)
    await client.stop(preview_id)
    assert (await client.call("DELETE", f"/api/projects/{project_id}")).status in (200, 204)
    for figures in ("/metrics/stats", "/api/costs", "/api/resources"):
        assert (await client.call("GET", figures)).status == 200
    assert platform.violations() == []


async def test_what_a_service_has_no_business_with_is_denied(platform: Platform) -> None:
    """Others' events, reports to others, others' consumers and keys, streams: each is refused by name, at once."""
    for service in SERVICES:
        other = SERVICES[(SERVICES.index(service) + 1) % len(SERVICES)]
        forbidden = [
            f"drape.evt.{other}.thing.some-id.Happened",
            f"drape.timer.at.{other}.wake.one",
            f"drape.parked.{other}.event.1",
            "drape.cmd.orchestrator.confirm",
            "drape.cmd.pool.record-lost",
            "drape.cmd.gateway.delete-project",
            "drape.cmd.pool.resize",
            f"$KV.drape_snap.{other}.fingerprint",
            *(f"{API}.STREAM.{verb}.DRAPE_EVENTS" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE")),
            f"{API}.STREAM.CREATE.MINE",
            f"{API}.STREAM.PURGE.DRAPE_PARKED",
            f"{API}.CONSUMER.MSG.NEXT.DRAPE_EVENTS.{other}-reactor",
            f"{API}.CONSUMER.DELETE.DRAPE_EVENTS.{other}-reactor",
            f"{API}.CONSUMER.CREATE.DRAPE_EVENTS.{other}-reactor.drape.evt.>",
            f"{API}.CONSUMER.CREATE.DRAPE_TIMERS",
            f"$JS.ACK.DRAPE_EVENTS.{other}-reactor.1.1.1.1.1",
        ]
        if service not in ("gateway", "orchestrator"):
            forbidden += [
                f"{API}.STREAM.MSG.GET.OBJ_drape_files",
                f"{API}.DIRECT.GET.DRAPE_LOGS.drape.log.some-preview",
            ]
            forbidden.append("$KV.drape_keys.project")
        if service != "gateway":
            forbidden += ["$O.drape_files.C.chunk", f"{API}.STREAM.PURGE.OBJ_drape_files"]
            forbidden += [f"{API}.STREAM.{verb}.KV_drape_keys" for verb in ("PURGE", "MSG.DELETE")]
        async with platform.connected(service, denied=True) as connection:
            await _all_denied(connection, forbidden)


async def _all_denied(connection: NatsClient, subjects: list[str]) -> None:
    async def ask(subject: str) -> str:
        try:
            await connection.request(subject, b"{}", timeout=ASKED_S)
        except (DrapeError, nats.errors.Error) as error:
            return getattr(error, "code", type(error).__name__)
        return "answered"

    told = dict(zip(subjects, await asyncio.gather(*map(ask, subjects)), strict=True))
    assert told == dict.fromkeys(subjects, "nats_denied")


async def test_nobody_changes_anothers_consumer_by_its_name_in_the_body(platform: Platform) -> None:
    """The server takes a name in the body of a request on the bare subject: services may not publish there. With the name
    in the subject, body and subject must agree, and those subjects are denied."""
    config = {"name": "gateway-reactor", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant"}
    body = json.dumps({"stream_name": "DRAPE_EVENTS", "config": config}).encode()
    async with platform.connected("pool", denied=True) as connection, platform.connected(OPERATOR) as reader:
        before = (await reader.jetstream().consumer_info("DRAPE_EVENTS", "gateway-reactor")).config
        await _all_denied(connection, [f"{API}.CONSUMER.CREATE.DRAPE_EVENTS"])
        with pytest.raises(DrapeError):
            await connection.request(f"{API}.CONSUMER.CREATE.DRAPE_EVENTS", body, timeout=ASKED_S)
        other = await connection.request(f"{API}.CONSUMER.CREATE.DRAPE_EVENTS.mine.drape.evt.>", body, timeout=ASKED_S)
        assert "error" in json.loads(other.data)
        assert (await reader.jetstream().consumer_info("DRAPE_EVENTS", "gateway-reactor")).config == before


async def test_nobody_hears_what_is_meant_for_another(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    """Others' inboxes, commands and queries: the subscription is refused, and what is sent there does not arrive."""
    heard: list[str] = []

    async def hear(message: object) -> None:
        heard.append(str(message))

    for service in (*SERVICES, OBSERVER):
        async with platform.connected(service, denied=True) as connection:
            others = [name for name in SERVICES if name != service]
            wanted = [f"_INBOX_{name}.>" for name in others] + [f"drape.cmd.{name}.>" for name in others]
            caplog.clear()
            with caplog.at_level(logging.ERROR):
                for subject in wanted:
                    await connection.subscribe(subject, cb=hear)
                await connection.flush()
                refused = {f"subscription {subject.lower()}" for subject in wanted}

                def told() -> set[str]:
                    return {getattr(record, "denied", "") for record in caplog.records}

                await eventually(lambda: told() >= refused, ASKED_S)  # noqa: B023 - asked within this round
            async with platform.bus() as bus:
                for name in others:
                    await bus.commands.query(name, "status")
    assert heard == []


async def test_provisioning_reads_nothing_and_an_observer_sends_nothing(platform: Platform) -> None:
    """Who makes streams sees no message and appends none; who looks on cannot act, nor read what projects print."""
    async with platform.connected(PROVISION, denied=True) as connection:
        await _all_denied(
            connection,
            [
                "drape.evt.pool.vm.some-id.Happened",
                "drape.cmd.pool.resize",
                f"{API}.STREAM.MSG.GET.DRAPE_EVENTS",
                f"{API}.STREAM.DELETE.DRAPE_EVENTS",
                f"{API}.CONSUMER.MSG.NEXT.DRAPE_EVENTS.pool-reactor",
            ],
        )
    async with platform.connected(OBSERVER, denied=True) as connection:
        assert (await connection.jetstream().stream_info("DRAPE_EVENTS")).state.messages > 0
        assert (await bus_on(connection, "live").log.head("pool.pool.pool")) is not None
        await _all_denied(
            connection,
            [
                "drape.cmd.pool.resize",
                "drape.query.pool.restore_deps",
                f"{API}.STREAM.MSG.GET.DRAPE_LOGS",
                f"{API}.STREAM.MSG.GET.OBJ_drape_files",
                f"{API}.STREAM.PURGE.DRAPE_PARKED",
                f"{API}.CONSUMER.DELETE.DRAPE_EVENTS.pool-reactor",
            ],
        )


async def test_an_agents_token_opens_its_own_vm_only(
    platform: Platform, client: Client, wanted: Callable[[str], Awaitable[str]]
) -> None:
    """The token of one VM at another's agent is 401, and so is the platform's secret itself; at NATS it opens nothing."""
    preview_id = await wanted("<title>one</title>")

    def vms() -> list[str]:
        return sorted(path.parent.name for path in platform.home.vms.glob("*/vm.json"))

    await eventually(lambda: len(vms()) >= 2, VMS_WAIT_S)
    first, second = vms()[:2]
    secret = (platform.home.secrets / "platform").read_text().strip()
    async with aiohttp.ClientSession() as session:

        async def ask(vm: str, token: str) -> int:
            address = f"http://127.0.0.1:{platform.vm(vm)['port']}/health"
            async with session.get(address, headers={"Authorization": f"Bearer {token}"}) as answer:
                return answer.status

        async def answers(vm: str) -> bool:
            try:
                return await ask(vm, agent_token(secret, vm)) == 200
            except aiohttp.ClientError:
                return False  # it is still booting

        for own, other in ((first, second), (second, first)):
            await eventually(lambda vm=own: answers(vm), VMS_WAIT_S)  # type: ignore[misc]
            assert await ask(own, agent_token(secret, other)) == 401
            assert await ask(own, secret) == 401
    address = public_url(platform.status.nats)
    for url in (address, address.replace("//", f"//{agent_token(secret, first)}@")):
        with pytest.raises(Unavailable) as caught:
            await connect(url, "drape-live-denied", seed="")
        assert caught.value.code == "nats_unreachable"
    await client.stop(preview_id)


@pytest.fixture
def wanted(client: Client) -> Callable[[str], Awaitable[str]]:
    """A preview of one page, once it is ready; gives its id."""

    async def preview(page: str) -> str:
        view = await client.ready({"index.html": page})
        return str(view["preview_id"])

    return preview
