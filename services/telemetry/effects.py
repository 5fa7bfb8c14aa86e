"""Performs telemetry's effects: looks at what the log does not say, of which commands come; a notice's delivery; and the
end of what is past keeping."""

from collections.abc import Awaitable, Callable

import msgspec

from services.telemetry.looking import Watch
from services.telemetry.measuring import ResourceMeter
from services.telemetry.notifying import Notifier
from services.telemetry.react import ApplyRetention, Deliver, LookAtAlerts, MeasureResources
from shared.commands import Command
from shared.definition import Effect
from shared.ids import derive
from shared.ports import Cause


class TelemetryEffects:
    """`send` takes a command and why it is sent; `retain` puts away what is past keeping, where anything is kept."""

    def __init__(
        self,
        watch: Watch,
        notifier: Notifier,
        meter: ResourceMeter,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        retain: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._watch = watch
        self._notifier = notifier
        self._meter = meter
        self._send = send
        self._retain = retain

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Raises what the command is refused with."""
        match effect:
            case LookAtAlerts():
                command = await self._watch.look()
                command_id = derive(cause.causation_id, type(command).__name__)
                await self._send(msgspec.structs.replace(command, id=command_id), cause)
            case MeasureResources():
                await self._meter.measure(cause)
            case ApplyRetention():
                if self._retain is not None:
                    await self._retain()
            case Deliver():
                await self._notifier.deliver(effect, cause)
            case _:
                raise AssertionError(f"not an effect of telemetry: {type(effect).__name__}")
