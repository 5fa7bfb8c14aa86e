"""The one reaper: makes the provider and the log agree, and counts what it had to do.

Whoever hears the tick runs it, so one replica does at a time; two at once do no harm, since everything that it does may
be done twice. A provider that fails stops nothing: what could not be done is there at the next tick.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import msgspec

from services.pool import reconciling
from services.pool.ports import Provider, ProviderError, VmListing
from services.pool.reconciling import Differences
from services.pool.state import State
from services.pool.suspending import Suspender
from shared import metrics
from shared.commands import Command, RecordVmDestroyed, RecordVmLost
from shared.errors import DrapeError, Unavailable
from shared.ids import VmId, derive
from shared.ports import Cause

log = logging.getLogger("drape.pool")

Send = Callable[[Command, Cause], Awaitable[bytes]]
SHOWN_MAX = 100
"""VMs that the inventory names of a kind; the counts are of all."""
AGAIN_REMEMBERED_MAX = 10_000


NO_SKEWS: Mapping[VmId, float] = MappingProxyType({})


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison. `at`: seconds, UTC. `error`: why there was none, or what could not be done; empty otherwise."""

    at: float
    orphans: int = 0
    lost: int = 0
    undestroyed: int = 0
    unsettled: int = 0
    error: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """`drape.query.pool.inventory`: the provider's list and the log, compared at this moment without doing anything.

    `provider`: (VM, state) of all that it has. The lists name at most 100. `counters`: by kind, since this replica began;
    `last_run` is this replica's, None before its first. `error`: why the provider's list is not to be had. `clock_skews`:
    VMs whose clock this replica has found to differ too much, with the seconds that it is ahead.
    """

    provider: tuple[tuple[VmId, str], ...]
    orphans: tuple[VmId, ...]
    young: tuple[VmId, ...]
    lost: tuple[VmId, ...]
    retried: tuple[VmId, ...]
    unsettled: tuple[VmId, ...]
    counters: Mapping[str, int]
    last_run: Run | None
    error: str = ""
    clock_skews: tuple[tuple[VmId, float], ...] = ()


