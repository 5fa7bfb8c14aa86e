"""Takes the snapshot of what there is: the pools say what they are and use, and what comes of it is a command."""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from shared.commands import Command, RecordResources
from shared.errors import UNREADABLE, DrapeError
from shared.events import PoolUsage
from shared.ids import derive
from shared.ports import Cause, Commands

log = logging.getLogger("drape.telemetry")

_pools = msgspec.json.Decoder(tuple[PoolUsage, ...])


class ResourceMeter:
    """`send` takes a command and why it is sent; `clock`: seconds, UTC."""

    def __init__(
        self,
        commands: Commands,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        clock: Callable[[], float],
    ) -> None:
        self._commands = commands
        self._send = send
        self._clock = clock

    async def measure(self, cause: Cause) -> None:
        """Raises what the command is refused with. Pools that don't answer are recorded as that, not as empty."""
        day = datetime.fromtimestamp(self._clock(), UTC).date().isoformat()
        command = RecordResources(day=day, pools=await self._ask())
        command_id = derive(cause.causation_id, type(command).__name__)
        await self._send(msgspec.structs.replace(command, id=command_id), cause)

    async def _ask(self) -> tuple[PoolUsage, ...] | None:
        try:
            return _pools.decode(await self._commands.query("pool", "usage"))
        except (DrapeError, *UNREADABLE) as error:
            log.info("usage_unknown", extra={"error": str(error)})
            return None
