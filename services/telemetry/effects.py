"""Performs telemetry's effects: a look at what is parked, of which a command comes, and the end of days past keeping."""

from collections.abc import Awaitable, Callable

import msgspec

from services.telemetry.react import ApplyRetention, LookAtAlerts
from shared.commands import Command, EvaluateAlerts
from shared.definition import Effect
from shared.errors import Unavailable
from shared.ids import derive
from shared.parked import ParkedReactions
from shared.ports import Cause


class TelemetryEffects:
    """`send` takes a command and why it is sent; `retain` drops what is past keeping, where anything is kept."""

    def __init__(
        self,
        parked: ParkedReactions,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        retain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._parked = parked
        self._send = send
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
            case ApplyRetention():
                if self._retain is not None:
                    await self._retain()
            case _:
                raise AssertionError(f"not an effect of telemetry: {type(effect).__name__}")
