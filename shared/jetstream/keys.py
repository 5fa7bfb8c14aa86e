"""The bucket `drape_keys`: one wrapped key a project, history 1. What was erased leaves an empty value, for ever."""

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from shared.errors import Unavailable
from shared.ids import ProjectId
from shared.jetstream.erasing import erase_messages
from shared.jetstream.log import WRONG_LAST_SEQUENCE
from shared.jetstream.topology import KEYS, KEYS_ROOT
from shared.seals import Erased


class NatsKeys:
    """Reads go to whichever server answers; a key never changes, it can only be erased."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=5)

    async def get(self, project_id: ProjectId) -> bytes | None:
        try:
            message = await self._js.get_last_msg(KEYS, f"{KEYS_ROOT}.{project_id}", direct=False)
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        if not message.data:
            raise Erased(project_id)
        return message.data

    async def create(self, project_id: ProjectId, wrapped: bytes) -> bool:
        subject = f"{KEYS_ROOT}.{project_id}"
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            await self._js.publish(subject, wrapped, headers=first)
        except APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                return False
            raise _unavailable(error) from error
        except (nats.errors.Error, TimeoutError) as error:
            raise _unavailable(error) from error
        return True

    async def erase(self, project_id: ProjectId) -> None:
        """The key's bytes first: a value that is only replaced stays on the disk for a while."""
        subject = f"{KEYS_ROOT}.{project_id}"
        try:
            await erase_messages(self._js, KEYS, subject)
            await self._js.publish(subject, b"", headers={api.Header.ROLLUP.value: "sub"})
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable("keys_unavailable", f"The bucket of keys does not answer: {error or type(error).__name__}")
