"""Wrapped keys in memory, shared by the replicas."""

from shared.ids import ProjectId
from shared.memory.broker import Shared
from shared.seals import Erased


class MemoryKeys:
    """As the bucket: an empty value says that the key was erased."""

    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def get(self, project_id: ProjectId) -> bytes | None:
        self._broker.check()
        wrapped = self._broker.keys.get(project_id)
        if wrapped == b"":
            raise Erased(project_id)
        return wrapped

    async def create(self, project_id: ProjectId, wrapped: bytes) -> bool:
        self._broker.check()
        return self._broker.keys.setdefault(project_id, wrapped) is wrapped

    async def erase(self, project_id: ProjectId) -> None:
        self._broker.check()
        self._broker.keys[project_id] = b""
