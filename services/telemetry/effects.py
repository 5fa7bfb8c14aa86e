"""Performs telemetry's one effect: a look at what is parked, and what comes of it is a command."""

from collections.abc import Awaitable, Callable

import msgspec

from services.telemetry.react import LookAtAlerts
from shared.commands import Command, EvaluateAlerts
from shared.definition import Effect
from shared.errors import Unavailable
from shared.ids import derive
from shared.parked import ParkedReactions
from shared.ports import Cause


class TelemetryEffects:
    """`send` takes a command and why it is sent."""

    def __init__(self, parked: ParkedReactions, send: Callable[[Command, Cause], Awaitable[bytes]]) -> None:
        self._parked = parked
        self._send = send

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Raises what the command is refused with; a count that is not to be had hinders no other alert."""
        match effect:
            case LookAtAlerts():
                try:
                    parked = await self._parked.count()
                except Unavailable:
                    parked = None
                command = EvaluateAlerts(parked=parked)
                command_id = derive(cause.causation_id, type(command).__name__)
                await self._send(msgspec.structs.replace(command, id=command_id), cause)
            case _:
                raise AssertionError(f"not an effect of telemetry: {type(effect).__name__}")
