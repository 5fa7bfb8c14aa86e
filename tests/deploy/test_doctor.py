"""What doctor makes of what it sees: each thing that is wrong is named, with what to do, and nothing is well unseen."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from nats.js.api import (
    ClusterInfo,
    ConsumerConfig,
    ConsumerInfo,
    PeerInfo,
    SequenceInfo,
    StreamConfig,
    StreamInfo,
    StreamState,
)

from deploy.doctor import boots, machine, nodes, services, streams
from deploy.doctor.finding import Finding, looked_at, well
from deploy.local import records
from deploy.local.paths import Home
from services.pool.reaping import Inventory, Run
from services.pool.views import PoolNumbers
from shared.events import VmBootFailed
from tests.builders import VM
from tests.deploy.waiting import alive, eventually

ROOT = Path(__file__).parents[2]


def codes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.code) for finding in findings]


# --- looking ------------------------------------------------------------------------------------------------------


async def test_what_could_not_be_looked_at_is_an_error_not_silence() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def breaks() -> list[Finding]:
        raise KeyError("ready")

    async def works() -> list[Finding]:
        return [well("part", "fine")]

    assert codes(await looked_at("part", hangs(), 0.01)) == [("error", "not_looked_at")]
    assert codes(await looked_at("part", breaks(), 5.0)) == [("error", "not_looked_at")]
    assert codes(await looked_at("part", works(), 5.0)) == [("ok", "ok")]


def test_a_finding_as_json_keeps_its_names() -> None:
    finding = Finding(check="disk", level="warning", code="disk_low", what="Low.", why="Installs.", todo="Make room.")

    assert finding.as_json() == {
        "type": "finding",
        "check": "disk",
        "level": "warning",
        "detail": "Low. Installs. Make room.",
        "code": "disk_low",
        "what": "Low.",
        "why": "Installs.",
        "what_to_do": "Make room.",
    }


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--replay-check",), 1)])
def test_where_nothing_runs_it_says_so(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    """Only what needs a running platform is an error then."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DRAPE_", "NATS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.main", "doctor", "--json", *arguments],
        env={**env, "DRAPE_HOME": str(tmp_path / "home"), "DRAPE_GATEWAY_PORT": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    lines = [msgspec.json.decode(line) for line in done.stdout.splitlines()]

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert [line["code"] for line in lines if line.get("check") == "platform"] == ["not_running"]
    assert lines[-1] == {"type": "doctor", "ok": code == 0, "failed": ["platform"] if code else []}


# --- the machine --------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing until it is ended."""
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        yield child
        child.kill()


async def test_processes_that_were_stopped_or_have_gone_are_named(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    home = Home(tmp_path)
    home.create()
    process = psutil.Process(sleeper.pid)
    records.write(home, records.ProcessRecord(name="pool", pid=sleeper.pid, created=process.create_time()))
    assert codes(machine.processes(home)) == [("ok", "ok")]
    os.kill(sleeper.pid, signal.SIGSTOP)
    await eventually(lambda: process.status() == psutil.STATUS_STOPPED)
    (stopped,) = machine.processes(home)
    assert (stopped.code, str(sleeper.pid) in stopped.what) == ("process_stopped", True)
    sleeper.kill()
    await eventually(lambda: not alive(sleeper.pid))
    (gone,) = machine.processes(home)
    assert (gone.code, "pool" in gone.what) == ("process_gone", True)


def test_clocks_that_differ_are_told() -> None:
    assert machine.clock([("nats", 0.4)]).level == "ok"
    assert machine.clock([("nats-1", 0.0), ("nats-2", -3.0)]).code == "clocks_apart"
    assert machine.clock([]).code == "clock_unchecked"


# --- NATS ---------------------------------------------------------------------------------------------------------


async def test_nodes_that_refuse_and_one_that_only_listens_are_each_told() -> None:
    """Within a bound, though one of them takes connections and never says a word."""
    with socket.socket() as deaf, socket.socket() as unused:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
        urls = [f"nats://drape:secret@127.0.0.1:{each.getsockname()[1]}" for each in (deaf, unused)]
        async with asyncio.timeout(60):
            found, clocks = await nodes.nodes(",".join(urls), [f"http://127.0.0.1:{deaf.getsockname()[1]}"])

    assert [finding.code for finding in found] == ["nats_silent", "nats_silent", "no_quorum", "monitor_silent"]
    assert all("secret" not in finding.detail for finding in found)
    assert clocks == []


def stream(*, bytes_max: int = -1, held: int = 0, peers: tuple[PeerInfo, ...] = (), leader: str = "one") -> StreamInfo:
    return StreamInfo(
        config=StreamConfig(name="DRAPE_EVENTS", max_bytes=bytes_max, num_replicas=len(peers) + 1),
        state=StreamState(messages=1, bytes=held, first_seq=1, last_seq=1, consumer_count=0),
        cluster=ClusterInfo(leader=leader, name="c", replicas=list(peers)),
    )


CURRENT, OFFLINE = PeerInfo(name="two", current=True), PeerInfo(name="three", current=False, offline=True)
BEHIND = PeerInfo(name="three", current=False, offline=False)


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (stream(), "ok"),
        (stream(peers=(CURRENT, CURRENT)), "ok"),
        (stream(peers=(CURRENT, OFFLINE)), "replica_offline"),
        (stream(peers=(CURRENT, BEHIND)), "replica_behind"),
        (stream(peers=(CURRENT, CURRENT), leader=""), "no_leader"),
        (stream(bytes_max=1000, held=700), "ok"),
        (stream(bytes_max=1000, held=900), "stream_nearly_full"),
    ],
)
def test_streams(info: StreamInfo, code: str) -> None:
    (finding,) = streams._stream(info)

    assert finding.code == code
    assert (finding.level == "ok") is (code == "ok")


