"""What runs in the fake's machines: a real agent each, as the local provider starts them, and the ways to it.

Each machine has an address of its own on this machine's loopback, where the port that its agent was told to listen at
leads to the agent: that stands for Fly's private network.
"""

import asyncio
import base64
import contextlib
import functools
import ipaddress
import itertools
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from services.pool.adapters.fly_machines import TOKEN_FILE
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.ports import ProviderError, VmSpec

HANGING = "hanging"
"""A repository with this in its name has an image whose machines start and never listen."""
TRIES_MAX = 20


class Guest:
    """One machine's inside. Not `running` where its image starts no agent."""

    def __init__(self, vm_id: str, port: int) -> None:
        self.vm_id = vm_id
        self.port = port
        self.host = "127.0.0.1"
        self.agent_port = 0
        self.ended = False
        self.asleep = False
        self.way: asyncio.Server | None = None

    @property
    def running(self) -> bool:
        return self.agent_port > 0 and not self.ended

    @property
    def reachable(self) -> bool:
        """A machine that stands still takes no connection: there is nobody to take it."""
        return self.running and not self.asleep


class Guests:
    """The guests of all machines, in folders below `folder`."""

    def __init__(self, folder: Path, *, sandbox: str = "auto") -> None:
        self.folder = folder
        config = LocalConfig(sandbox="none" if sandbox == "none" else "auto", boot_timeout_s=60.0)
        self._provider = LocalProvider(folder, config=config)
        self._guests: dict[str, Guest] = {}
        self.connections = Connections()

    async def reserve(self, machine_id: str, config: dict[str, Any]) -> str:
        """Gives the machine its address."""
        words = [*config["init"].get("exec", []), *config["init"].get("cmd", [])]
        options = dict(itertools.pairwise(words))
        guest = Guest(options["--vm-id"], int(options["--listen"].rpartition(":")[2]))
        for _ in range(TRIES_MAX):
            guest.host = str(ipaddress.ip_address("127.64.0.1") + random.randrange(1 << 21))
            with contextlib.suppress(OSError):  # another fake on this machine has it
                guest.way = await asyncio.start_server(
                    self.connections.served(functools.partial(self._lead, guest)), guest.host, guest.port
                )
                break
        self._guests[machine_id] = guest
        return guest.host

    async def boot(self, machine_id: str, config: dict[str, Any]) -> None:
        """Starts the agent as the machine's config says. Raises ProviderError."""
        guest = self._guests[machine_id]
        if HANGING in config["image"] or guest.ended:
            return
        words = [*config["init"].get("exec", []), *config["init"].get("cmd", [])]
        options = dict(itertools.pairwise(words))
        files = {each["guest_path"]: base64.b64decode(each["raw_value"]) for each in config["files"]}
        spec = VmSpec(
            vm_id=guest.vm_id,
            token=files[TOKEN_FILE].decode().strip(),
            cpu_cores=config["guest"]["cpus"],
            memory_mb=config["guest"]["memory_mb"],
            orphan_timeout_s=float(options["--orphan-timeout-s"]),
        )
        guest.agent_port = (await self._provider.create(spec)).port

    async def suspend(self, machine_id: str) -> None:
        guest = self._guests[machine_id]
        if guest.running:
            guest.asleep = True
            await self._provider.suspend(guest.vm_id)

    async def resume(self, machine_id: str) -> None:
        guest = self._guests[machine_id]
        if guest.running:
            await self._provider.resume(guest.vm_id)
            guest.asleep = False

    async def restart(self, machine_id: str, config: dict[str, Any]) -> None:
        """Boots the machine anew: its address stays, and nothing else does."""
        guest = self._guests[machine_id]
        guest.agent_port = 0
        await self._provider.destroy(guest.vm_id)
        await self.boot(machine_id, config)
        guest.asleep = False

    async def kill(self, machine_id: str) -> None:
        """Ends all that the machine runs, what is just being started too. Idempotent."""
        guest = self._guests.get(machine_id)
        if guest is None:
            return
        if guest.way is not None:
            guest.way.close()
        guest.ended = True
        await self._provider.destroy(guest.vm_id)

    async def connect(self, machine_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the machine's agent. Raises OSError."""
        guest = self._guests.get(machine_id)
        if guest is None or not guest.reachable:
            raise ConnectionRefusedError(machine_id)
        return await asyncio.open_connection("127.0.0.1", guest.agent_port)

    async def close(self) -> None:
        await self.connections.close()
        for machine_id in list(self._guests):
            with contextlib.suppress(ProviderError):
                await self.kill(machine_id)
        await self._provider.close()

    async def _lead(self, guest: Guest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not guest.reachable:
                writer.transport.abort()
                return
            inner = await asyncio.open_connection("127.0.0.1", guest.agent_port)
            await joined((reader, writer), inner)
        except OSError:
            return
        finally:
            writer.close()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Connections:
    """What is being served; `close` ends it all, so that nothing of it outlives the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def served(self, handler: Handler) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(handler(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return accept

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def joined(outer: Ends, inner: Ends) -> None:
    """Bytes both ways, until both have ended; one way's end is passed on, and a reset is one for both."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            else:  # over TLS there is no end of one way
                writer.close()
        except OSError:
            inner[1].transport.abort()
            outer[1].transport.abort()

    try:
        await asyncio.gather(pump(outer[0], inner[1]), pump(inner[0], outer[1]))
    finally:
        inner[1].close()
        outer[1].close()
