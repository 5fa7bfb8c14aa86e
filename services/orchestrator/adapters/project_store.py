"""The `ProjectStore` over the object store, with a bounded cache of what was read last."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from shared.errors import NotFound, Unavailable
from shared.ids import ProjectId
from shared.ports import Objects
from shared.project_env import unseal
from shared.project_files import Manifest, unpack

CACHE_BYTES_MAX = 64 * 1024 * 1024
_manifest = msgspec.json.Decoder(Manifest)


class ObjectProjectStore:
    """Manifests and bundles never change under their names, so a cached one is always right."""

    def __init__(self, objects: Objects, secret: str) -> None:
        self._objects = objects
        self._secret = secret
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def manifest(self, name: str) -> Manifest:
        data = await self._get(name)
        try:
            return _manifest.decode(data)
        except msgspec.MsgspecError:
            self._forget(name)  # whoever mends it shall not be told of it for as long as this process lives
            raise

    async def read(self, manifest: Manifest, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of these paths. Raises `Unavailable` when the store does not hold them (yet)."""
        by_bundle: dict[str, list[str]] = {}
        for path in paths:
            by_bundle.setdefault(manifest.files[path].bundle, []).append(path)
        contents: dict[str, bytes] = {}
        for bundle, wanted in by_bundle.items():
            contents |= await asyncio.to_thread(unpack, await self._get(bundle), wanted)
        missing = [path for path in paths if path not in contents]
        if missing:
            raise Unavailable("files_missing", f"The stored version lacks {missing[0]!r}.", "Upload the files again.")
        return contents

    async def variables(self, project_id: ProjectId, name: str) -> dict[str, str]:
        if not name:
            return {}
        try:
            sealed = await self._objects.get(name)
        except NotFound:
            return {}  # set anew meanwhile; the restart that follows gets the newer ones
        return unseal(self._secret, project_id, sealed)

    def _forget(self, name: str) -> None:
        self._cached_bytes -= len(self._cache.pop(name, b""))

    async def _get(self, name: str) -> bytes:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        data = await self._objects.get(name)
        if len(data) <= CACHE_BYTES_MAX // 4:
            self._cache[name] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES_MAX:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped)
        return data
