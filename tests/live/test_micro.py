"""What an operator with the `nats` CLI sees: micro services, requests by hand, described streams, timers that last."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import nats.errors
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from deploy.local.options import SERVICES
from shared.commands import commands_of
from shared.jetstream import topology
from shared.jetstream.connection import bus_on, connect
from shared.ports import Timer
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

ANSWER_TIMEOUT_S = 5.0
TIMER_AFTER_S = 4.0
TIMER_WAIT_S = 30.0
NAMES = {f"drape-{name}" for name in SERVICES}
STREAMS = (topology.EVENTS, topology.TIMERS, topology.LOGS, topology.PARKED)


@pytest.fixture
async def connection(platform: Platform) -> AsyncIterator[NatsClient]:
    """An operator's connection."""
    client = await connect(platform.status.nats, "drape-live-operator")
    try:
        yield client
    finally:
        await client.close()


async def _from_all(client: NatsClient, subject: str) -> dict[str, dict[str, Any]]:
    """Everybody's answer to one request, by service; returns when all four have answered."""
    answers: asyncio.Queue[Msg] = asyncio.Queue(maxsize=100)

    async def take(message: Msg) -> None:
        answers.put_nowait(message)

    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=take)
    await client.publish(subject, b"", reply=inbox)
    found: dict[str, dict[str, Any]] = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while set(found) != NAMES:
                answer = msgspec.json.decode((await answers.get()).data)
                found[answer["name"]] = answer
    await subscription.unsubscribe()
    return found


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_every_service_answers_the_micro_protocol(connection: NatsClient, verb: str) -> None:
    """$SRV.PING, INFO and STATS: valid JSON of the right type from all four; INFO lists each command's subject."""
    found = await _from_all(connection, f"$SRV.{verb}")
    assert set(found) == NAMES
    for name, answer in found.items():
        assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
        assert answer["version"]
        assert answer["id"]
        if verb == "PING":
            continue
        service = name.removeprefix("drape-")
        subjects = {endpoint["subject"] for endpoint in answer["endpoints"]}
        wanted = {f"drape.cmd.{service}.{command.verb}" for command in commands_of(service)}
        assert wanted | {f"drape.query.{service}.status"} <= subjects
        for endpoint in answer["endpoints"]:
            if verb == "INFO":  # a query that is not described has no line in shared/jetstream/describing.py
                assert set(endpoint["metadata"]) == {"does", "takes", "body", "answers"}, endpoint["subject"]
            else:
                assert set(endpoint["data"]) == {"last_seq", "lag", "replay_ms", "under_way"}, endpoint["subject"]
                assert endpoint["data"]["last_seq"] > 0


async def test_endpoints_count_the_whole_work_and_what_was_refused(connection: NatsClient) -> None:
    """Requests, errors with their code and no words, and time."""

    async def counted() -> dict[str, Any]:
        pool = (await _from_all(connection, "$SRV.STATS"))["drape-pool"]
        return next(each for each in pool["endpoints"] if each["subject"] == "drape.cmd.pool.release")

    before = await counted()
    await connection.request("drape.cmd.pool.release", b'{"wrong":1}', timeout=ANSWER_TIMEOUT_S)
    await connection.request("drape.cmd.pool.release", b'{"preview_id":"nobody"}', timeout=ANSWER_TIMEOUT_S)
    after = await counted()
    assert after["num_requests"] - before["num_requests"] == 2
    assert after["num_errors"] - before["num_errors"] == 1
    assert after["last_error"] == "400 bad_command"
    assert after["processing_time"] > before["processing_time"]
    assert after["average_processing_time"] > 0


