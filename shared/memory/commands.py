"""Requests and their answers in memory."""

import asyncio
import contextvars
import logging
from collections.abc import Mapping

from shared.asking import Absent, Asking
from shared.errors import DrapeError, internal
from shared.memory.broker import Shared
from shared.ports import (
    Handler,
    Subscription,
)

log = logging.getLogger("drape.commands")


class MemoryCommands(Asking):
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def _request(self, subject: str, body: bytes, headers: dict[str, str], left_s: float) -> bytes:
        self._broker.check()
        handlers = self._broker.endpoints.get(subject)
        if not handlers:
            raise Absent(subject)
        handlers.append(handlers.pop(0))
        handler, context = handlers[-1]
        # A task of the server's: as over a wire, it goes on without its caller, and ends with its replica.
        task = asyncio.create_task(answered(handler, body, headers), name=subject, context=context.copy())
        self._broker.serving.add(task)
        task.add_done_callback(self._broker.serving.discard)
        await asyncio.wait({task}, timeout=left_s)
        if not task.done() or task.cancelled():
            raise TimeoutError
        answer = task.result()
        if isinstance(answer, DrapeError):
            raise answer
        return answer

    async def statuses(self, service: str, *, within_s: float = 0.5) -> list[bytes]:
        """Of all that are there; a moment passes, as it would on a wire."""
        self._broker.check()
        endpoints = self._broker.endpoints.get(f"query.{service}.status", ())
        tasks = [asyncio.create_task(answered(handler, b"{}", {})) for handler, _ in endpoints]
        if not tasks:
            return []
        done, late = await asyncio.wait(tasks, timeout=within_s)
        for task in late:
            task.cancel()
        return [answer for task in done if isinstance(answer := task.result(), bytes)]

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        served = [(f"cmd.{service}.{name}", handler) for name, handler in commands.items()]
        served += [(f"query.{service}.{name}", handler) for name, handler in queries.items()]
        context = contextvars.copy_context()
        for subject, handler in served:
            self._broker.endpoints[subject].append((handler, context))
        return Served(self._broker, served)


async def answered(handler: Handler, body: bytes, headers: Mapping[str, str]) -> bytes | DrapeError:
    """What a handler says to a request; a fault of its own is logged, and answered as such."""
    try:
        return await handler(body, headers)
    except DrapeError as error:
        return error
    except Exception as error:
        log.exception("request_broke")
        problem = internal(error)
        return DrapeError(problem.code, problem.detail)


class Served:
    """What one replica answers to, by subject."""

    def __init__(self, broker: Shared, served: list[tuple[str, Handler]]) -> None:
        self._broker = broker
        self._served = served

    async def drain(self, limit_s: float) -> None:
        """Nobody finds this replica any more; what it is answering has tasks of its own."""
        await self.stop()

    async def stop(self) -> None:
        for subject, mine in self._served:
            endpoints = self._broker.endpoints[subject]
            self._broker.endpoints[subject] = [each for each in endpoints if each[0] != mine]
