"""What the real `nats` command prints, to an operator and to an observer; and what it says when something is wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient

from deploy.nats.contexts import CONTEXTS
from deploy.nats.permissions import OBSERVER, SERVICES
from shared.commands import COMMAND_TYPES
from shared.errors import DrapeError
from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.operating import DENIAL, Operator, nats_command, ticked
from tests.live.platform import DENIED, Platform

AT_ONCE = 5
BROKEN_WITHIN_S = 60.0
WELL_WITHIN_S = 90.0
ASKED_S = 30.0
API = "$JS.API"


@pytest.fixture(scope="session")
def nats() -> Path:
    """The real command."""
    found = nats_command()
    if found is None:
        pytest.skip("there is no `nats` command, and no Go to build it; tests/live/test_runbook.py sends its requests")
    return found


@pytest.fixture(scope="session")
def operator(platform: Platform, nats: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """An operator of the shared platform."""
    return Operator(platform, nats, tmp_path_factory.mktemp("operator"))


@pytest.fixture
async def preview(client: Client) -> AsyncIterator[str]:
    """A preview that is ready: something to look at."""
    view = await client.ready(node_project(SERVER))
    yield view["preview_id"]
    await client.stop(view["preview_id"])


def _readings(preview_id: str) -> dict[str, tuple[str, ...]]:
    """What is looked at, by both, and words that it has to show."""
    subject = f"drape.evt.orchestrator.preview.{preview_id}"
    stream, timers = "--stream DRAPE_EVENTS", "--stream DRAPE_TIMERS"
    return {
        "server check connection": ("OK Connection", "round trip"),
        "stream ls": ("DRAPE_EVENTS", "the only source of truth", "Timers and ticks", "failed too often"),
        "stream info DRAPE_EVENTS": ("drape.evt.>", "Allows Msg Delete: false", "io.nats.monitor.enabled: 1"),
        "stream report": ("DRAPE_EVENTS", "DRAPE_PARKED"),
        "stream state DRAPE_EVENTS": ("Last Sequence",),
        f"stream subjects DRAPE_EVENTS '{subject}.>'": (f"{subject}.PreviewRequested", f"{subject}.PreviewReady"),
        f"stream get DRAPE_EVENTS --last-for {subject}.PreviewReady": ('{"type":"PreviewReady","id":', "Drape-Actor"),
        "stream get DRAPE_EVENTS 1": ('{"type":"PoolResized"', "Drape-Correlation-Id"),
        "stream gaps DRAPE_EVENTS --force --no-progress": ("No deleted messages",),
        "consumer ls DRAPE_EVENTS": ("pool-reactor", "Events that pool reacts to", "pool-0-follow-", "Reads in order"),
        "consumer info DRAPE_EVENTS pool-reactor": ("VmBooted", "io.nats.monitor.unprocessed-critical: 1000"),
        "consumer info DRAPE_TIMERS pool-timers": ("io.nats.monitor.last-ack-critical: 2m",),
        "consumer report DRAPE_TIMERS": ("orchestrator-timers", "telemetry-timers"),
        "kv ls": ("drape_keys", "wrapped by the platform's secret", "drape_snap"),
        "object ls": ("drape_files", "Projects' files"),
        "micro ls": tuple(f"drape-{service}" for service in SERVICES),
        "micro info drape-pool": (
            "boots them ahead of need",
            "drape.cmd.pool.acquire",
            "does: Give this preview",
            '"last_seq"',
        ),
        "micro info drape-telemetry": (
            "drape.query.telemetry.stats",
            "takes: optional: days, owner",
            'body: {"days":7}',
        ),
        "micro stats drape-pool": ("acquire", "Processing Time"),
        "micro ping": ("drape-pool", "drape-telemetry"),
        "req drape.query.telemetry.stats '{}'": ('{"type":"telemetry.stats","days":7',),
        "req drape.query.telemetry.alerts '{}'": ('{"type":"telemetry.alerts"',),
        "req drape.query.pool.summary '{}'": ('{"type":"pool.summary","available":',),
        "req drape.query.pool.inventory '{}'": ('{"type":"pool.inventory"',),
        "req drape.query.gateway.digest '{}'": ('{"type":"gateway.digest","seq":',),
        "req drape.query.pool.status.each '{}' --replies 0 --timeout 2s": (
            '"type":"pool.status.each"',
            '"instance":"pool-0"',
        ),
        f"sub {timers} --all --raw --wait 1s": ('{"type":"maintain"}', '{"type":"alerts"}'),
        f"sub {stream} --last-per-subject --subjects-only --wait 1s": (f"{subject}.PreviewReady",),
        f"server check stream {stream}": ("OK DRAPE_EVENTS",),
        "server check stream --stream DRAPE_PARKED": ("OK DRAPE_PARKED", "0 subjects"),
        f"server check consumer {stream} --consumer orchestrator-reactor --unprocessed-critical 1000": (
            "Unprocessed Messages",
        ),
        f"server check consumer {timers} --consumer orchestrator-timers --last-ack-critical 2m": ("OK", "Last ack"),
        "server check kv --bucket drape_snap": ("OK drape_snap",),
        f"server check message {stream} --subject {subject}.PreviewReady --content PreviewReady": ("OK",),
    }


async def test_both_see_everything_that_reads(operator: Operator, preview: str) -> None:
    """Every reading command, with either context: it works, is denied nothing, and shows what it is about."""
    await ticked(operator.platform)
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(context: str, command: str, words: tuple[str, ...]) -> list[str]:
        async with gate:
            ran = await operator.run(f"nats --context {context} {command}")
        if ran.code != 0 or DENIAL in ran.out + ran.err:
            return [f"{context} {command}: {ran.code} {ran.out[-800:]} {ran.err[-800:]}"]
        return [
            f"{context} {command}: {word} is not in {ran.out[-2000:]}"
            for word in words
            if word not in ran.out + ran.err
        ]

    wanted = [(context, *each) for context in CONTEXTS for each in _readings(preview).items()]
    assert [line for lines in await asyncio.gather(*(look(*each) for each in wanted)) for line in lines] == []


async def test_contexts_are_listed_and_selected(operator: Operator) -> None:
    """`nats context ls` says what each is for, `select` takes it."""
    listed = await operator.run("nats context ls")
    assert all(name in listed.out and description in listed.out for name, (_, description) in CONTEXTS.items())
    selected = await operator.run("nats context select drape-observer")
    assert (selected.code, "NKey" in selected.out, "(OK)" in selected.out) == (0, True, True)


async def test_an_operator_sees_output_and_gets_problems(operator: Operator, preview: str) -> None:
    """What projects print begins with its type; a wrong command gets the ADR-32 headers and a problem."""
    printed = await operator.run(f"nats --context drape stream get DRAPE_LOGS --last-for drape.log.{preview}")
    assert '{"type":"PreviewOutput","lines":[{' in printed.out, printed.err
    wrong = await operator.run("nats --context drape req drape.cmd.pool.resize '{}'")
    assert "Nats-Service-Error-Code: 400" in wrong.out + wrong.err
    assert '{"type":"about:blank","code":"bad_command"' in wrong.out
    right = await operator.run("nats --context drape req drape.cmd.pool.maintain '{}'")
    assert '{"type":"pool.maintain","seq":' in right.out
    stats = json.loads((await operator.run("nats --context drape micro stats drape-pool --json")).out)
    [resize] = [each for each in _endpoints(stats) if each["name"] == "resize"]
    assert (resize["num_errors"], resize["last_error"]) == (1, "400 bad_command")
    assert set(resize["data"]) >= {"last_seq", "lag", "replay_ms", "under_way"}
    assert resize["data"]["last_seq"] > 0


def _endpoints(stats: Any) -> list[dict[str, Any]]:
    """Of all replicas: the command prints one object, or a list of them."""
    replicas = stats if isinstance(stats, list) else [stats]
    return [endpoint for replica in replicas for endpoint in replica["endpoints"]]


async def test_an_observer_is_refused_in_words(operator: Operator) -> None:
    """The command itself shows the denial."""
    ran = await operator.run(f"nats --connection-name {DENIED} --timeout 2s req drape.cmd.pool.resize '{{}}'")
    assert DENIAL in ran.err, ran.out


async def test_an_observer_can_change_nothing_and_read_no_secret(platform: Platform) -> None:
    """Every command, every verb of JetStream that writes, every subject that is stored, and what projects have."""
    streams = (
        "DRAPE_EVENTS",
        "DRAPE_TIMERS",
        "DRAPE_PARKED",
        "DRAPE_LOGS",
        "KV_drape_keys",
        "KV_drape_snap",
        "OBJ_drape_files",
    )
    writing = [
        *(f"drape.cmd.{kind.service}.{kind.verb}" for kind in COMMAND_TYPES),
        *("drape.query.pool.restore_deps", "drape.query.pool.publish_deps"),
        *(
            "drape.evt.pool.vm.x.VmBooted",
            "drape.timer.at.pool.x.y",
            "drape.timer.due.pool.x.y",
            "drape.parked.pool.event.1",
        ),
        *("drape.log.x", "drape.progress.x", "drape.activity.x"),
        *("$KV.drape_keys.x", "$KV.drape_snap.pool.x", "$O.drape_files.C.x", "$O.drape_files.M.x"),
        f"{API}.STREAM.CREATE.MINE",
    ]
    for stream in streams:
        verbs = ("UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE")
        writing += [f"{API}.STREAM.{verb}.{stream}" for verb in verbs]
    for stream, consumer in (("DRAPE_EVENTS", "pool-reactor"), ("DRAPE_TIMERS", "pool-timers")):
        verbs = ("DELETE", "MSG.NEXT", "CREATE", "PAUSE", "LEADER.STEPDOWN", "UNPIN", "RESET", "DURABLE.CREATE")
        writing += [f"{API}.CONSUMER.{verb}.{stream}.{consumer}" for verb in verbs]
        writing += [f"$JS.ACK.{stream}.{consumer}.1.1.1.1.1", f"{API}.CONSUMER.DELETE.{stream}.pool-0-follow-x"]
    secret = [
        f"{API}.{verb}.{stream}{rest}"
        for stream in ("DRAPE_LOGS", "KV_drape_keys", "OBJ_drape_files")
        for verb, rest in (
            ("STREAM.MSG.GET", ""),
            ("DIRECT.GET", ""),
            ("DIRECT.GET", ".x"),
            ("CONSUMER.CREATE", ".x.>"),
        )
    ]
    async with platform.connected(OBSERVER, denied=True) as connection:
        answered = await asyncio.gather(*(_answer(connection, subject) for subject in writing + secret))
    assert [each for each in answered if each] == []


async def _answer(connection: NatsClient, subject: str) -> str:
    """Empty where the request was denied."""
    try:
        await connection.request(subject, b"{}", timeout=ASKED_S)
    except DrapeError as error:
        return "" if error.code == "nats_denied" else f"{subject}: {error.code}"
    return f"{subject}: answered"


async def test_checks_tell_of_a_service_that_is_away(
    rough: Platform, nats: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The orchestrator is killed: its checks are critical, and well again once it is back."""
    operator = await asyncio.to_thread(Operator, rough, nats, tmp_path_factory.mktemp("broken"))
    asked = "nats server check request --subject drape.query.orchestrator.status --payload '{}' --match-payload '\"ready\":true'"
    heard = "nats server check consumer --stream DRAPE_TIMERS --consumer orchestrator-timers --last-ack-critical"

    async def codes(limit: str) -> tuple[int, int]:
        first, second = await asyncio.gather(operator.run(asked), operator.run(f"{heard} {limit}"))
        return first.code, second.code

    async def well() -> bool:
        return await codes("2m") == (0, 0)

    async def broken() -> bool:
        return await codes("7s") == (2, 2)

    await eventually(well, WELL_WITHIN_S)
    with rough.supervisor_paused():
        rough.kill("orchestrator")
        await eventually(broken, BROKEN_WITHIN_S)
    await eventually(well, WELL_WITHIN_S)
