"""Snapshots of a replica's state: loaded at its start, written now and then beside its work.

A snapshot that is wrong in any way costs a replay, never more: it is left alone, with one warning.
"""

import asyncio
import logging
from typing import Any

from shared import metrics
from shared.errors import Unavailable
from shared.fingerprint import fingerprint_of
from shared.ports import Head
from shared.runtime import Runtime
from shared.snapshot import Assembly, SnapshotUnfit, check, opened, pieces

log = logging.getLogger("drape.snapshots")


async def restore(runtime: Runtime[Any]) -> int:
    """Have the replica begin with the newest snapshot that fits. Gives that one's sequence; 0: there is none."""
    name = runtime.definition.name
    try:
        return await _restore(runtime, name)
    except SnapshotUnfit as error:
        runtime.snapshot_unfit = True
        log.warning("snapshot_ignored", extra={"service": name, "reason": str(error)})
    except Unavailable as error:
        log.warning("snapshot_ignored", extra={"service": name, "reason": error.message})
    return 0


async def _restore(runtime: Runtime[Any], name: str) -> int:
    bus = runtime.bus
    fingerprint = _fingerprint(runtime)
    snapshot = await bus.snapshots.load(name, fingerprint)
    if snapshot is None:
        return 0
    last_seq = await bus.log.last_seq()
    log_id = await bus.snapshots.log_id()
    check(snapshot, service=name, fingerprint=fingerprint, log=log_id, last_seq=last_seq)
    kept = opened(snapshot, type(runtime.definition.initial()), Head)
    # A log that was put back from a backup may have gone on otherwise from there.
    ends = [recorded.meta.id async for recorded in bus.log.read(kept.seq - 1, kept.seq)]
    if ends != [kept.event_id]:
        raise SnapshotUnfit(f"event {kept.seq} of the log is not the one that it ends with")
    runtime.adopt(kept)
    return kept.seq


class SnapshotKeeper:
    """Writes a snapshot after every `events` events; 0: never. Looks every `period_s` whether one is due."""

    def __init__(self, runtime: Runtime[Any], *, events: int, period_s: float) -> None:
        self._runtime = runtime
        self._events = events
        self._period_s = period_s
        self._newest = runtime.snapshot_seq
        self._service = runtime.definition.name
        self._fingerprint = ""
        self.size_bytes = 0
        """Of the last one, before compression."""

    async def run(self) -> None:
        """For as long as the replica lives. No failure of a snapshot is one of the replica."""
        while self._events > 0:
            await asyncio.sleep(self._period_s)
            try:
                await self.keep_if_due()
            except SnapshotUnfit as error:
                log.warning("snapshot_not_kept", extra={"service": self._service, "reason": str(error)})
                self._newest = self._runtime.seq  # not again at once: it takes time, and would end the same way
            except Unavailable as error:
                log.info("snapshot_not_kept", extra={"service": self._service, "reason": error.message})

    async def keep_if_due(self) -> bool:
        """True when one was written. What another replica has written since counts as well."""
        if self._runtime.snapshot_unfit:
            return await self.keep()  # in the place of the one that could not be used
        if self._runtime.seq - self._newest < self._events:
            return False
        self._fingerprint = self._fingerprint or _fingerprint(self._runtime)
        try:
            head = await self._runtime.bus.snapshots.head(self._service, self._fingerprint)
        except SnapshotUnfit:
            return await self.keep()
        if head is not None and head.log == await self._runtime.bus.snapshots.log_id():
            self._newest = min(head.seq, self._runtime.seq)
            if self._runtime.seq - self._newest < self._events:
                return False
        return await self.keep()

    async def keep(self) -> bool:
        """Write one now. False: a newer one is there.

        The state is copied between two events, without its values, and made into bytes in pieces, between which
        everything else has its turn; it is compressed in a thread.
        """
        self._fingerprint = self._fingerprint or _fingerprint(self._runtime)
        log_id = await self._runtime.bus.snapshots.log_id()
        kept = self._runtime.kept()
        if kept.seq == 0:
            return False
        assembly = Assembly(kept)
        for name, part in pieces(kept):
            assembly.add(name, part)
            await asyncio.sleep(0)
        snapshot = assembly.snapshot(
            service=self._service, fingerprint=self._fingerprint, log=log_id, at=self._runtime.clock()
        )
        written = await self._runtime.bus.snapshots.store(snapshot, over_any=self._runtime.snapshot_unfit)
        self._runtime.snapshot_unfit = False
        self._newest = kept.seq
        self.size_bytes = assembly.size_bytes
        metrics.snapshot_size.record(assembly.size_bytes, {"service": self._service})
        return written


def _fingerprint(runtime: Runtime[Any]) -> str:
    definition = runtime.definition
    try:
        return fingerprint_of(definition.evolve, type(definition.initial()))
    except OSError as error:
        raise SnapshotUnfit(f"the code that folds can't be read: {error}") from error
