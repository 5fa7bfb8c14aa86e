"""Streams and their consumers: replicas, room, and reactions that nobody takes, that pile up, fail or were parked."""

import asyncio
from collections.abc import Iterable, Sequence

import nats.errors
from nats.aio.client import Client
from nats.js.api import ConsumerInfo, StreamInfo
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from deploy.doctor.finding import Finding, named, warning, well, wrong
from deploy.local.options import SERVICES
from shared.jetstream.parked import NatsParked
from shared.jetstream.topology import (
    ACK_PENDING_MAX,
    EVENTS,
    FILES_BUCKET,
    LOGS,
    PARKED,
    TIMER_AT,
    TIMERS,
    reactor_name,
    timer_consumer_name,
)

ASK_S = 5.0
WANTED = (EVENTS, TIMERS, LOGS, PARKED, f"OBJ_{FILES_BUCKET}")
ROLLING = (LOGS,)
"""Streams whose oldest messages give way: full is what they are made for."""
NEAR = 0.8
"""Of a limit: time to act before it is reached."""
AGAIN_WITHIN_S = 7.0
"""Longer than the longest pause between two tries of a reaction."""
BEHIND_MAX = 1_000
PROBE_TTL = "1s"


async def streams(client: Client) -> list[Finding]:
    """Everything below is asked of the streams' leaders."""
    js = client.jetstream(timeout=ASK_S)
    found = {str(info.config.name): info for info in await js.streams_info()}
    missing = [name for name in WANTED if name not in found]
    findings = [finding for info in found.values() for finding in _stream(info)]
    if missing:
        findings.append(
            wrong(
                "streams",
                "not_provisioned",
                f"NATS has no {named(missing)}.",
                "Services can't start without, and what was in them is lost to them.",
                "Run `drape provision`. If they were there before, put back a backup of the store first.",
            )
        )
    if TIMERS in found:
        findings.append(await _writable(js))
    findings += await _consumers(js, found)
    if PARKED in found:
        findings.append(_parked(len(await NatsParked(client).list())))
    return findings


def _stream(info: StreamInfo) -> list[Finding]:
    """Its replicas, and the room it has left."""
    name = str(info.config.name)
    replicas = _replicas(name, info)
    room = _room(name, info)
    if replicas or room:
        return [*replicas, *room]
    copies = f", {info.config.num_replicas} replicas" if (info.config.num_replicas or 1) > 1 else ""
    return [well(f"stream {name}", f"{info.state.messages} messages, {info.state.bytes / 1024**2:.1f} MiB{copies}")]


def _replicas(name: str, info: StreamInfo) -> list[Finding]:
    if info.cluster is None or (info.config.num_replicas or 1) == 1:
        return []
    check = f"stream {name}"
    if not info.cluster.leader:
        todo = "Start the nodes that are away."
        return [wrong(check, "no_leader", f"{name} has no leader.", "No majority of its replicas is there.", todo)]
    away = [str(peer.name) for peer in info.cluster.replicas or () if peer.offline]
    behind = [str(peer.name) for peer in info.cluster.replicas or () if not peer.current and not peer.offline]
    findings = []
    if away:
        why, todo = "One more that is lost may stop it.", "Start that node again; its log says why it ended."
        findings.append(wrong(check, "replica_offline", f"{name} has no replica on {named(away)}.", why, todo))
    if behind:
        why = "It catches up by itself, unless it has stopped storing (a full disk)."
        todo = "Look again in a minute; restart that node if it is still behind."
        findings.append(warning(check, "replica_behind", f"{named(behind)} is behind on {name}.", why, todo))
    return findings


def _room(name: str, info: StreamInfo) -> list[Finding]:
    limit = info.config.max_bytes or 0
    if limit <= 0 or name in ROLLING or info.state.bytes < NEAR * limit:
        return []
    return [
        warning(
            f"stream {name}",
            "stream_nearly_full",
            f"{name} holds {info.state.bytes / limit:.0%} of what it may.",
            "At the limit nothing more is stored in it, or the oldest is lost.",
            "Delete projects that nobody needs (`drape project delete`), or look at what is parked (`drape parked ls`).",
        )
    ]


