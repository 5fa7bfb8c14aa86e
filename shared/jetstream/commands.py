"""Commands and queries as NATS micro endpoints, so that `nats micro` and `nats req` work on them."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from shared.commands import Command
from shared.errors import DrapeError, Problem, Unavailable, from_problem, internal
from shared.ports import Cause, Handler, Subscription

log = logging.getLogger("drape.commands")

COMMAND_ROOT = "drape.cmd"
QUERY_ROOT = "drape.query"
REQUEST_TIMEOUT_S = 10.0
CONCURRENT_MAX = 2_000
"""Requests that one replica works on at once; more are told to come again."""

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"


class NatsCommands:
    """Both sides of the wire."""

    def __init__(self, client: Client, instance: str) -> None:
        self._client = client
        self._instance = instance

    async def send(self, command: Command, cause: Cause) -> bytes:
        headers = {
            "Drape-Correlation-Id": cause.correlation_id,
            "Drape-Causation-Id": cause.causation_id,
            "Drape-Actor": cause.actor,
            "traceparent": cause.traceparent,
        }
        subject = f"{COMMAND_ROOT}.{command.service}.{command.verb}"
        body = msgspec.json.encode(command)
        return await self._request(command.service, subject, body, headers, REQUEST_TIMEOUT_S)

    async def query(self, service: str, name: str, body: bytes = b"{}", *, timeout_s: float = 5.0) -> bytes:
        return await self._request(service, f"{QUERY_ROOT}.{service}.{name}", body, {}, timeout_s)

    async def _request(
        self, service: str, subject: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> bytes:
        try:
            sent = {key: value for key, value in headers.items() if value}
            answer = await self._client.request(subject, body, timeout=timeout_s, headers=sent or None)
        except nats.errors.NoRespondersError as error:
            raise Unavailable(
                "service_unavailable", f"The {service} service is not running.", "It may be starting: try again."
            ) from error
        except TimeoutError as error:  # nats-py's is one of these
            raise Unavailable(
                "service_silent", f"The {service} service did not answer within {timeout_s:g} s."
            ) from error
        except nats.errors.Error as error:
            raise Unavailable(
                "log_unavailable", "The event log is out of reach.", "It comes back by itself: try again in a moment."
            ) from error
        if ERROR_CODE_HEADER in (answer.headers or {}):
            raise from_problem(msgspec.json.decode(answer.data, type=Problem))
        return answer.data

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        micro = await add_service(
            self._client,
            ServiceConfig(
                name=f"drape-{service}",
                version="0.1.0",
                description=f"Drape: {service}",
                metadata={"instance": self._instance},
            ),
        )
        server = _Server(micro)
        for root, handlers in ((COMMAND_ROOT, commands), (QUERY_ROOT, queries)):
            for name, handler in handlers.items():
                await micro.add_endpoint(
                    EndpointConfig(
                        name=name,
                        subject=f"{root}.{service}.{name}",
                        # A query is about one replica's state, but any will do; both share the queue group.
                        handler=server.endpoint(handler),
                        queue_group=service,
                        metadata={},
                    )
                )
        await self._client.flush()  # otherwise the first callers meet "no responders"
        return server


class _Server:
    """Hands each request to a task: nats-py works through an endpoint's requests one after another."""

    def __init__(self, micro: Service) -> None:
        self._micro = micro
        self._tasks: set[asyncio.Task[None]] = set()

    def endpoint(self, handler: Handler):  # type: ignore[no-untyped-def]
        async def on_request(request: Request) -> None:
            if len(self._tasks) >= CONCURRENT_MAX:
                error = Unavailable("overloaded", f"More than {CONCURRENT_MAX} requests are under way.")
                await _refuse(request, error.problem())
                return
            task = asyncio.create_task(_answer(handler, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return on_request

    async def stop(self) -> None:
        """Take no more requests, answer those under way."""
        with contextlib.suppress(nats.errors.Error):  # the connection may be gone already
            await self._micro.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=REQUEST_TIMEOUT_S)


async def _answer(handler: Handler, request: Request) -> None:
    try:
        body = await handler(request.data, request.headers or {})
    except DrapeError as error:
        await _refuse(request, error.problem())
    except Exception as error:
        log.exception("request_broke", extra={"subject": request.subject})
        await _refuse(request, internal(error))
    else:
        with contextlib.suppress(nats.errors.Error):  # the caller will ask again, with the same id
            await request.respond(body)


async def _refuse(request: Request, problem: Problem) -> None:
    with contextlib.suppress(nats.errors.Error):  # as above
        await request.respond_error(
            str(problem.status), problem.detail or problem.title, data=msgspec.json.encode(problem)
        )
