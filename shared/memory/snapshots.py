"""Snapshots in memory, for `shared.memory`."""

from shared.snapshot import Snapshot, SnapshotHead


class MemorySnapshots:
    """Serves `Snapshots`. `items` are what is stored, by service and fingerprint: a test may damage one."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Snapshot] = {}
        self.made = "memory"

    async def log_id(self) -> str:
        return self.made

    async def head(self, service: str, fingerprint: str) -> SnapshotHead | None:
        found = self.items.get((service, fingerprint))
        return found.head if found is not None else None

    async def load(self, service: str, fingerprint: str) -> Snapshot | None:
        return self.items.get((service, fingerprint))

    async def store(self, snapshot: Snapshot, *, over_any: bool = False) -> bool:
        key = (snapshot.head.service, snapshot.head.fingerprint)
        found = self.items.get(key)
        same_log = found is not None and found.head.log == snapshot.head.log and not over_any
        if found is not None and same_log and found.head.seq >= snapshot.head.seq:
            return False
        self.items[key] = snapshot
        return True
