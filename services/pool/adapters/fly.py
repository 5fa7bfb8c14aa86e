"""The `fly` provider: a VM is a machine of one Fly app, made by their Machines API and found again by its metadata.

    name drape-<home>-<vm>   metadata drape_home, drape_vm   a lease around each change   one volume where a disk is asked for

Nothing is remembered here: what exists is what the API lists, so that any replica may do any verb, and a machine without
this home's metadata is never touched. This room decides nothing about when VMs are wanted.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import uuid4

import aiohttp

from services.pool.adapters import fly_machines as shapes
from services.pool.adapters.fly_api import FlyApi
from services.pool.adapters.fly_boot import agent_answers
from services.pool.adapters.fly_config import FlyConfig
from services.pool.adapters.fly_create import Attempt, FlyCreate
from services.pool.adapters.fly_leases import FlyMachines
from services.pool.adapters.fly_machines import Machine, Phase
from services.pool.adapters.fly_volumes import FlyVolumes
from services.pool.adapters.specs import check_spec
from services.pool.adapters.turns import Turns
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec

log = logging.getLogger("drape.pool.fly")

DESTROY_ROUNDS = 2
"""A destroy that is answered and does nothing is asked for once more, then reported."""


class FlyProvider:
    """VMs as machines of `config.app`. `home`: tells this installation's machines from others'; `token`: Fly's."""

    name = "fly"

    def __init__(
        self, config: FlyConfig, token: str, home: str, *, clock: Callable[[], float] = time.time, owner: str = ""
    ) -> None:
        self._config = config
        self._home = home
        self._clock = clock
        self._api = FlyApi(config, token)
        self._machines = FlyMachines(self._api, config, owner or f"drape {home} {uuid4().hex[:8]}")
        self._volumes = FlyVolumes(self._api, config, home)
        self._create = FlyCreate(self._api, config, home, self._volumes)
        self._turns = Turns()  # among processes the lease sees to it
        self._agents: aiohttp.ClientSession | None = None

    async def create(self, spec: VmSpec) -> VmAddress:
        """Make the machine and wait for its agent; what the id held before is destroyed first.

        Raises ProviderError, besides the usual codes `image_missing`, `image_unusable`, `region_full`.
        """
        check_spec(spec)
        async with self._turns.holding(spec.vm_id):
            self._create.check(spec)
            await self._create.ensure_app()
            await self._destroy(spec.vm_id)
            attempt = Attempt(uuid4().hex)
            try:
                async with asyncio.timeout(self._config.boot_timeout_s):
                    made = await self._create.make(spec, attempt)
                    address = await self._booted(spec, made)
            except TimeoutError:
                await self._clean_up(spec.vm_id, attempt)
                raise ProviderError(
                    "boot_timeout",
                    f"the agent of VM {spec.vm_id} did not answer within {self._config.boot_timeout_s:g} s; "
                    f"is {self._config.reach!r} the right DRAPE_POOL_FLY_REACH, and does the image start the agent? "
                    f"`fly logs -a {self._config.app}` tells",
                    retryable=True,
                ) from None
            except BaseException:
                await self._clean_up(spec.vm_id, attempt)
                raise
            await self._machines.release(made.id, made.nonce)
            return address

    async def suspend(self, vm_id: str) -> int:
        """Suspend the machine to disk. Gives its size: what Fly stores of it may be less."""
        async with self._turns.holding(vm_id), self._one(vm_id) as (machine, nonce):
            if (await self._at_rest(machine)).phase == "up":
                await self._machines.change(machine.id, "suspend", nonce)
            return (await self._become(machine, "asleep")).memory_bytes

    async def resume(self, vm_id: str) -> None:
        """Start the suspended machine. Where Fly has lost what was suspended it boots anew, as after a power cut."""
        async with self._turns.holding(vm_id), self._one(vm_id) as (machine, nonce):
            if (await self._at_rest(machine)).phase == "asleep":
                await self._machines.change(machine.id, "start", nonce)
            await self._become(machine, "up")

    async def destroy(self, vm_id: str) -> None:
        async with self._turns.holding(vm_id):
            await self._destroy(vm_id)

    async def list(self) -> Sequence[VmListing]:
        self._turns.check_open()
        machines, server_now = await self._list()
        volumes = await self._volumes.list() if self._volumes.used else []
        now = self._clock()
        found: dict[str, VmListing] = {}
        for machine in machines:
            seen = shapes.listing(machine, self._config, now=now, server_now=server_now)
            if seen.vm_id not in found or found[seen.vm_id].state == "stopped":
                found[seen.vm_id] = seen
        for volume in volumes:  # a disk whose machine is gone: the pool has it destroyed
            vm_id = shapes.vm_of_volume(self._home, volume)
            if vm_id and vm_id not in found and not volume.attached_machine_id:
                created_at = now - shapes.age_s(volume.created_at, server_now or now)
                found[vm_id] = VmListing(vm_id=vm_id, state="stopped", created_at=created_at, address=None)
        return list(found.values())

    async def close(self) -> None:
        """Ends the connections. Every later call but this one is refused."""
        self._turns.close()
        await self._api.close()
        if self._agents is not None:
            await self._agents.close()

    # -- parts of verbs

    async def _booted(self, spec: VmSpec, made: Machine) -> VmAddress:
        """Where the agent answers. The caller sets the limit."""
        up = await self._machines.settled(made.id, ("up", "down", "going"), self._config.boot_timeout_s, "up")
        if up is None or up.phase != "up":
            raise ProviderError(
                "boot_failed",
                f"the machine of VM {spec.vm_id} ended while it started ({up.state if up else 'destroyed'}); does the image "
                f"start the agent? `fly logs -a {self._config.app}` tells",
                retryable=True,
            )
        address = shapes.address(up, self._config)
        if address is None:
            raise ProviderError(
                "provider_unavailable", f"Fly gave machine {made.id} no private address", retryable=True
            )
        if self._agents is None:
            self._agents = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        await agent_answers(self._agents, address, spec, poll_s=self._config.poll_s)
        return address

    async def _destroy(self, vm_id: str, attempt: Attempt | None = None) -> None:
        """All that the id holds, machines and disks; with `attempt`, only what that try to make it has left."""
        found = await self._of(vm_id, attempt.id if attempt else "")
        volumes = [volume for machine in found for volume in machine.volumes]
        for machine in found:
            for number in range(1, DESTROY_ROUNDS + 1):
                left = await self._destroy_machine(machine, attempt.nonce if attempt else "")
                if left is None:
                    break
                if number == DESTROY_ROUNDS:
                    raise ProviderError(
                        "destroy_failed",
                        f"Fly answered that machine {machine.id} of VM {vm_id} is destroyed, but it is still {left.state}; "
                        "it is tried again",
                        retryable=True,
                    )
        for volume in volumes:
            await self._volumes.delete(volume)
        if self._volumes.used and attempt is None:
            await self._volumes.delete_of(vm_id)

    async def _destroy_machine(self, machine: Machine, nonce: str) -> Machine | None:
        """None, once it is gone; else the machine, which does as if nothing had been asked. Raises `vm_stuck`."""
        try:
            async with self._machines.leased(machine.id, nonce) as held:
                await self._machines.delete(machine.id, held)
                seen = await self._machines.settled(
                    machine.id, ("going", "changing"), self._config.ignored_s, "gone", strict=False
                )
                if seen is None or seen.phase not in ("going", "changing"):
                    return seen
                await self._machines.settled(machine.id, (), self._config.settle_timeout_s, "gone")
        except ProviderError as error:
            if error.code != "vm_not_found":
                raise
        return None

    async def _at_rest(self, machine: Machine) -> Machine:
        """The machine once it is up or asleep. Raises `vm_stopped`, `vm_stuck`."""
        if machine.phase in ("up", "asleep"):
            return machine  # as it was a moment ago; a change that no longer fits is refused by Fly
        awaited: Phase = "asleep" if machine.phase == "falling_asleep" else "up"
        return await self._settle(machine, ("up", "asleep"), awaited)

    async def _become(self, machine: Machine, phase: Phase) -> Machine:
        return await self._settle(machine, (phase,), phase)

    async def _settle(self, machine: Machine, until: tuple[Phase, ...], awaited: Phase) -> Machine:
        settled = await self._machines.settled(
            machine.id, (*until, "down", "going"), self._config.settle_timeout_s, awaited
        )
        if settled is None or settled.phase not in until:
            raise _ended(machine.metadata.get(shapes.VM, machine.id))
        return settled

    @contextlib.asynccontextmanager
    async def _one(self, vm_id: str) -> AsyncIterator[tuple[Machine, str]]:
        """The living machine of a VM, and the lease under which it may be changed."""
        machines = await self._of(vm_id)
        if not machines:
            raise ProviderError("vm_not_found", f"there is no VM {vm_id}")
        living = [machine for machine in machines if machine.phase not in ("down", "going")]
        if not living:
            raise _ended(vm_id)
        async with self._machines.leased(living[0].id) as nonce:
            yield living[0], nonce

    async def _of(self, vm_id: str, attempt: str = "") -> Sequence[Machine]:
        """The machines of a VM: one, or what tries that came late have left too."""
        machines, _ = await self._list(vm_id)
        return [
            machine
            for machine in machines
            if machine.metadata[shapes.VM] == vm_id and attempt in ("", machine.metadata.get(shapes.ATTEMPT))
        ]

    async def _list(self, vm_id: str = "") -> tuple[Sequence[Machine], float]:
        """This home's machines, and the time by Fly's clock. The filter is looked at again here: what is not ours, whatever
        an answer holds, is not there for us."""
        params = {f"metadata.{shapes.HOME}": self._home, **({f"metadata.{shapes.VM}": vm_id} if vm_id else {})}
        answer = await self._api.call("GET", self._api.machines, params=params)
        machines = answer.decoded(list[Machine])
        ours = [
            machine
            for machine in machines
            if machine.metadata.get(shapes.HOME) == self._home
            and machine.metadata.get(shapes.VM)
            and machine.phase != "gone"
        ]
        return ours, answer.date

    async def _clean_up(self, vm_id: str, attempt: Attempt) -> None:
        """After a create that failed. Failing here too is logged, so that the first reason is the one that is raised."""
        try:
            async with asyncio.timeout(self._config.settle_timeout_s * DESTROY_ROUNDS):
                await self._destroy(vm_id, attempt)
        except (ProviderError, TimeoutError) as error:
            log.warning("vm_left_behind", extra={"vm_id": vm_id, "error": str(error)})


def _ended(vm_id: str) -> ProviderError:
    return ProviderError("vm_stopped", f"the machine of VM {vm_id} has ended; destroy it")