async def test_bodies_begin_with_their_type(connection: NatsClient, client: Client) -> None:
    """Events, timers, output, snapshots' heads, and answers of commands and queries, as they are on the wire."""
    preview_id = await client.request_preview(await client.project(node_project(SERVER)))
    heard = await connection.subscribe("drape.progress.>")
    await client.ended(preview_id)
    js = connection.jetstream()
    bodies = {
        "event": (
            await js.get_last_msg(topology.EVENTS, f"drape.evt.orchestrator.preview.{preview_id}.PreviewReady")
        ).data,
        "timer": (await js.get_last_msg(topology.TIMERS, f"{topology.TIMER_EVERY}.pool.maintain")).data,
        "output": (await js.get_last_msg(topology.LOGS, f"{topology.LOG_ROOT}.{preview_id}")).data,
        "progress": (await heard.next_msg(timeout=ANSWER_TIMEOUT_S)).data,
    }
    for subject in ("drape.query.telemetry.alerts", "drape.query.pool.summary", "drape.cmd.pool.maintain"):
        bodies[subject] = (await connection.request(subject, b"{}", timeout=ANSWER_TIMEOUT_S)).data
    wrong = {name: body for name, body in bodies.items() if not (body or b"").startswith(b'{"type":"')}
    assert wrong == {}
    assert all(isinstance(msgspec.json.decode(body or b""), dict) for body in bodies.values())
    await heard.unsubscribe()
    await client.stop(preview_id)


async def test_a_request_by_hand_that_is_wrong_gets_a_problem(connection: NatsClient) -> None:
    """`nats req drape.cmd.pool.acquire '{}'`: the micro error headers with 400 and a problem that names the field."""
    for body in (b"{}", b"rubbish", b"[]"):
        answer = await connection.request("drape.cmd.pool.acquire", body, timeout=ANSWER_TIMEOUT_S)
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "400"
        assert answer.headers["Nats-Service-Error"]
        problem = msgspec.json.decode(answer.data)
        assert (problem["status"], bool(problem["code"]), bool(problem["detail"])) == (400, True, True)
    with pytest.raises(nats.errors.NoRespondersError):
        await connection.request("drape.cmd.pool.no_such_verb", b"{}", timeout=ANSWER_TIMEOUT_S)


async def test_streams_and_consumers_say_what_they_are(connection: NatsClient) -> None:
    """Every stream, its consumers and the bucket have descriptions; events cannot be deleted or purged."""
    js = connection.jetstream()
    for name in STREAMS:
        assert (await js.stream_info(name)).config.description, name
    events = (await js.stream_info(topology.EVENTS)).config
    assert (events.deny_delete, events.deny_purge) == (True, True)
    for service in SERVICES:
        for stream, consumer in (
            (topology.EVENTS, topology.reactor_name(service)),
            (topology.TIMERS, topology.timer_consumer_name(service)),
        ):
            config = (await js.consumer_info(stream, consumer)).config
            assert config.description, consumer
            assert config.metadata is not None
            assert config.metadata[f"{topology.MONITOR}.unprocessed-critical"] == "1000"
            ticking = stream == topology.TIMERS and service in topology.TICKING
            assert (f"{topology.MONITOR}.last-ack-critical" in config.metadata) is ticking, consumer
    assert (await js.stream_info(f"OBJ_{topology.FILES_BUCKET}")).config.description


async def test_a_timer_survives_a_restart_of_nats(rough: Platform) -> None:
    """A timer is set, NATS is killed with -9 and restarted: the timer is due all the same, not before its time."""
    due = f"{topology.TIMER_DUE}.telemetry.wake.one"
    async with asyncio.timeout(TIMER_WAIT_S), rough.connected("telemetry") as setter:
        client = await connect(rough.status.nats, "drape-live-timer")
        try:
            at = time.time() + TIMER_AFTER_S
            await bus_on(setter, "live").timers.schedule(Timer(service="telemetry", name="wake", id="one", at=at))
            killed = rough.kill("nats")
            await eventually(lambda: rough.pid("nats") not in (0, killed) and client.is_connected, TIMER_WAIT_S)
            subscription = await client.jetstream().subscribe(due, stream=topology.TIMERS, ordered_consumer=True)
            message = await subscription.next_msg(timeout=TIMER_WAIT_S)
            assert message.subject == due
            assert time.time() >= at - 0.5
            await subscription.unsubscribe()
        finally:
            await client.close()
