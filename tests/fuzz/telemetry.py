"""Telemetry for a gateway that is fuzzed: it has nothing to show, and decides about silences as the real one does."""

import time
from typing import Any

import msgspec

from services.telemetry.decide import end_silence, silence_alert
from services.telemetry.state import State
from services.telemetry.views import alerts
from shared.commands import EndSilence, SilenceAlert, SilenceReply
from shared.ports import Bus, Subscription


async def serve_alerts(bus: Bus, queries: dict[str, Any]) -> Subscription:
    """Beside these queries, what `/api/alerts` needs."""
    state = State()

    async def show(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(alerts(state, time.time()))

    async def silence(body: bytes, _headers: object) -> bytes:
        command = msgspec.structs.replace(msgspec.json.decode(body, type=SilenceAlert), at=time.time())
        silence_alert(state, command)
        return msgspec.json.encode(SilenceReply(silence_id=command.id))

    async def end(body: bytes, _headers: object) -> bytes:
        command = msgspec.json.decode(body, type=EndSilence)
        end_silence(state, command)
        return msgspec.json.encode(SilenceReply(silence_id=command.silence_id))

    commands = {SilenceAlert.verb: silence, EndSilence.verb: end}
    return await bus.commands.serve("telemetry", commands, {**queries, "alerts": show})
