"""The `DepsCache` that the pool answers for: it knows where a VM's files are."""

import logging
from collections.abc import Callable

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

    def __init__(self, bus: Bus, seq: Callable[[], int]) -> None:
        """`seq`: up to where this replica has read the log; a pool that has read less may not know who holds the VM."""
        self._bus = bus
        self._seq = seq

    async def restore(self, asked: DepsRequest) -> DepsAnswer:
        return await self._ask("restore_deps", asked)

    async def publish(self, asked: DepsRequest) -> DepsAnswer:
        return await self._ask("publish_deps", asked)

    async def _ask(self, verb: str, asked: DepsRequest) -> DepsAnswer:
        body = msgspec.json.encode(asked)
        try:
            commands, after_seq = self._bus.commands, self._seq()
            answer = await commands.query("pool", verb, body, timeout_s=TIMEOUT_S, after_seq=after_seq, once=True)
            return _answer.decode(answer)
        except Unavailable as error:
            if error.code == "service_silent":
                raise
            return DepsAnswer(done=False, code=error.code)
        except DrapeError as error:
            log.info("deps_refused", extra={"vm_id": asked.vm_id, "verb": verb, "code": error.code})
            return DepsAnswer(done=False, code=error.code)
