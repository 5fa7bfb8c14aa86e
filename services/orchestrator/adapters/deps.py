"""The `DepsCache` that the pool answers for: it knows where a VM's files are."""

import logging

import msgspec

from shared.deps import DepsAnswer, DepsRequest
from shared.errors import DrapeError, Unavailable
from shared.ports import Bus

log = logging.getLogger("drape.orchestrator")

TIMEOUT_S = 60.0
"""A gigabyte to a slow disk. A restore that is given up may still be writing: what waits for it tries again."""

_answer = msgspec.json.Decoder(DepsAnswer)


class PoolDepsCache:
    """Asks the pool. Where it keeps nothing, nothing is restored and an install runs."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def restore(self, asked: DepsRequest) -> DepsAnswer:
        return await self._ask("restore_deps", asked)

    async def publish(self, asked: DepsRequest) -> DepsAnswer:
        return await self._ask("publish_deps", asked)

    async def _ask(self, verb: str, asked: DepsRequest) -> DepsAnswer:
        body = msgspec.json.encode(asked)
        try:
            return _answer.decode(await self._bus.commands.query("pool", verb, body, timeout_s=TIMEOUT_S))
        except Unavailable as error:
            if error.code == "service_silent":
                raise
            return DepsAnswer(done=False, code=error.code)
        except DrapeError as error:
            log.info("deps_refused", extra={"vm_id": asked.vm_id, "verb": verb, "code": error.code})
            return DepsAnswer(done=False, code=error.code)
