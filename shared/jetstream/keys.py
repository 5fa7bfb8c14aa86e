"""The bucket `drape_keys`: one wrapped key a project, history 1. What was erased leaves an empty value, for ever."""

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from shared.errors import Unavailable
from shared.ids import ProjectId
from shared.jetstream.erasing import erase_messages
from shared.jetstream.log import WRONG_LAST_SEQUENCE
from shared.jetstream.outages import settled
from shared.jetstream.topology import KEYS, KEYS_ROOT
from shared.seals import Erased

WITHIN_S = 8.0
"""While a leader is away, which takes 4 to 9 s; less than whoever waits for a command's answer gives it (10 s)."""
TRY_S = 3.0


class NatsKeys:
    """Reads go to whichever server answers; a key never changes, it can only be erased."""

    def __init__(self, client: Client, within_s: float = WITHIN_S) -> None:
        self._js = client.jetstream(timeout=TRY_S)
        self._within_s = within_s

    async def get(self, project_id: ProjectId) -> bytes | None:
        try:
            message = await settled(
                lambda: self._js.get_last_msg(KEYS, f"{KEYS_ROOT}.{project_id}", direct=False), self._within_s
            )
        except NotFoundError:
            return None
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise _unavailable(error) from error
        if not message.data:
            raise Erased(project_id)
        return message.data

    async def create(self, project_id: ProjectId, wrapped: bytes) -> bool:
        """False where there is one: another's, or this one from a try whose answer was lost. Who asks reads it then."""
        subject = f"{KEYS_ROOT}.{project_id}"
        first = {"Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            await settled(lambda: self._js.publish(subject, wrapped, headers=first), self._within_s)
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
