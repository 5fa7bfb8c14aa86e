"""Bugs that were there once, or could be: each put back in one place, so that it can be seen that the rules find it. Nothing
of this is in the services."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from msgspec.structs import replace as changed

from deploy.simulation.wire import RemoteLog, Wire
from services.pool.state import State
from shared.codec import Meta
from shared.commands import Command, MaintainPool
from shared.definition import Definition
from shared.events import Event, VmAcquired, aggregate_key
from shared.ports import Head

Plant = Literal["double-replenish", "find-then-mark", "missing-filter", "ack-before-effect"]
PLANTS: tuple[Plant, ...] = get_args(Plant)

MARK_S = 0.05
"""Between finding a VM and marking it."""


def definition_with(plant: Plant | None, definition: Definition[Any]) -> Definition[Any]:
    """The pool that does not count the VMs that it is booting already."""
    if plant != "double-replenish" or definition.name != "pool":
        return definition

    def decide(state: State, command: Command) -> Sequence[Event]:
        if isinstance(command, MaintainPool):
            seen = {vm_id: vm for vm_id, vm in state.vms.items() if vm.status != "booting"}
            counts = Counter(vm.pool for vm in seen.values())
            pools = {name: changed(pool, vms=counts[name]) for name, pool in state.pools.items()}
            state = changed(state, vms=seen, booting={}, pools=pools)
        return definition.decide(state, command)

    return replace(definition, decide=decide)


def log_with(plant: Plant | None, wire: Wire) -> RemoteLog:
    """The log, or one that is written to without looking."""
    match plant:
        case "find-then-mark":
            return _MarkingLog(wire)
        case "missing-filter":
            return _UnfilteredLog(wire)
        case _:
            return RemoteLog(wire)


class _MarkingLog(RemoteLog):
    """A VM is found first and marked as taken a moment later, whatever has happened to it in between."""

    async def append(self, event: Event, meta: Meta, *, after: int) -> int:
        if not isinstance(event, VmAcquired):
            return await super().append(event, meta, after=after)
        await asyncio.sleep(MARK_S)
        head = await self.head(aggregate_key(event))
        return await super().append(event, changed(meta, rev=head.rev + 1), after=head.seq)


class _UnfilteredLog(RemoteLog):
    """No filter names the aggregate, so that nothing is compared with what the writer expects."""

    def store(self, event: Event, meta: Meta, after: int) -> int:
        head = self._wire.broker.heads.get(aggregate_key(event), Head())
        return super().store(event, meta, head.seq)
