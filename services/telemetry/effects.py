"""Performs telemetry's effects: looks at what the log does not say, and what comes of it is a command."""

from collections.abc import Awaitable, Callable

import msgspec

from services.telemetry.react import ApplyRetention, LookAtAlerts, MeasureResources
from shared.commands import Command, EvaluateAlerts
from shared.definition import Effect
from shared.errors import Unavailable
from shared.ids import derive
from shared.parked import ParkedReactions
from shared.ports import Cause


class TelemetryEffects:
    """`send` takes a command and why it is sent; `measure` takes the snapshot of what there is, `retain` puts away what
    is past keeping, where anything is kept."""

    def __init__(
        self,
        parked: ParkedReactions,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        measure: Callable[[Cause], Awaitable[None]],
        retain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._parked = parked
        self._send = send
        self._measure = measure
        self._retain = retain

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
            case MeasureResources():
                await self._measure(cause)
            case ApplyRetention():
                if self._retain is not None:
                    await self._retain()
            case _:
                raise AssertionError(f"not an effect of telemetry: {type(effect).__name__}")
