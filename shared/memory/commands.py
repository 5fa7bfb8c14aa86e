"""Requests and their answers in memory."""

import asyncio
import contextvars
from collections.abc import Mapping

import msgspec

from shared.commands import Command
from shared.errors import DrapeError, Unavailable, internal
from shared.memory.broker import Shared
from shared.ports import (
    Cause,
    Handler,
    Subscription,
)

REQUEST_TIMEOUT_S = 10.0


class MemoryCommands:
    def __init__(self, broker: Shared) -> None:
        self._broker = broker

    async def send(self, command: Command, cause: Cause) -> bytes:
        headers = {
            "Drape-Correlation-Id": cause.correlation_id,
            "Drape-Causation-Id": cause.causation_id,
            "Drape-Actor": cause.actor,
            "traceparent": cause.traceparent,
        }
        return await self._request(f"cmd.{command.service}.{command.verb}", msgspec.json.encode(command), headers)

    async def query(self, service: str, name: str, body: bytes = b"{}", *, timeout_s: float = 5.0) -> bytes:
        # Not `wait_for`: until Python 3.12 it loses a cancellation that comes as the answer does.
        async with asyncio.timeout(timeout_s):
            return await self._request(f"query.{service}.{name}", body, {})

    async def _request(self, subject: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        self._broker.check()
        handlers = self._broker.endpoints.get(subject)
        if not handlers:
            raise Unavailable("service_unavailable", f"Nobody answers {subject}.")
        handlers.append(handlers.pop(0))
        handler, context = handlers[-1]
        # A task of the server's: as over a wire, it goes on without its caller, and ends with its replica.
        task = asyncio.create_task(_answer(handler, body, headers), name=subject, context=context.copy())
        self._broker.serving.add(task)
        task.add_done_callback(self._broker.serving.discard)
        await asyncio.wait({task}, timeout=REQUEST_TIMEOUT_S)
        if not task.done() or task.cancelled():
            raise Unavailable("service_silent", f"{subject} was not answered.")
        answer = task.result()
        if isinstance(answer, DrapeError):
            raise answer
        return answer

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        served = [(f"cmd.{service}.{name}", handler) for name, handler in commands.items()]
        served += [(f"query.{service}.{name}", handler) for name, handler in queries.items()]
        context = contextvars.copy_context()
        for subject, handler in served:
            self._broker.endpoints[subject].append((handler, context))
        return _Served(self._broker, served)


async def _answer(handler: Handler, body: bytes, headers: Mapping[str, str]) -> bytes | DrapeError:
    try:
        return await handler(body, headers)
    except DrapeError as error:
        return error
    except Exception as error:
        problem = internal(error)
        return DrapeError(problem.code, problem.detail)


class _Served:
    def __init__(self, broker: Shared, served: list[tuple[str, Handler]]) -> None:
        self._broker = broker
        self._served = served

    async def stop(self) -> None:
        for subject, mine in self._served:
            endpoints = self._broker.endpoints[subject]
            self._broker.endpoints[subject] = [each for each in endpoints if each[0] != mine]
