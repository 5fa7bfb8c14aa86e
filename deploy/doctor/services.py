"""The services: every replica by itself, what the pool's provider has beside what the log says, and PostgreSQL."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec
import nats.errors
import psutil
from nats.aio.client import Client

from deploy.doctor.finding import Finding, named, warning, well, wrong
from deploy.local import records
from deploy.local.options import SERVICES
from deploy.local.paths import Home
from services.pool.config import PoolConfig
from services.pool.reaping import Inventory
from services.telemetry.adapters.previews import PREVIEWS
from shared.jetstream.connection import bus_on
from shared.jetstream.topology import EVENTS

ANSWER_S = 3.0
QUIET_S = 0.5
"""So long after the last answer whoever lives has spoken."""
REPLICAS_MAX = 1_000
INVENTORY_S = 15.0
LAG_MAX = 100
"""Events; what is folded meanwhile is a handful."""
POSTGRES_S = 5.0


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a service, as it answered. `lag`: events of the log that its state does not hold yet."""

    instance: str
    pid: int | None = None
    ready: bool | None = None
    seq: int = 0
    lag: int = 0


async def services(client: Client, home: Home) -> list[Finding]:
    """Each service, and each process of it that is on record."""
    told = await asyncio.gather(*(_replicas(client, name) for name in SERVICES))
    statuses = await asyncio.gather(*(_status(client, name) for name in SERVICES))
    findings = []
    for name, replicas, status in zip(SERVICES, told, statuses, strict=True):
        findings += _of_service(name, replicas, status)
        findings += [_silent(name, pid, record) for record, pid in _unheard(home, name, replicas)]
    return findings


async def _gather(client: Client, subject: str) -> list[dict[str, Any]]:
    """What everybody who hears the subject answers."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    answers: list[dict[str, Any]] = []
    try:
        await client.publish(subject, b"{}", reply=inbox)
        wait_s = ANSWER_S
        while len(answers) < REPLICAS_MAX:
            message = await subscription.next_msg(timeout=wait_s)
            if not message.data:
                return []  # NATS says that nobody listens there
            answers.append(msgspec.json.decode(message.data))
            wait_s = QUIET_S
    except nats.errors.TimeoutError:
        return answers
    finally:
        await subscription.unsubscribe()
    return answers


async def _replicas(client: Client, name: str) -> list[Replica]:
    """Every replica that answers: by its own status where it tells that, else by the ping of NATS's micro services."""
    told = await _gather(client, f"drape.query.{name}.status.each")
    if told:
        return [msgspec.convert(each, Replica, strict=False) for each in told]
    pongs = await _gather(client, f"$SRV.PING.drape-{name}")
    return [Replica(instance=str(pong.get("metadata", {}).get("instance", pong.get("id", "")))) for pong in pongs]


async def _status(client: Client, name: str) -> Replica | None:
    """Of whichever replica takes the query."""
    try:
        answer = await client.request(f"drape.query.{name}.status", b"{}", timeout=ANSWER_S)
        status = msgspec.json.decode(answer.data)
        return Replica(instance=name, ready=status["ready"], seq=status["seq"], lag=status["lag"])
    except (nats.errors.Error, TimeoutError, KeyError, msgspec.DecodeError):
        return None


def _of_service(name: str, replicas: list[Replica], status: Replica | None) -> list[Finding]:
    check = f"service {name}"
    if not replicas:
        return [
            wrong(
                check,
                "service_silent",
                f"No process of {name} answers.",
                "It does not run, is starting, or hangs.",
                f"{name}.log below the home's `logs` says why; `drape up` starts what is missing.",
            )
        ]
    known = [each for each in replicas if each.ready is not None] or ([status] if status is not None else [])
    if not known:
        why = "Its processes are there, and too busy or stuck."
        todo = f"Look at {name}.log below the home's `logs`; restart it where that does not pass."
        return [wrong(check, "service_stuck", f"{name} does not say how it is.", why, todo)]
    findings = []
    if unready := [each.instance for each in known if not each.ready]:
        text, why = f"Not ready: {named(unready)}.", "It replays the log, waits for its provider, or is ending."
        findings.append(
            wrong(check, "service_not_ready", text, why, "Look again in a moment; its log says what it waits for.")
        )
    if behind := [f"{each.instance} by {each.lag}" for each in known if each.lag > LAG_MAX]:
        text, why = f"Behind the log: {named(behind)} events.", "What it decides and shows is of a moment ago."
        todo = "Look again in a minute; restart it where it does not catch up."
        findings.append(warning(check, "service_behind", text, why, todo))
    if findings:
        return findings
    lag = max(each.lag for each in known)
    count = f"{len(replicas)} replicas, " if len(replicas) > 1 else ""
    return [well(check, f"{count}seq {max(each.seq for each in known)}, {lag} behind the log")]


def _unheard(home: Home, name: str, replicas: list[Replica]) -> list[tuple[str, int]]:
    """Processes on record that live and did not answer: (record, process id)."""
    pids, instances = {each.pid for each in replicas}, {each.instance for each in replicas}
    unheard = []
    for record in records.read_all(home):
        service, _, number = record.name.partition("-")
        if service != name or record.process() is None:
            continue
        if record.pid not in pids and f"{service}-{number or 0}" not in instances:
            unheard.append((record.name, record.pid))
    return unheard