class Reaper:
    """Of one provider. `caught_up` returns once the state holds what is in the log by now."""

    def __init__(
        self,
        provider: Provider,
        suspender: Suspender,
        send: Send,
        state: Callable[[], State],
        caught_up: Callable[[], Awaitable[None]],
        *,
        grace_s: float,
        clock: Callable[[], float],
        clock_skews: Mapping[VmId, float] = NO_SKEWS,
    ) -> None:
        self._provider = provider
        self._suspender = suspender
        self._send = send
        self._state = state
        self._caught_up = caught_up
        self._grace_s = grace_s
        self._clock = clock
        self._clock_skews = clock_skews
        self._counters: Counter[str] = Counter()
        self._tried: dict[VmId, None] = {}
        self._last_run: Run | None = None

    async def run(self, cause: Cause) -> None:
        """Compare, and put right what can be. Raises nothing that the next run could mend."""
        try:
            found = await self._compare()
            if found.lost:  # a list may lack some for a moment: only what is missing twice is lost
                again = await self._compare()
                kept = tuple(vm_id for vm_id in found.lost if vm_id in again.lost)
                found = msgspec.structs.replace(again, lost=kept)
        except (ProviderError, DrapeError) as error:
            self._count("list_failed")
            log.warning("reconcile_failed", extra={"error": error.message})
            self._last_run = Run(at=self._clock(), error=error.message)
            return
        errors = [
            *await self._each(found.lost, self._declare_lost, cause),  # first: previews wait for it
            *await self._each(found.unsettled, self._settle, cause),
            *await self._each(found.orphans, self._reap, cause),
            *await self._each(found.undestroyed, self._destroy, cause),
        ]
        self._last_run = Run(
            at=self._clock(),
            orphans=len(found.orphans),
            lost=len(found.lost),
            undestroyed=len(found.undestroyed),
            unsettled=len(found.unsettled),
            error="; ".join(errors[:3]),
        )

    async def inventory(self, _body: bytes, _headers: object) -> bytes:
        """What is there now, as JSON."""
        provider: Sequence[VmListing] = ()
        error, found = "", Differences()
        try:
            expected = reconciling.answering(self._state())
            provider = await self._provider.list()
            found = await self._differences(provider, expected)
        except (ProviderError, DrapeError) as problem:
            error = problem.message
        return msgspec.json.encode(
            Inventory(
                provider=tuple((vm.vm_id, vm.state) for vm in provider[:SHOWN_MAX]),
                orphans=found.orphans[:SHOWN_MAX],
                young=found.young[:SHOWN_MAX],
                lost=found.lost[:SHOWN_MAX],
                retried=found.undestroyed[:SHOWN_MAX],
                unsettled=found.unsettled[:SHOWN_MAX],
                counters=dict(self._counters),
                last_run=self._last_run,
                error=error,
                clock_skews=self._skewed()[:SHOWN_MAX],
            )
        )

    def _skewed(self) -> tuple[tuple[VmId, float], ...]:
        known = self._state().vms
        return tuple((vm_id, skew_s) for vm_id, skew_s in self._clock_skews.items() if vm_id in known)

    async def _compare(self) -> Differences:
        expected = reconciling.answering(self._state())
        return await self._differences(await self._provider.list(), expected)

    async def _differences(self, listing: Sequence[VmListing], expected: Collection[VmId]) -> Differences:
        # A replica that was stopped for a while has not heard of the newest VMs: it would take them for orphans.
        await self._caught_up()
        return reconciling.compare(listing, self._state(), expected=expected, at=self._clock(), grace_s=self._grace_s)

    async def _each(
        self, vms: Sequence[VmId], work: Callable[[VmId, Cause], Awaitable[None]], cause: Cause
    ) -> list[str]:
        """One after the other; one that fails does not keep the others from their turn. Gives what went wrong."""
        errors = []
        for vm_id in vms:
            try:
                await work(vm_id, cause)
            except (ProviderError, Unavailable) as error:
                self._count("failed")
                log.warning("reconcile_vm_failed", extra={"vm_id": vm_id, "error": error.message})
                errors.append(error.message)
        return errors

    async def _reap(self, vm_id: VmId, _cause: Cause) -> None:
        again = vm_id in self._tried or reconciling.was_destroyed(self._state(), vm_id)
        self._note(vm_id)
        self._count("destroy_retried" if again else "orphan_reaped")
        log.warning("orphan_reaped", extra={"vm_id": vm_id, "again": again})
        await self._provider.destroy(vm_id)

    async def _declare_lost(self, vm_id: VmId, cause: Cause) -> None:
        self._count("lost")
        await self._report(RecordVmLost(vm_id=vm_id, detail="The provider no longer has it."), vm_id, cause)

    async def _destroy(self, vm_id: VmId, cause: Cause) -> None:
        """Its own effect may be at it, or have given up: until the provider agrees, every tick tries again."""
        if vm_id in self._tried:
            self._count("destroy_retried")
        self._note(vm_id)
        await self._provider.destroy(vm_id)
        await self._report(RecordVmDestroyed(vm_id=vm_id), vm_id, cause)

    async def _settle(self, vm_id: VmId, cause: Cause) -> None:
        self._count("settled")
        await self._suspender.settle(vm_id, cause)

    async def _report(self, command: Command, vm_id: VmId, cause: Cause) -> None:
        command_id = derive(cause.causation_id, type(command).__name__, vm_id)
        await self._send(msgspec.structs.replace(command, id=command_id), cause)

    def _note(self, vm_id: VmId) -> None:
        self._tried[vm_id] = None
        if len(self._tried) > AGAIN_REMEMBERED_MAX:
            del self._tried[next(iter(self._tried))]

    def _count(self, kind: str) -> None:
        self._counters[kind] += 1
        metrics.pool_reconciled.add(1, {"kind": kind})