def consumer(
    *, delivered: tuple[int, int] = (0, 0), waiting: int = 1, pending: int = 0, under_way: int = 0
) -> ConsumerInfo:
    return ConsumerInfo(
        name="pool-reactor",
        stream_name="DRAPE_EVENTS",
        config=ConsumerConfig(),
        created=None,  # type: ignore[arg-type]
        delivered=SequenceInfo(consumer_seq=delivered[0], stream_seq=delivered[1]),
        num_ack_pending=under_way,
        num_redelivered=1,
        num_waiting=waiting,
        num_pending=pending,
    )


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (consumer(), []),
        (None, ["consumer_missing"]),
        (consumer(waiting=0), ["nobody_reacts"]),
        (consumer(pending=5_000), ["reactions_behind"]),
        (consumer(under_way=19_999), ["reactions_many"]),
    ],
)
def test_consumers(info: ConsumerInfo | None, expected: list[str]) -> None:
    assert [each.code for each in streams._consumer_findings("pool-reactor", "pool", info)] == expected


def test_a_reaction_that_fails_for_ever_is_told_from_one_that_was_taken_over() -> None:
    """Deliveries that no new event accounts for; a watch that another replica has taken over is delivered once more only."""
    before = consumer(delivered=(10, 7))

    assert streams._failing(before, consumer(delivered=(10, 7))) == []
    assert streams._failing(before, consumer(delivered=(13, 12))) == []
    assert streams._failing(before, None) == []
    assert [each.code for each in streams._failing(before, consumer(delivered=(12, 7)))] == ["reactions_failing"]


# --- services -----------------------------------------------------------------------------------------------------

READY = services.Replica(instance="pool-0", pid=1, ready=True, seq=9)


@pytest.mark.parametrize(
    ("replicas", "status", "code"),
    [
        ([READY], None, "ok"),
        ([], None, "service_silent"),
        ([services.Replica(instance="pool-0")], None, "service_stuck"),
        ([services.Replica(instance="pool-0")], READY, "ok"),
        ([READY, services.Replica(instance="pool-1", pid=2, ready=False)], None, "service_not_ready"),
        ([READY, services.Replica(instance="pool-1", pid=2, ready=True, lag=4_000)], None, "service_behind"),
    ],
)
def test_services(replicas: list[services.Replica], status: services.Replica | None, code: str) -> None:
    (finding,) = services._of_service("pool", replicas, status)

    assert finding.code == code


def test_a_process_on_record_that_does_not_speak_is_hung(tmp_path: Path) -> None:
    """Known by its instance or its process id, whichever the others tell."""
    home, own = Home(tmp_path), psutil.Process()
    home.create()
    for name in ("pool", "pool-1", "gateway"):
        records.write(home, records.ProcessRecord(name=name, pid=own.pid, created=own.create_time()))

    def unheard(*replicas: services.Replica) -> list[str]:
        return [record for record, _ in services._unheard(home, "pool", list(replicas))]

    assert unheard() == ["pool", "pool-1"]
    assert unheard(services.Replica(instance="pool-0")) == ["pool-1"]
    assert unheard(services.Replica(instance="pool-0"), services.Replica(instance="pool-1")) == []
    assert unheard(services.Replica(instance="other", pid=own.pid)) == []


def inventory(**fields: object) -> Inventory:
    empty = dict.fromkeys(("provider", "orphans", "young", "lost", "retried", "unsettled"), ())
    return msgspec.convert({**empty, "counters": {}, "last_run": None, **fields}, Inventory)


def numbers(name: str, boot_failures: int) -> PoolNumbers:
    counts = ("available", "in_use", "booting", "kept", "going", "waiting", "total", "target", "min", "max")
    return PoolNumbers(
        name=name, region="", image="", memory_mb=0, boot_failures=boot_failures, **dict.fromkeys(counts, 0)
    )


def test_boots_that_fail_are_told_with_their_reason() -> None:
    """A warning where another pool boots, an error where none does."""
    said = VmBootFailed(vm_id=VM, code="image_missing", message="there is no image x; build it")
    told = [
        boots.judged([numbers("a", failures), numbers("b", others)], said)
        for failures, others in ((0, 0), (2, 0), (1, 3))
    ]
    assert [each.level for each in told] == ["ok", "warning", "error"]
    assert "a (2 in a row)" in told[1].what
    assert "image_missing: there is no image x; build it." in told[1].why
    assert boots.judged([numbers("a", 1)], None).code == "vm_boots_failing"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (inventory(), []),
        (inventory(orphans=["vm-1"]), ["vm_orphaned"]),
        (inventory(young=["vm-1"]), ["vm_orphaned"]),
        (inventory(clock_skews=[("vm-1", -61.0)]), ["clock_skew"]),
        (inventory(lost=["vm-1"]), ["vm_lost"]),
        (inventory(retried=["vm-1"]), ["vm_undestroyed"]),
        (inventory(error="Fly says 503."), ["provider_unlisted"]),
        (inventory(last_run=msgspec.to_builtins(Run(at=1.0, error="busy"))), ["reconcile_failed"]),
    ],
)
def test_the_provider_against_the_log(found: Inventory, expected: list[str]) -> None:
    assert [finding.code for finding in services.differences(found)] == expected
