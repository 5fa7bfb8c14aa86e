"""Performs telemetry's effects: a look at what the alerts need, of which comes a command; and a notice's delivery."""

from collections.abc import Awaitable, Callable

import msgspec

from services.telemetry.looking import Watch
from services.telemetry.notifying import Notifier
from services.telemetry.react import Deliver, LookAtAlerts
from shared.commands import Command
from shared.definition import Effect
from shared.ids import derive
from shared.ports import Cause


class TelemetryEffects:
    """`send` takes a command and why it is sent."""

    def __init__(self, watch: Watch, notifier: Notifier, send: Callable[[Command, Cause], Awaitable[bytes]]) -> None:
        self._watch = watch
        self._notifier = notifier
        self._send = send

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Raises what the command is refused with."""
        match effect:
            case LookAtAlerts():
                command = await self._watch.look()
                command_id = derive(cause.causation_id, type(command).__name__)
                await self._send(msgspec.structs.replace(command, id=command_id), cause)
            case Deliver():
                await self._notifier.deliver(effect, cause)
            case _:
                raise AssertionError(f"not an effect of telemetry: {type(effect).__name__}")