def _silent(name: str, pid: int, record: str) -> Finding:
    return wrong(
        f"replica {record}",
        "replica_hung",
        f"The process {pid} of {name} runs and does not answer.",
        "It hangs, was stopped by a signal, or is starting. Others take over its work; what it serves itself is not served.",
        f"Let it go on (`kill -CONT {pid}`) or end it (`kill -KILL {pid}`): the supervisor starts another.",
    )


# --- the pool's provider ----------------------------------------------------------------------------------------------


async def inventory(client: Client, home: Home, provider: str) -> list[Finding]:
    """What the provider has and the log has not, and the reverse."""
    # Asked again after a second of silence: a replica that hangs may have got it.
    answer = await bus_on(client, "doctor").commands.query("pool", "inventory", timeout_s=INVENTORY_S)
    found = msgspec.json.decode(answer, type=Inventory)
    findings = differences(found)
    leaked = await asyncio.to_thread(_leaked, home, {vm_id for vm_id, _ in found.provider})
    if leaked:
        why = "They use memory and processor, and hold their ports. An agent that nobody calls ends itself in minutes."
        todo = "If they are still there then: `kill -KILL PID`."
        findings.append(
            warning("vms", "vm_process_leaked", f"Processes of VMs that are no more: {named(leaked)}.", why, todo)
        )
    return findings or [well("vms", f"the provider ({provider}) has {len(found.provider)}, as the log says")]


def differences(found: Inventory) -> list[Finding]:
    """As findings; none where both agree."""
    again = f"The pool does it at its next tick (every {PoolConfig().reconcile_period_s:g} s unless set otherwise)"
    if found.error:
        why, todo = "What is left over or lost can't be told.", "Is the provider reachable? The pool's log says more."
        return [wrong("vms", "provider_unlisted", f"The provider's list is not to be had: {found.error}", why, todo)]
    findings = []
    if unknown := (*found.orphans, *found.young):
        text = f"The provider has VMs that the log does not: {named(unknown)}."
        why, todo = "They cost what VMs cost, and serve nobody.", f"{again}; one that stays is named in the pool's log."
        findings.append(warning("vms", "vm_orphaned", text, why, todo))
    if found.lost:
        text, why = f"VMs that the log has are gone: {named(found.lost)}.", "Their previews need others."
        findings.append(warning("vms", "vm_lost", text, why, f"{again}: they are declared lost and replaced."))
    if found.retried:
        text = f"VMs that should be gone and are not yet: {named(found.retried)}."
        why = "They count against the pool's maximum until the provider has destroyed them."
        todo = f"{again}; where one stays, the pool's log says what the provider answers (`destroy_failed`)."
        findings.append(warning("vms", "vm_undestroyed", text, why, todo))
    if found.clock_skews:
        told = named([f"{vm_id} ({skew_s:+.1f} s)" for vm_id, skew_s in found.clock_skews])
        text = f"The clocks of VMs differ from the pool's: {told}."
        why = "Times of their output are wrong. Nothing else is told by them: order and durations don't depend on it."
        todo = "Set the clocks right: does NTP run on both machines?"
        findings.append(warning("vms", "clock_skew", text, why, todo))
    if found.last_run is not None and found.last_run.error:
        text, why = "The last reconciliation could not do all.", found.last_run.error
        findings.append(warning("vms", "reconcile_failed", text, why, f"{again}. Mend what the provider complains of."))
    return findings


def _leaked(home: Home, known: set[str]) -> list[str]:
    """Processes below the VMs' folder whose VM is not listed."""
    vms = str(home.vms)
    found = []
    for process in psutil.process_iter():
        try:
            words = [word for word in process.cmdline() if word.startswith(f"{vms}/")]
            names = {word.removeprefix(f"{vms}/").partition("/")[0] for word in words}
            if names and not names & known and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} ({', '.join(sorted(names))})")
        except (psutil.Error, OSError):
            continue  # another user's, or gone: not ours
    return found


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def postgres(client: Client, url: str) -> list[Finding]:
    """Whether it answers, and how far its rows are behind the log. Previews need none of it."""
    last = (await client.jetstream(timeout=ANSWER_S).stream_info(EVENTS)).state.last_seq
    try:
        seq = await _projected(url)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        why = str(error) or f"No answer within {POSTGRES_S:g} s."
        todo = "Previews go on without; figures catch up once it is back. `drape status` and postgres.log tell more."
        return [wrong("postgres", "postgres_unavailable", "PostgreSQL does not answer.", why, todo)]
    if seq is None:
        return [
            warning("postgres", "not_projected", "No event has been projected yet.", todo="Look again in a moment.")
        ]
    if last - seq > LAG_MAX:
        text, why = f"The projection is {last - seq} events behind.", "`drape stats` shows what was until then."
        todo = "Look again in a minute; telemetry's log says what holds it up."
        return [warning("postgres", "projection_behind", text, why, todo)]
    return [well("postgres", f"answers; the projection is {max(0, last - seq)} events behind")]


async def _projected(url: str) -> int | None:
    async with asyncio.timeout(POSTGRES_S):
        connection = await asyncpg.connect(url, timeout=POSTGRES_S, command_timeout=POSTGRES_S)
        try:
            if await connection.fetchval("SELECT to_regclass('drape.projection_position')") is None:
                return None
            row: Mapping[str, Any] | None = await connection.fetchrow(
                "SELECT seq FROM drape.projection_position WHERE name = $1 AND state = 'serving' ORDER BY updated_at DESC LIMIT 1",
                PREVIEWS,
            )
            return None if row is None else int(row["seq"])
        finally:
            await connection.close(timeout=POSTGRES_S)