async def _writable(js: JetStreamContext) -> Finding:
    """A message that nobody hears, and that is gone a second later."""
    try:
        await js.publish(f"{TIMER_AT}.doctor.probe", b"", headers={"Nats-TTL": PROBE_TTL}, timeout=ASK_S)
    except (nats.errors.Error, APIError, TimeoutError) as error:
        return wrong(
            "storing",
            "not_storing",
            f"NATS does not store: {error or type(error).__name__}.",
            "A full disk, no majority of nodes, or a node that has stopped storing.",
            "Make room, start the nodes that are away, and restart the one that says that it is unhealthy.",
        )
    return well("storing", "a message was stored and acknowledged")


async def _consumers(js: JetStreamContext, found: Iterable[str]) -> list[Finding]:
    wanted = [(EVENTS, reactor_name(name), name) for name in SERVICES]
    wanted += [(TIMERS, timer_consumer_name(name), name) for name in SERVICES]
    known = set(found)
    wanted = [each for each in wanted if each[0] in known]
    before = await asyncio.gather(*(_consumer(js, stream, name) for stream, name, _ in wanted))
    findings = []
    for (_, name, service), info in zip(wanted, before, strict=True):
        findings += _consumer_findings(name, service, info)
    retried = [(each[0], info) for each, info in zip(wanted, before, strict=True) if info and info.num_redelivered]
    if retried:
        await asyncio.sleep(AGAIN_WITHIN_S)
        for stream, info in retried:
            findings += _failing(info, await _consumer(js, stream, info.name))
    return findings or [well("reactions", "every service hears its events and timers")]


async def _consumer(js: JetStreamContext, stream: str, name: str) -> ConsumerInfo | None:
    try:
        info: ConsumerInfo = await js.consumer_info(stream, name, timeout=ASK_S)
        return info
    except APIError:
        return None


def _consumer_findings(name: str, service: str, info: ConsumerInfo | None) -> list[Finding]:
    check = f"reactions {name}"
    if info is None:
        why, todo = f"Nothing that {service} should do is done.", "Run `drape provision`."
        return [wrong(check, "consumer_missing", f"NATS has no consumer {name}.", why, todo)]
    findings = []
    if not info.num_waiting:
        todo = f"Is {service} running, and does it answer? The findings about services tell."
        findings.append(wrong(check, "nobody_reacts", f"Nobody asks {name} for work.", todo=todo))
    if (info.num_pending or 0) > BEHIND_MAX:
        text = f"{info.num_pending} events wait for {service} to react."
        findings.append(
            warning(check, "reactions_behind", text, todo="Look again in a minute; more replicas share the work.")
        )
    if (info.num_ack_pending or 0) >= NEAR * ACK_PENDING_MAX:
        text = f"{info.num_ack_pending} reactions of {service} are under way, {ACK_PENDING_MAX} at most may be."
        todo = "Stop previews that nobody uses (`drape ps`, `drape stop`)."
        findings.append(warning(check, "reactions_many", text, "At the limit no event is heard any more.", todo))
    return findings


def _failing(before: ConsumerInfo, after: ConsumerInfo | None) -> Sequence[Finding]:
    """Deliveries that no new message accounts for. One that was delivered again once and is at work since is none."""
    if after is None or before.delivered is None or after.delivered is None:
        return []
    again = (after.delivered.consumer_seq - before.delivered.consumer_seq) - (
        after.delivered.stream_seq - before.delivered.stream_seq
    )
    if again <= 0:
        return []
    service = before.name.partition("-")[0]
    return [
        warning(
            f"reactions {before.name}",
            "reactions_failing",
            f"{service} was given the same {again} times again within {AGAIN_WITHIN_S:g} s.",
            "A reaction fails, and is tried until it works or is parked; or a replica dies over it.",
            f"The log of {service} says why (`reaction_failed`); {service}.log below the home's `logs`.",
        )
    ]


def _parked(count: int) -> Finding:
    if not count:
        return well("parked", "nothing")
    return warning(
        "parked",
        "reactions_parked",
        f"{count} reactions failed too often.",
        "What they should have done is not done.",
        "`drape parked ls` says why, `drape parked replay` tries them again.",
    )
