"""Commands and queries as NATS micro endpoints, so that `nats micro` and `nats req` work on them."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig

from shared.asking import Absent, Asking
from shared.errors import DrapeError, Problem, Unavailable, from_problem, internal
from shared.jetstream.answers import typed, untyped
from shared.jetstream.describing import SERVICES, described, described_query
from shared.jetstream.micro import Counted, MicroService
from shared.ports import Handler, Subscription

log = logging.getLogger("drape.commands")

COMMAND_ROOT = "drape.cmd"
QUERY_ROOT = "drape.query"
STOP_LIMIT_S = 1.0
"""For requests that are still under way when all else of a replica has ended."""
STATUS = "status"
REPLICAS_MAX = 100
"""Replicas of one service that are asked how they are."""
CONCURRENT_MAX = 2_000
"""Requests that one replica works on at once; more are told to come again."""

ERROR_CODE_HEADER = "Nats-Service-Error-Code"


class NatsCommands(Asking):
    """Both sides of the wire."""

    command_root = COMMAND_ROOT
    query_root = QUERY_ROOT

    def __init__(self, client: Client, instance: str) -> None:
        self._client = client
        self._instance = instance

    async def _request(self, subject: str, body: bytes, headers: dict[str, str], left_s: float) -> bytes:
        """One try. Raises `Absent`, `TimeoutError` (nats-py's is one), and what the receiver answered."""
        try:
            answer = await self._client.request(subject, body, timeout=left_s, headers=headers or None)
        except nats.errors.NoRespondersError as error:
            raise Absent(subject) from error
        except TimeoutError:
            raise
        except nats.errors.Error as error:
            raise Unavailable(
                "log_unavailable", "The event log is out of reach.", "It comes back by itself: try again in a moment."
            ) from error
        if ERROR_CODE_HEADER in (answer.headers or {}):
            raise from_problem(msgspec.json.decode(answer.data, type=Problem))
        return untyped(_kind(subject), answer.data)

    async def statuses(self, service: str, *, within_s: float = 0.5) -> list[bytes]:
        """Nobody knows how many they are: all that answer in this time. Raises `Unavailable`."""
        inbox = self._client.new_inbox()
        told: list[bytes] = []
        try:
            subscription = await self._client.subscribe(inbox)
            try:
                await self._client.publish(f"{QUERY_ROOT}.{service}.{STATUS}.each", b"{}", reply=inbox)
                until = asyncio.get_running_loop().time() + within_s
                while len(told) < REPLICAS_MAX:
                    left_s = max(0.001, until - asyncio.get_running_loop().time())
                    message = await subscription.next_msg(timeout=left_s)
                    if message.data:  # else NATS says that nobody listens there
                        told.append(message.data)
            except TimeoutError:
                return told
            finally:
                await subscription.unsubscribe()
        except nats.errors.Error as error:
            raise Unavailable("log_unavailable", "The event log is out of reach.") from error
        return told

    async def serve(
        self, service: str, commands: Mapping[str, Handler], queries: Mapping[str, Handler]
    ) -> Subscription:
        config = ServiceConfig(
            name=f"drape-{service}",
            version="0.1.0",
            description=SERVICES.get(service, f"Drape: {service}"),
            metadata={"instance": self._instance},
        )
        micro = MicroService(self._client, config, queries.get(STATUS))
        await micro.start()
        server = _Server(micro, await self._each(service, queries))
        told = described(service)
        for name, handler in commands.items():
            await server.add(f"{COMMAND_ROOT}.{service}.{name}", handler, told.get(name, {}))
        for name, handler in queries.items():
            await server.add(f"{QUERY_ROOT}.{service}.{name}", handler, described_query(service, name))
        await self._client.flush()  # otherwise the first callers meet "no responders"
        return server

    async def _each(self, service: str, queries: Mapping[str, Handler]) -> NatsSubscription | None:
        """`drape.query.<service>.status.each`: every replica answers, since it is in no queue group."""
        if STATUS not in queries:
            return None
        own = {"service": service, "instance": self._instance, "pid": os.getpid()}

        async def answer(message: Msg) -> None:
            try:
                status = msgspec.json.decode(await queries[STATUS](message.data, {}))
                told = {"type": f"{service}.{STATUS}.each", **status, **own}
                await message.respond(msgspec.json.encode(told))
            except (DrapeError, nats.errors.Error) as error:
                log.info("status_untold", extra={"error": str(error)})

        return await self._client.subscribe(f"{QUERY_ROOT}.{service}.{STATUS}.each", cb=answer)


class _Server:
    """Hands each request to a task: nats-py works through an endpoint's requests one after another."""

    def __init__(self, micro: MicroService, each: NatsSubscription | None) -> None:
        self._micro = micro
        self._each = each
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, subject: str, handler: Handler, metadata: Mapping[str, str]) -> None:
        """Answer what is sent there. A query is about one replica's state, but any will do; all share the queue group."""
        _, _, service, name = subject.split(".", 3)
        counted = Counted()

        async def on_request(request: Request) -> None:
            if len(self._tasks) >= CONCURRENT_MAX:
                error = Unavailable("overloaded", f"More than {CONCURRENT_MAX} requests are under way.")
                await _refuse(request, error.problem(), counted)
                return
            task = asyncio.create_task(_answer(handler, request, counted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        told = dict(metadata)
        config = EndpointConfig(name=name, subject=subject, handler=on_request, queue_group=service, metadata=told)
        await self._micro.add_counted(config, counted)

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, answer those that have come. nats-py's `Service.stop` would drop what it has queued."""
        endpoints = self._micro._endpoints
        taken = [endpoint._subscription for endpoint in endpoints if endpoint._subscription is not None]
        endpoints.clear()  # they are ended here: the service would unsubscribe them once more
        with contextlib.suppress(nats.errors.Error):  # the connection may be gone already
            await asyncio.gather(*(each.drain() for each in taken))
        await self._finish(limit_s)

    async def stop(self) -> None:
        """Take no more requests; those under way get a moment, the others are told to ask elsewhere."""
        with contextlib.suppress(nats.errors.Error):  # as above
            await self._micro.stop()
            if self._each is not None:
                await self._each.unsubscribe()
        await self._finish(STOP_LIMIT_S)

    async def _finish(self, limit_s: float) -> None:
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=STOP_LIMIT_S)


async def _answer(handler: Handler, request: Request, counted: Counted) -> None:
    with counted.request():
        try:
            body = await handler(request.data, request.headers or {})
        except asyncio.CancelledError:
            problem = Unavailable("stopping", "This replica is being stopped.", "Ask again.").problem()
            await _refuse(request, problem, counted)
            raise
        except DrapeError as error:
            await _refuse(request, error.problem(), counted)
        except Exception as error:
            log.exception("request_broke", extra={"subject": request.subject})
            await _refuse(request, internal(error), counted)
        else:
            with contextlib.suppress(nats.errors.Error):  # the caller will ask again, with the same id
                await request.respond(typed(_kind(request.subject), body))


async def _refuse(request: Request, problem: Problem, counted: Counted) -> None:
    counted.refused(problem)
    with contextlib.suppress(nats.errors.Error):  # as above
        await request.respond_error(
            str(problem.status), problem.detail or problem.title, data=msgspec.json.encode(problem)
        )


def _kind(subject: str) -> str:
    """`<service>.<name>` of a command's or a query's subject."""
    return subject.split(".", 2)[2]
