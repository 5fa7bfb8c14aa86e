"""Manifests and bundles in the JetStream object store."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Awaitable
from typing import TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, DigestMismatchError, NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from shared.errors import NotFound, Unavailable
from shared.jetstream.erasing import erase_messages
from shared.jetstream.topology import FILES_BUCKET

TIMEOUT_S = 60.0
GET_TRIES = 3
GET_PAUSE_S = 0.2

T = TypeVar("T")


class NatsObjects:
    """The bucket `drape_files`."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=10)
        self._store: ObjectStore | None = None

    async def put(self, name: str, data: bytes) -> None:
        store = await self._bucket()
        await _bounded(store.put(name, data), name)

    async def get(self, name: str) -> bytes:
        store = await self._bucket()
        return await _bounded(self._get_whole(store, name), name)

    async def _get_whole(self, store: ObjectStore, name: str) -> bytes:
        for _ in range(GET_TRIES - 1):
            with contextlib.suppress(DigestMismatchError):
                return await self._get(store, name)
            await asyncio.sleep(GET_PAUSE_S)  # the replica that was read has not got all of it yet
        return await self._get(store, name)

    async def _get(self, store: ObjectStore, name: str) -> bytes:
        """An object of one chunk is one message: it is asked for directly, which spares a consumer of its own."""
        info = await store.get_info(name)
        if info.chunks != 1 or info.is_link():
            return (await store.get(name)).data or b""
        stream, subject = f"OBJ_{FILES_BUCKET}", f"$O.{FILES_BUCKET}.C.{info.nuid}"
        try:
            message = await self._js.get_last_msg(stream, subject, direct=True)
        except NotFoundError:
            # Any replica answers a direct get, and this one is behind: the leader has it, or nobody.
            message = await self._js.get_last_msg(stream, subject, direct=False)
        data = message.data or b""
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        if info.digest != f"SHA-256={digest}":
            raise Unavailable("object_damaged", f"The object store gave something else than {name}.")
        return data

    async def delete(self, name: str) -> None:
        store = await self._bucket()
        try:
            await _bounded(self._delete(store, name), name)
        except NotFound:
            return

    async def erase(self, prefix: str) -> int:
        store = await self._bucket()
        try:
            listed = await _bounded(store.list(ignore_deletes=True), prefix)
        except NotFound:
            return 0
        names = [info.name for info in listed if info.name.startswith(prefix)]
        for name in names:
            await self.delete(name)
        return len(names)

    async def _delete(self, store: ObjectStore, name: str) -> None:
        """The contents first: should this break off, the object's name is still there to delete it by."""
        info = await store.get_info(name)
        await erase_messages(self._js, f"OBJ_{FILES_BUCKET}", f"$O.{FILES_BUCKET}.C.{info.nuid}")
        await store.delete(name)

    async def _bucket(self) -> ObjectStore:
        if self._store is None:
            self._store = await _bounded(self._js.object_store(FILES_BUCKET), FILES_BUCKET)
        return self._store


async def _bounded(work: Awaitable[T], name: str) -> T:
    try:
        return await asyncio.wait_for(work, TIMEOUT_S)
    except (ObjectNotFoundError, NotFoundError) as error:
        raise NotFound("object_not_found", f"The object store has no {name}.") from error
    except (nats.errors.Error, APIError, TimeoutError) as error:
        raise Unavailable("objects_unavailable", f"The object store does not answer: {error}") from error
